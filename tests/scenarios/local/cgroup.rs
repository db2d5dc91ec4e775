//! A control group with a BPF program, as a container runtime or security agent has it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use netdiag_tests::bpf::{self, Kind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// Attach types, include/uapi/linux/bpf.h.
pub const INET_INGRESS: u64 = 0;
pub const INET_EGRESS: u64 = 1;
pub const INET4_CONNECT: u64 = 10;
pub const INET6_CONNECT: u64 = 11;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Gone, with its program, when it is dropped.
#[derive(Debug)]
pub struct Forbidding {
    link: Option<OwnedFd>,
    directory: PathBuf,
    mounted: TempDir,
}

impl Forbidding {
    /// A new group below the root of the unified hierarchy that may not connect(); nobody is in it yet.
    pub fn new(attach_type: u64) -> Result<Self> {
        Self::by(&forbidding(attach_type)?, attach_type)
    }

    /// The same with this program.
    pub fn by(program: &OwnedFd, attach_type: u64) -> Result<Self> {
        let mounted = tempfile::tempdir()?;
        mount(Some("none"), mounted.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .context("mounting cgroup2")?;
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let directory = mounted.path().join(format!("nd-{}-{count}", std::process::id()));
        let mut group = Self { link: None, directory, mounted };
        std::fs::create_dir(&group.directory)?;
        let opened = File::open(&group.directory)?;
        group.link = Some(bpf::link_to_group(program, &opened, attach_type)?);
        Ok(group)
    }

    /// Its name, below the root.
    pub fn name(&self) -> String {
        self.directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
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

/// A program that answers no.
fn forbidding(attach_type: u64) -> Result<OwnedFd> {
    // r0 = 0 (refuse, with EPERM); exit
    bpf::load(Kind::CgroupSockAddr, attach_type, *b"forbid\0\0", &[0xb7, 0x95])
}
