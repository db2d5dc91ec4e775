//! A tc program of somebody else, which counts packets and passes them on.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::net::Namespace;

/// Numbers of bpf(2)'s commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const OBJECT_PIN: libc::c_long = 6;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_ARRAY: u64 = 2;
const PROG_TYPE_SCHED_CLS: u64 = 3;
const TCX_INGRESS: u64 = 46;

/// Attached to an interface: by a TCX link until it is dropped, or by a filter that stays.
#[derive(Debug)]
pub struct Counter {
    map: OwnedFd,
    program: OwnedFd,
    _link: Option<OwnedFd>,
}

impl Counter {
    /// Counts what comes in by an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses it: before Linux 6.6 it has no TCX.
    pub fn on_ingress(ifindex: u32) -> Result<Self> {
        let counter = Self::new()?;
        let mut link = [raw(&counter.program) | u64::from(ifindex) << 32, TCX_INGRESS, 0, 0, 0, 0];
        let link = new_descriptor(LINK_CREATE, &mut link).context("a TCX link")?;
        Ok(Self { _link: Some(link), ..counter })
    }

    /// The same by a filter on a clsact qdisc that is there already.
    ///
    /// # Errors
    /// When the program cannot be handed to tc, or tc fails.
    pub fn filter_on_ingress(namespace: &Namespace, interface: &str) -> Result<Self> {
        let counter = Self::new()?;
        // tc takes programs from a bpffs, and covers /sys when it enters a namespace.
        let directory = tempfile::tempdir()?;
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
        let path = directory.path().join("counter");
        let added = pin(&counter.program, &path.to_string_lossy()).and_then(|()| {
            let filter = "ingress bpf direct-action object-pinned";
            namespace.tc(&format!("filter add dev {interface} {filter} {}", path.display()))
        });
        umount2(directory.path(), MntFlags::MNT_DETACH)?;
        added.map(|()| counter)
    }

    fn new() -> Result<Self> {
        // Key of 4 bytes, value of 8, one entry.
        let map = new_descriptor(MAP_CREATE, &mut [MAP_TYPE_ARRAY | 4 << 32, 8 | 1 << 32, 0, 0])?;
        let program = program(&map)?;
        Ok(Self { map, program, _link: None })
    }

    /// How many packets came so far.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn packets(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut lookup = [raw(&self.map), (&raw const key) as u64, (&raw mut value) as u64, 0];
        bpf(MAP_LOOKUP, &mut lookup)?;
        Ok(value)
    }
}

/// `lock *(u64 *)value += 1; return TCX_NEXT`
fn program(map: &OwnedFd) -> Result<OwnedFd> {
    let code: [u64; 6] = [
        // r1 = address of the map's value (BPF_PSEUDO_MAP_VALUE), in two words
        0x2118 | raw(map) << 32,
        0,
        // r2 = 1
        0x0000_0001_0000_02b7,
        // lock *(u64 *)(r1 + 0) += r2
        0x21db,
        // r0 = -1; exit
        0xffff_ffff_0000_00b7,
        0x95,
    ];
    let license = c"GPL";
    let instructions = code.len() as u64;
    let mut load = [
        PROG_TYPE_SCHED_CLS | instructions << 32,
        code.as_ptr() as u64,
        license.as_ptr() as u64,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    new_descriptor(PROG_LOAD, &mut load).context("a tc program that counts")
}

fn pin(program: &OwnedFd, path: &str) -> Result<()> {
    let path = CString::new(path)?;
    bpf(OBJECT_PIN, &mut [path.as_ptr() as u64, raw(program), 0]).map(drop)
}

fn raw(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd() as u64
}

fn new_descriptor(command: libc::c_long, attr: &mut [u64]) -> Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// bpf(2); `attr` is a prefix of `union bpf_attr`.
fn bpf(command: libc::c_long, attr: &mut [u64]) -> Result<libc::c_long> {
    // SAFETY: the pointer and size describe `attr`, which lives for the call, as do the buffers that it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("bpf({command})"));
    }
    Ok(result)
}
