//! What probes `icmp` and `reset` have in common: a packet that this machine answers.

use core::ffi::c_void;

use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::records::PacketInfo;

use crate::kernel::skb;
use crate::limits::permit;
use crate::maps::count;

/// The packet and its place, if a record of its flow and `cause` may be sent now. `sk`: the socket that it
/// belongs to, if it is known.
///
/// # Safety
/// `packet` is the non-null `struct sk_buff *` argument of a tp_btf program.
#[inline(always)]
pub unsafe fn answered(
    packet: *const c_void,
    sk: Option<*const c_void>,
    cause: u32,
    info: &mut PacketInfo,
) -> bool {
    // SAFETY: the caller's contract.
    if !unsafe { skb::parse(packet, info) } {
        count(Counter::Unparsed);
        return false;
    }
    if permit(skb::flow_key(info, cause)).is_none() {
        count(Counter::OtherLimited);
        return false;
    }
    skb::place(packet, sk, info);
    true
}
