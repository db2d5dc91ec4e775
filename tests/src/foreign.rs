//! A tc program of somebody else, which counts packets and passes them on.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bpf::{self, Kind, call, new_descriptor, raw};
use crate::net::Namespace;

/// Numbers of bpf(2)'s commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const OBJECT_PIN: libc::c_long = 6;
const MAP_TYPE_ARRAY: u64 = 2;
pub const TCX_INGRESS: u64 = 46;

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
        let link = bpf::link_to_interface(&counter.program, ifindex, TCX_INGRESS).context("a TCX link")?;
        Ok(Self { _link: Some(link), ..counter })
    }

    /// The same by a filter on a clsact qdisc that is there already.
    ///
    /// # Errors
    /// When the program cannot be handed to tc, or tc fails.
    pub fn filter_on_ingress(namespace: &Namespace, interface: &str) -> Result<Self> {
        let counter = Self::new()?;
        add_filter(namespace, interface, "ingress", &counter.program)?;
        Ok(counter)
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
        call(MAP_LOOKUP, &mut lookup)?;
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
    bpf::load(Kind::SchedCls, 0, *b"counter\0", &code).context("a tc program that counts")
}

/// Adds a program as a filter on a clsact qdisc that is there already. `direction`: `ingress` or `egress`.
///
/// # Errors
/// When the program cannot be handed to tc, or tc fails.
pub fn add_filter(namespace: &Namespace, interface: &str, direction: &str, program: &OwnedFd) -> Result<()> {
    // tc takes programs from a bpffs, and covers /sys when it enters a namespace.
    let directory = tempfile::tempdir()?;
    mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
    let path = directory.path().join("program");
    let added = pin(program, &path.to_string_lossy()).and_then(|()| {
        let filter = format!("{direction} bpf direct-action object-pinned");
        namespace.tc(&format!("filter add dev {interface} {filter} {}", path.display()))
    });
    umount2(directory.path(), MntFlags::MNT_DETACH)?;
    added
}

fn pin(program: &OwnedFd, path: &str) -> Result<()> {
    let path = CString::new(path)?;
    call(OBJECT_PIN, &mut [path.as_ptr() as u64, raw(program), 0]).map(drop)
}
