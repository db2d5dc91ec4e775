//! The SYNs that this machine dropped last, which a RST that comes right after one is the answer to.
//!
//! Records of drops are limited, and a burst of refusals is above the limit with the first few: from here the end of
//! each refused connection takes what became of its SYN along. On one machine the SYN is dropped, the RST is taken and
//! the socket is closed on one CPU, so that each has its own table and nothing tears an entry. Where it is not so (RPS,
//! a socket that is locked by its process), nothing is found, and nothing is claimed.
//!
//! Cost: a write for each SYN that is dropped without its socket; a look-up for each attempt that the kernel ends.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netdiag_ebpf::records::{DroppedSyn, PacketInfo, Tuple};

use crate::kernel::{skb, sock};

/// A power of two.
const SLOTS: u32 = 256;
/// The answer comes at once, also through some namespaces of this machine.
const AT_ONCE_NS: u64 = 100_000_000;

const IPPROTO_TCP: u16 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// By the source port: NAT may make another destination of what was asked for.
#[map]
static DROPPED_SYNS: PerCpuArray<DroppedSyn> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Keeps the packet in `skb` in mind if it is a SYN.
///
/// # Safety
/// `skb` is the non-null argument of a tp_btf program, and `packet` was read from it.
#[inline(always)]
pub unsafe fn note(skb: *const c_void, packet: &PacketInfo, reason: u32) {
    if packet.tuple.protocol == IPPROTO_TCP && packet.flags & (SYN | RST | ACK) == SYN {
        write(skb, &packet.tuple, reason);
    }
}

#[inline(never)]
fn write(skb: *const c_void, tuple: &Tuple, reason: u32) {
    let netns = skb::netns(skb);
    if let Some(slot) = DROPPED_SYNS.get_ptr_mut(tuple.sport as u32 & (SLOTS - 1)) {
        // SAFETY: a per-CPU map value that the lookup returned; no arguments.
        unsafe { *slot = DroppedSyn { tuple: *tuple, time_ns: bpf_ktime_get_ns(), reason, netns } };
    }
}

/// Moves the SYN that was dropped last and came from the source of `own` into `to`, if that was since `start_ns` and
/// a moment ago.
#[inline(never)]
pub fn take(own: &Tuple, start_ns: u64, to: &mut DroppedSyn) {
    let Some(slot) = DROPPED_SYNS.get_ptr_mut(own.sport as u32 & (SLOTS - 1)) else { return };
    // SAFETY: a per-CPU map value that the lookup returned.
    let slot = unsafe { &mut *slot };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if slot.time_ns >= start_ns && now - slot.time_ns < AT_ONCE_NS && is_source(&slot.tuple, own) {
        *to = *slot;
        slot.time_ns = 0;
    }
}

/// Whether the packet has the source of the socket, whose addresses may be IPv4 mapped to IPv6.
#[inline(always)]
fn is_source(packet: &Tuple, own: &Tuple) -> bool {
    if packet.sport != own.sport {
        return false;
    }
    let (of_packet, of_own) = (&raw const packet.saddr, &raw const own.saddr);
    // SAFETY: addresses are 16 bytes, aligned to 8 (`records`).
    unsafe {
        if packet.family == own.family {
            let (left, right) = (of_packet.cast::<[u64; 2]>(), of_own.cast::<[u64; 2]>());
            return (*left)[0] == (*right)[0] && (*left)[1] == (*right)[1];
        }
        let (left, right) = (of_packet.cast::<[u32; 4]>(), of_own.cast::<[u32; 4]>());
        packet.family == sock::AF_INET && (*left)[0] == (*right)[3] && (*right)[2] == u32::from_be(0xffff)
    }
}
