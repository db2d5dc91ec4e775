//! bpf(2), as far as programs of others need it that scenarios attach.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// Numbers of bpf(2)'s commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const XDP: u64 = 37;

/// `enum bpf_prog_type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    SchedCls = 3,
    Xdp = 6,
    CgroupSkb = 8,
    CgroupSockAddr = 18,
}

/// Loads a program. `attach_type`: what it expects to be attached as; 0 where that does not matter.
///
/// # Errors
/// When the kernel refuses it.
pub fn load(kind: Kind, attach_type: u64, name: [u8; 8], code: &[u64]) -> Result<OwnedFd> {
    let license = c"GPL";
    // prog_type and insn_cnt, insns, license, log, version and flags, name, ifindex and expected_attach_type
    let mut load = [0_u64; 9];
    load[0] = kind as u64 | (code.len() as u64) << 32;
    load[1] = code.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    load[6] = u64::from_le_bytes(name);
    load[8] = attach_type << 32;
    new_descriptor(PROG_LOAD, &mut load).context("loading a program")
}

/// Attaches a program to an interface of the calling thread's namespace, by TCX (6.6) or as XDP.
///
/// # Errors
/// When the kernel refuses it.
pub fn link_to_interface(program: &OwnedFd, ifindex: u32, attach_type: u64) -> Result<OwnedFd> {
    new_descriptor(LINK_CREATE, &mut [raw(program) | u64::from(ifindex) << 32, attach_type, 0, 0, 0, 0])
        .context("attaching a program to an interface")
}

/// As generic XDP: after the driver, which need not know of XDP.
///
/// # Errors
/// When the kernel refuses it.
pub fn link_as_generic_xdp(program: &OwnedFd, ifindex: u32) -> Result<OwnedFd> {
    /// `XDP_FLAGS_SKB_MODE`, include/uapi/linux/if_link.h
    const GENERIC: u64 = 2;
    link_to_interface(program, ifindex, XDP | GENERIC << 32)
}

/// Attaches a program to a control group.
///
/// # Errors
/// When the kernel refuses it.
pub fn link_to_group(program: &OwnedFd, group: &File, attach_type: u64) -> Result<OwnedFd> {
    let both = raw(program) | (group.as_raw_fd() as u64) << 32;
    new_descriptor(LINK_CREATE, &mut [both, attach_type, 0, 0, 0, 0])
        .context("attaching a program to a control group")
}

pub(crate) fn raw(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd() as u64
}

pub(crate) fn new_descriptor(command: libc::c_long, attr: &mut [u64]) -> Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: these commands return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// bpf(2); `attr` is a prefix of `union bpf_attr`.
pub(crate) fn call(command: libc::c_long, attr: &mut [u64]) -> Result<libc::c_long> {
    // SAFETY: the pointer and size describe `attr`, which lives for the call, as do the buffers that it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("bpf({command})"));
    }
    Ok(result)
}
