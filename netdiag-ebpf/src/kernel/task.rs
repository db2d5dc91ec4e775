//! The current task. Call only where process context is certain: in softirq it is somebody else.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
};
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::Owner;

use super::{netns_inum, probe, probe_at, probe_pointer};

/// include/linux/sched.h: the task is in do_exit().
const PF_EXITING: u32 = 4;

/// Who runs now.
#[inline(always)]
pub fn owner(netns: u32) -> Owner {
    let id = bpf_get_current_pid_tgid();
    Owner {
        tgid: (id >> 32) as u32,
        tid: id as u32,
        uid: bpf_get_current_uid_gid() as u32,
        netns,
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        comm: bpf_get_current_comm().unwrap_or_default(),
    }
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
