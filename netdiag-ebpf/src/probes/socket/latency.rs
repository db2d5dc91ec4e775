//! How long connecting takes, and round-trip times: histograms for the agent, of all connections and without a record.
//!
//! Connecting is the time from SYN_SENT to ESTABLISHED, so what fails is not in it, nor a simultaneous open. With TCP
//! Fast Open it is that of the handshake too, for which the program does not wait. A socket in repair mode (CRIU) is
//! "established" at once. The round-trip time is the kernel's smoothed one at the moment that the connection leaves
//! ESTABLISHED, however it ends: the handshake alone gives one sample, which on a slow or busy peer is no typical
//! one. Both ends of a connection within this machine count.

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::histogram::{
    BOUNDS, CONNECT, HISTOGRAMS as NUMBER, Histogram, LOCAL, NETWORK, PLACES, ROUND_TRIP, place,
};
use netdiag_ebpf::records::socket_flag;

use crate::kernel::sock::{self, AF_INET};
use crate::kernel::{load, probe};
use crate::sockets;

#[map]
static HISTOGRAMS: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(NUMBER as u32, 0);

/// SYN_SENT -> ESTABLISHED.
#[inline(always)]
pub fn connected(sk: *const c_void) {
    // SAFETY: `sk` is the tp_btf argument.
    let Some(entry) = sockets::get(unsafe { sock::id(sk) }) else { return };
    if entry.flags & socket_flag::FROM_START == 0 {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let us = now.saturating_sub(entry.start_ns) / 1000;
    observe(CONNECT, sk, if us > u32::MAX as u64 { u32::MAX } else { us as u32 });
}

/// From ESTABLISHED to any other state.
#[inline(always)]
pub fn leaves(sk: *const c_void) {
    // Kept in eighths; 0: none was measured.
    match probe::<u32>(sk, Field::TcpSrtt) {
        None | Some(0) => {}
        Some(eighths) => observe(ROUND_TRIP, sk, eighths >> 3),
    }
}

#[inline(always)]
fn observe(which: usize, sk: *const c_void, us: u32) {
    let path = if is_local(sk) { LOCAL } else { NETWORK };
    let Some(histogram) = HISTOGRAMS.get_ptr_mut((which + path) as u32) else { return };
    // SAFETY: a per-CPU value; a program that interrupts another on this CPU may lose one count.
    let histogram = unsafe { &mut *histogram };
    histogram.sum_us += us as u64;
    // For the verifier, as in `maps::drop_action`.
    const { assert!(BOUNDS < PLACES && PLACES.is_power_of_two()) };
    histogram.counts[black_box(place(us)) & (PLACES - 1)] += 1;
}

/// Whether both ends have the same address, or the remote one is in 127.0.0.0/8.
#[inline(always)]
fn is_local(sk: *const c_void) -> bool {
    const LOOPBACK_NET: u8 = 127;
    // SAFETY: `sk` is the tp_btf argument.
    let (family, local, peer) = unsafe {
        (
            load::<u16>(sk, Field::SkFamily),
            load::<u32>(sk, Field::SkRcvSaddr),
            load::<u32>(sk, Field::SkDaddr),
        )
    };
    if family == AF_INET {
        return local == peer || peer.to_ne_bytes()[0] == LOOPBACK_NET;
    }
    let (Some(local), Some(peer)) =
        (probe::<[u8; 16]>(sk, Field::SkV6RcvSaddr), probe::<[u8; 16]>(sk, Field::SkV6Daddr))
    else {
        return false;
    };
    local == peer || sock::is_mapped(&peer) && peer[12] == LOOPBACK_NET
}
