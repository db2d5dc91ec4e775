//! Events that a program did not see because it was at work on that processor: the kernel does not let a tracing program
//! interrupt itself (kernel/trace/bpf_trace.c, `__bpf_trace_run`). A timer that strikes while the program runs for
//! another packet is such an event. The kernel counts them.

use std::os::fd::{AsFd, AsRawFd};

use aya::programs::Program;

/// bpf(2), include/uapi/linux/bpf.h
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Where `struct bpf_prog_info` has `recursion_misses` (5.12), and where that ends.
const AT: usize = 208;
const LENGTH: usize = AT + 8;

/// `info` of `union bpf_attr`.
#[repr(C)]
struct Ask {
    fd: u32,
    length: u32,
    info: u64,
}

/// How often this program was passed over. 0 where it is not loaded, or the kernel does not count.
pub(super) fn of(program: &Program) -> u64 {
    let Ok(fd) = program.fd() else { return 0 };
    let mut info = [0_u64; LENGTH / 8];
    let mut ask = Ask {
        fd: fd.as_fd().as_raw_fd().cast_unsigned(),
        length: LENGTH as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: pointer and size describe `ask`, which lives for the call, as does `info`, of whose length it tells.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut ask, size_of::<Ask>()) };
    if result < 0 || (ask.length as usize) < LENGTH { 0 } else { info[AT / 8] }
}
