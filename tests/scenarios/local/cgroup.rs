//! A control group whose BPF program forbids connect(), as a container runtime or security agent has it.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// bpf(2) commands and attach types, include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u64 = 18;
pub const INET4_CONNECT: u64 = 10;
pub const INET6_CONNECT: u64 = 11;

/// Gone, with its program, when it is dropped.
#[derive(Debug)]
pub struct Forbidding {
    link: Option<OwnedFd>,
    directory: PathBuf,
    mounted: TempDir,
}

impl Forbidding {
    /// A new group below the root of the unified hierarchy; nobody is in it yet.
    pub fn new(attach_type: u64) -> Result<Self> {
        let mounted = tempfile::tempdir()?;
        mount(Some("none"), mounted.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .context("mounting cgroup2")?;
        let directory = mounted.path().join(format!("nd-{}-{attach_type}", std::process::id()));
        let mut group = Self { link: None, directory, mounted };
        std::fs::create_dir(&group.directory)?;
        let opened = File::open(&group.directory)?;
        group.link = Some(forbid(&opened, attach_type)?);
        Ok(group)
    }

    /// The command, as a member of this group.
    pub fn with(&self, command: &[String]) -> Vec<String> {
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"".to_owned();
        let head = ["sh".to_owned(), "-c".to_owned(), script, self.directory.display().to_string()];
        head.into_iter().chain(command.iter().cloned()).collect()
    }
}

impl Drop for Forbidding {
    fn drop(&mut self) {
        drop(self.link.take());
        // A member that is just ending may still hold it.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = umount2(self.mounted.path(), MntFlags::MNT_DETACH);
    }
}

/// A program that answers no, linked to the group.
fn forbid(group: &File, attach_type: u64) -> Result<OwnedFd> {
    // r0 = 0 (refuse, with EPERM); exit
    let code: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    // prog_type and insn_cnt, insns, license, log, version and flags, name, ifindex and expected_attach_type
    let mut load = [0_u64; 9];
    load[0] = BPF_PROG_TYPE_CGROUP_SOCK_ADDR | 2 << 32;
    load[1] = code.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    load[6] = u64::from_le_bytes(*b"forbid\0\0");
    load[8] = attach_type << 32;
    let program = bpf(BPF_PROG_LOAD, &mut load)?;
    let both = descriptor(program.as_raw_fd())? | descriptor(group.as_raw_fd())? << 32;
    bpf(BPF_LINK_CREATE, &mut [both, attach_type, 0, 0, 0, 0])
}

fn descriptor(fd: RawFd) -> Result<u64> {
    Ok(u64::try_from(fd)?)
}

fn bpf(command: libc::c_long, attr: &mut [u64]) -> Result<OwnedFd> {
    // SAFETY: the pointer and size describe `attr`, which lives for the call, as do the buffers that it
    // points to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    ensure!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    // SAFETY: both commands used here return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}
