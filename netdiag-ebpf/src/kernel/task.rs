//! The current task. Call only where process context is certain: in softirq it is somebody else.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::Owner;

use super::{load, netns_inum, probe, probe_at, probe_pointer};
use crate::maps::offset;

/// include/linux/sched.h: the task is in do_exit().
const PF_EXITING: u32 = 4;
/// The same: a thread of the kernel's own.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Writes who runs now, in place and by plain loads: every connect() pays for it, and each helper's return costs
/// some ten nanoseconds where returns are guarded against speculation.
#[inline(always)]
pub fn write_owner(netns: u32, to: &mut Owner) {
    let task = current();
    // SAFETY: BTF-typed pointers of the running task, which are never null while it runs.
    unsafe {
        to.tgid = load(task, Field::TaskTgid);
        to.tid = load(task, Field::TaskPid);
        // As two words: compilers load bytes one by one.
        let comm = task.cast::<u8>().add(offset(Field::TaskComm) as usize).cast::<u64>();
        let to_comm = (&raw mut to.comm).cast::<u64>();
        to_comm.write(comm.read_volatile());
        to_comm.add(1).write(comm.add(1).read_volatile());
        to.netns = netns;
        to.uid = match pointer(task, Field::TaskCred) {
            Some(cred) => load(cred, Field::CredUid),
            None => 0,
        };
        to.cgroup = cgroup(task);
    }
}

/// Id of the task's cgroup in the unified hierarchy, as bpf_get_current_cgroup_id gives it; 0 where unknown.
///
/// # Safety
/// `task` is the current task, with its BTF type.
#[inline(always)]
unsafe fn cgroup(task: *const c_void) -> u64 {
    // SAFETY: each step is BTF-typed and checked.
    unsafe {
        let Some(set) = pointer(task, Field::TaskCgroups) else { return 0 };
        let Some(cgroup) = pointer(set, Field::CssSetDflCgrp) else { return 0 };
        let Some(node) = pointer(cgroup, Field::CgroupKn) else { return 0 };
        load(node, Field::KernfsNodeId)
    }
}

/// Loads a pointer that the verifier may take for null.
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn pointer(base: *const c_void, field: Field) -> Option<*const c_void> {
    // SAFETY: the caller's contract.
    let pointer: *const c_void = unsafe { load(base, field) };
    (!pointer.is_null()).then_some(pointer)
}

/// Who runs now.
#[inline(always)]
pub fn owner(netns: u32) -> Owner {
    let mut owner = Owner::default();
    write_owner(netns, &mut owner);
    owner
}

#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
pub fn current() -> *const c_void {
    // SAFETY: no arguments; never null.
    unsafe { bpf_get_current_task_btf() as *const c_void }
}

#[inline(always)]
pub fn is_exiting() -> bool {
    probe::<u32>(current(), Field::TaskFlags).is_some_and(|flags| flags & PF_EXITING != 0)
}

#[inline(always)]
pub fn is_kernel_thread() -> bool {
    probe::<u32>(current(), Field::TaskFlags).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// Network namespace of a task, 0 where unknown (a task without nsproxy is past its exit).
#[inline(always)]
pub fn netns(task: *const c_void) -> u32 {
    probe_pointer(task, Field::TaskNsproxy)
        .and_then(|proxy| probe_pointer(proxy, Field::NsproxyNet))
        .map_or(0, netns_inum)
}

/// The `struct sock` behind a file descriptor of the current task. Trusts that `fd` is a socket: callers
/// come from a socket system call that did not fail with ENOTSOCK.
#[inline(always)]
pub fn socket_of_fd(fd: u32) -> Option<*const c_void> {
    let files = probe_pointer(current(), Field::TaskFiles)?;
    let table = probe_pointer(files, Field::FilesFdt)?;
    if fd >= probe::<u32>(table, Field::FdtMaxFds)? {
        return None;
    }
    let array = probe_pointer(table, Field::FdtFd)?;
    let file: u64 = probe_at(array, fd as usize * 8)?;
    let socket = probe_pointer(file as *const c_void, Field::FilePrivate)?;
    probe_pointer(socket, Field::SocketSk)
}
