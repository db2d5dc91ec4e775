//! The SYNs that this machine dropped last, which a RST that comes right after one is the answer to.
//!
//! Records of drops are limited, and a burst of refusals is above the limit with the first few: from here the end of
//! each refused connection takes what became of its SYN along.
//!
//! Trap: the RST may be taken on another CPU than the SYN was dropped on (RPS, a process that moves while it has its
//! socket locked). So one table serves all, and an entry that two wrote at once is known by its sum.
//!
//! Cost: a write for each SYN that is dropped without its socket; a look-up for each attempt that the kernel ends.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use netdiag_ebpf::records::{DroppedSyn, PacketInfo, Tuple};

use crate::kernel::{skb, sock};

/// A power of two.
const SLOTS: u32 = 1024;
/// The answer comes at once, also through some namespaces of this machine.
const AT_ONCE_NS: u64 = 100_000_000;

const IPPROTO_TCP: u16 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    syn: DroppedSyn,
    /// Over `syn`.
    sum: u64,
}

/// By the source port: NAT may make another destination of what was asked for.
#[map]
static DROPPED_SYNS: Array<Slot> = Array::with_max_entries(SLOTS, 0);

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
        // SAFETY: no arguments.
        let time_ns = unsafe { bpf_ktime_get_ns() };
        let syn = DroppedSyn { tuple: *tuple, time_ns, reason, netns };
        // SAFETY: a live map value; who reads half of it sees that by the sum.
        unsafe { *slot = Slot { syn, sum: sum(&syn) } };
    }
}

/// Moves the SYN that was dropped last and came from the source of `own` into `to`, if that was since `start_ns` and
/// a moment ago.
#[inline(never)]
pub fn take(own: &Tuple, start_ns: u64, to: &mut DroppedSyn) {
    let Some(slot) = DROPPED_SYNS.get_ptr_mut(own.sport as u32 & (SLOTS - 1)) else { return };
    // SAFETY: a live map value, all integers.
    let Slot { syn, sum: expected } = unsafe { *slot };
    // SAFETY: no arguments.
    let age_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(syn.time_ns);
    let is_recent = syn.time_ns >= start_ns && age_ns < AT_ONCE_NS;
    if is_recent && is_source(&syn.tuple, own) && sum(&syn) == expected {
        *to = syn;
        // SAFETY: as above: the sum is wrong from now on.
        unsafe { (*slot).syn.time_ns = 0 };
    }
}

#[inline(always)]
fn sum(syn: &DroppedSyn) -> u64 {
    const WORDS: usize = size_of::<DroppedSyn>() / 8;
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let words = (&raw const *syn).cast::<u64>();
    let (mut sum, mut word) = (0u64, 0);
    while word < WORDS {
        // SAFETY: in bounds, and aligned (`records`): it begins with a tuple.
        sum = (sum ^ unsafe { words.add(word).read() }).wrapping_mul(SPREAD).rotate_left(29);
        word += 1;
    }
    sum
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
