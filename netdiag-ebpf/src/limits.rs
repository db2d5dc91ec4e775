//! How many records may be sent: a flood costs the machine and the ring buffer no more than these limits.
//!
//! A record counts in the bucket of its key (flow and cause, mostly), one of [`BUCKETS`] of its CPU. Keys that meet
//! in a bucket share it, so that no number of flows gets more than all buckets. Packets that no connection of
//! this machine is known to wait for are limited once more, all together.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netdiag_ebpf::config::LIMIT_BUCKETS as BUCKETS;
use netdiag_ebpf::records::LimitBucket;

/// Records of one bucket in one window.
const BURST: u32 = 10;
/// Records in one window of packets that nobody here is known to wait for.
const STRANGERS: u32 = 1024;
/// Length of the window, 2^29 ns (about half a second).
const WINDOW_SHIFT: u32 = 29;
/// Records in one window that carry the memory of stack frames, which makes them five times as large.
const FRAMES: u32 = 64;
/// Buckets behind the others: of all strangers, and of frames for strangers and for the others.
const STRANGERS_BUCKET: u32 = BUCKETS;
const FRAMES_BUCKET: u32 = BUCKETS + 1;
/// Errors of sockets have buckets of their own: each is a failure that somebody saw, and a flood of packets must not hide
/// it.
const ERRORS_FIRST: u32 = BUCKETS + 3;
/// log2 of how many.
const ERRORS_BITS: u32 = 10;

#[map]
static LIMITS: PerCpuArray<LimitBucket> = PerCpuArray::with_max_entries(ERRORS_FIRST + (1 << ERRORS_BITS), 0);

/// Whether a record of this flow and cause may be sent now; `Some(n)`: yes, and n were suppressed before it.
#[inline(always)]
pub fn permit(key: u32) -> Option<u32> {
    take(key & (BUCKETS - 1), key, BURST, window_now())
}

/// As [`permit`], for the error of a socket. Clients of one port differ in theirs: every bit of the key counts.
#[inline(always)]
pub fn permit_error(key: u32) -> bool {
    let hash = key.wrapping_mul(0x9E37_79B1) >> (32 - ERRORS_BITS);
    take(ERRORS_FIRST + hash, key, BURST, window_now()).is_some()
}

/// As [`permit`], for packets that no connection of this machine is known to wait for.
#[inline(always)]
pub fn permit_stranger(key: u32) -> Option<u32> {
    let window = window_now();
    let suppressed = take(key & (BUCKETS - 1), key, BURST, window)?;
    if take(STRANGERS_BUCKET, 0, STRANGERS, window).is_none() {
        give_back(key, suppressed + 1);
        return None;
    }
    Some(suppressed)
}

/// The record is not sent after all: those before it, and itself, are still to be told.
#[inline(always)]
fn give_back(key: u32, suppressed: u32) {
    if let Some(bucket) = LIMITS.get_ptr_mut(key & (BUCKETS - 1)) {
        // SAFETY: as in `take`.
        unsafe { (*bucket).suppressed = suppressed };
    }
}

/// Whether a record that is permitted may be a large one.
#[inline(always)]
pub fn permit_frames(stranger: bool) -> bool {
    take(FRAMES_BUCKET + stranger as u32, 0, FRAMES, window_now()).is_some()
}

#[inline(always)]
fn window_now() -> u32 {
    // SAFETY: no arguments. (Tracing programs may not ask for the coarse clock.)
    (unsafe { bpf_ktime_get_ns() } >> WINDOW_SHIFT) as u32
}

#[inline(always)]
fn take(index: u32, key: u32, burst: u32, window: u32) -> Option<u32> {
    let bucket = LIMITS.get_ptr_mut(index)?;
    // SAFETY: a per-CPU map value that the lookup returned; at worst an interrupting program bends one count.
    let bucket = unsafe { &mut *bucket };
    let suppressed = if bucket.key == key { bucket.suppressed } else { 0 };
    if bucket.window != window {
        *bucket = LimitBucket { key, window, sent: 1, suppressed: 0 };
        return Some(suppressed);
    }
    bucket.key = key;
    if bucket.sent >= burst {
        bucket.suppressed = suppressed + 1;
        return None;
    }
    bucket.sent += 1;
    bucket.suppressed = 0;
    Some(suppressed)
}
