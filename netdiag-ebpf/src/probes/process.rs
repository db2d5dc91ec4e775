//! Probe `process`: the process tree that `run` follows. Attached by `run` only.
//!
//! Hooks: `sched_process_fork`, `_exec`, `_free` (kernel/fork.c, fs/exec.c, kernel/exit.c), tp_btf. A child
//! of a followed process is followed, whatever session, namespace or program it moves to. An exec in another
//! network namespace is told to user space, which then attaches the tc programs there. `_free` rather than
//! `_exit`: that one comes before the exiting process' sockets are closed.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{ExecRecord, kind};

use crate::kernel::{load, task};
use crate::maps::{TRACKED, own_netns, send};

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const c_void = ctx.arg(0);
    let child: *const c_void = ctx.arg(1);
    // SAFETY: both are tp_btf arguments, never null in this tracepoint.
    let (from, to) = unsafe { (load::<u32>(parent, Field::TaskTgid), load::<u32>(child, Field::TaskTgid)) };
    if from != to && TRACKED.get_ptr(from).is_some() {
        let _ = TRACKED.insert(to, 1, 0);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    if TRACKED.get_ptr(task::tgid()).is_none() {
        return 0;
    }
    let netns = task::netns(task::current());
    if netns == 0 || netns == own_netns() {
        return 0;
    }
    let owner = task::owner(netns);
    send::<ExecRecord>(kind::EXEC, |record| {
        // SAFETY: reserved memory of the ring buffer.
        unsafe { (*record).owner = owner };
    });
    0
}

#[btf_tracepoint(function = "sched_process_free")]
pub fn sched_process_free(ctx: BtfTracePointContext) -> i32 {
    let task: *const c_void = ctx.arg(0);
    // SAFETY: the tp_btf argument, never null in this tracepoint.
    let (pid, tgid) = unsafe { (load::<u32>(task, Field::TaskPid), load::<u32>(task, Field::TaskTgid)) };
    if pid == tgid {
        let _ = TRACKED.remove(tgid);
    }
    0
}
