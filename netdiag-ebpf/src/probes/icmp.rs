//! Probe `icmp`: ICMP errors that this machine sends.
//!
//! Hook: `icmp_send` (net/ipv4/icmp.c), tp_btf, 5.19; IPv4 only, `icmp6_send` has no tracepoint. It names the
//! host of this machine (a router in another network namespace, say) that told a client "unreachable".

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::records::{IcmpRecord, PacketInfo, kind};

use crate::answer::answered;
use crate::kernel::skb;
use crate::maps::send;

const ICMP_REDIRECT: u32 = 5;

#[btf_tracepoint(function = "icmp_send")]
pub fn icmp_send(ctx: BtfTracePointContext) -> i32 {
    let packet_skb: *const c_void = ctx.arg(0);
    let icmp_type = ctx.arg::<u32>(1);
    let icmp_code = ctx.arg::<u32>(2);
    if icmp_type == ICMP_REDIRECT {
        return 0;
    }
    let mut packet = PacketInfo::default();
    // SAFETY: the tp_btf argument, which is never null in this tracepoint.
    let answered = unsafe {
        let sk = skb::socket(packet_skb);
        answered(packet_skb, sk, icmp_type << 8 | icmp_code, &mut packet)
    };
    if !answered {
        return 0;
    }
    send::<IcmpRecord>(kind::ICMP_SENT, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.packet = packet;
        record.icmp_type = icmp_type;
        record.icmp_code = icmp_code;
    });
    0
}
