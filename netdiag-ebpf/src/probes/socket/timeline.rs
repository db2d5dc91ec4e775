//! The timeline of a socket in trouble: begun at its first step, sent along with the end of the connection.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::records::{STEPS, SocketEntry, Step, Timeline, socket_flag};

use crate::maps::{TIMELINES, count};

static EMPTY_TIMELINE: Timeline = Timeline {
    start_ns: 0,
    count: 0,
    _pad: 0,
    steps: [Step { offset_us: 0, kind: 0, _pad: 0, code: 0, detail: 0 }; STEPS],
};

/// Appends a step to the socket's timeline, which begins with the first.
#[inline(always)]
pub fn add_step(sk: *const c_void, entry: &mut SocketEntry, kind: u8, code: u16, detail: u32) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let key = sk as u64;
    if entry.flags & socket_flag::TIMELINE == 0 {
        #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would not fit the stack")]
        let inserted = TIMELINES.insert(key, &EMPTY_TIMELINE, 0);
        if inserted.is_err() {
            count(Counter::LostTimeline);
            return;
        }
        entry.flags |= socket_flag::TIMELINE;
    }
    let Some(timeline) = TIMELINES.get_ptr_mut(key) else {
        count(Counter::LostTimeline);
        return;
    };
    // SAFETY: a live map value.
    let timeline = unsafe { &mut *timeline };
    if timeline.start_ns == 0 {
        timeline.start_ns = entry.start_ns;
    }
    let index = timeline.count as usize;
    // Bound first, then count: the verifier of 6.12 loses the bound of a number that it knows to saturate.
    if index >= STEPS {
        timeline.count = timeline.count.saturating_add(1);
        count(Counter::LostStep);
        return;
    }
    timeline.count += 1;
    let offset_us = now.saturating_sub(entry.start_ns) / 1000;
    let offset_us = if offset_us > u32::MAX as u64 { u32::MAX } else { offset_us as u32 };
    timeline.steps[index] = Step { offset_us, kind, _pad: 0, code, detail };
}

/// Copies the socket's timeline, or an empty one.
#[inline(always)]
pub fn copy(sk: *const c_void, entry: &SocketEntry, to: &mut Timeline) {
    let timeline = if entry.flags & socket_flag::TIMELINE != 0 { TIMELINES.get_ptr(sk as u64) } else { None };
    let source = timeline.unwrap_or(&raw const EMPTY_TIMELINE);
    // SAFETY: both are as large as a Timeline; the copy through the helper keeps the program short.
    unsafe {
        bpf_probe_read_kernel((&raw mut *to).cast(), size_of::<Timeline>() as u32, source.cast());
    }
}
