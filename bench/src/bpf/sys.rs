//! bpf(2) and perf_event_open(2), as far as attaching an empty program needs them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

/// `r0 = N; exit`, N as the hook wants it.
fn instructions(result: i32) -> [u64; 2] {
    [u64::from(result.cast_unsigned()) << 32 | 0xb7, 0x95]
}

fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a whole bpf_attr; the buffers that it points to live in the callers until this returns.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<bpf_attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the commands used here return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain integers; all zero is a valid value of each of its members.
    unsafe { std::mem::zeroed() }
}

/// Loads a program that only returns `result`. `btf_id`: of the tracepoint's type, for tp_btf.
pub fn load(kind: bpf_prog_type, attach: Option<(bpf_attach_type, u32)>, result: i32) -> io::Result<OwnedFd> {
    let code = instructions(result);
    let mut attr = zeroed();
    // SAFETY: writing a member of a zeroed union of plain integers, and this is the command's own member.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insn_cnt = code.len() as u32;
    load.insns = code.as_ptr() as u64;
    load.license = c"GPL".as_ptr() as u64;
    for (target, byte) in load.prog_name.iter_mut().zip(b"empty") {
        *target = *byte as libc::c_char;
    }
    if let Some((attach_type, btf_id)) = attach {
        load.expected_attach_type = attach_type as u32;
        load.attach_btf_id = btf_id;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &attr)
}

/// Attaches a tp_btf program, which knows its tracepoint.
pub fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &attr)
}

/// Attaches a tc program to an interface of the calling thread's network namespace.
pub fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, direction: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: as in `load`.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    link.__bindgen_anon_2.target_ifindex = ifindex;
    link.attach_type = direction as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &attr)
}

/// First version of `perf_event_attr` (64 bytes, include/uapi/linux/perf_event.h), and zero to the end.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

mod request {
    nix::ioctl_none!(enable, b'$', 0);
    nix::ioctl_write_int!(set_bpf, b'$', 8);
}

/// Opens a classic tracepoint by its number and lets `program` run there; like every program of a tracepoint,
/// it runs on all CPUs.
pub fn attach_tracepoint(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: id,
        sample_period: 1,
        wakeup_events: 1,
        ..PerfEventAttr::default()
    };
    // SAFETY: `attr` is a perf_event_attr of the size that it states; pid -1 and CPU 0: all processes there.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: PERF_EVENT_IOC_SET_BPF takes the program's descriptor, PERF_EVENT_IOC_ENABLE nothing.
    unsafe {
        request::set_bpf(event.as_raw_fd(), program.as_raw_fd() as libc::c_ulong)?;
        request::enable(event.as_raw_fd())?;
    }
    Ok(event)
}
