//! Programs of control groups (the unified hierarchy) that see the packets of their members' sockets.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Spot;
use super::bpf::{AttachType, BpfProgram, EFFECTIVE, attached};

/// include/uapi/linux/mount.h
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
/// include/linux/exportfs.h, `FILEID_KERNFS`: the handle is the group's id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// Whose control group it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// The group itself, by the id that the kernel gives it.
    Group(u64),
    /// The group of a process.
    Process(u32),
}

/// Programs that packets of the group's sockets meet. `None` if the group cannot be found.
pub(super) fn programs(spot: Spot, member: Member) -> Option<Vec<BpfProgram>> {
    let kind = match spot {
        Spot::CgroupIngress => AttachType::CgroupIngress,
        _ => AttachType::CgroupEgress,
    };
    let root = Root::mount()?;
    let (group, path) = root.find(member)?;
    let effective = attached(number(&group), kind, EFFECTIVE)?;
    let groups: Vec<(PathBuf, Vec<u32>)> = path
        .ancestors()
        .filter_map(|path| {
            let group = root.open(path)?;
            Some((path.to_owned(), attached(number(&group), kind, 0)?))
        })
        .collect();
    let at = |id: u32| {
        let found = groups.iter().find(|(_, programs)| programs.contains(&id));
        let path = found.map_or(path.as_path(), |(path, _)| path);
        format!("control group {}", path.display())
    };
    Some(effective.into_iter().map(|id| BpfProgram::new(id, at(id))).collect())
}

fn number(file: &File) -> u32 {
    file.as_raw_fd().cast_unsigned()
}

/// The hierarchy, mounted for nobody else to see (Linux 5.2), so that it does not matter where it is mounted.
struct Root(File);

impl Root {
    fn mount() -> Option<Self> {
        let context = descriptor(libc::SYS_fsopen, [c"cgroup2".as_ptr() as libc::c_long, 0, 0])?;
        let raw = libc::c_long::from(context.as_raw_fd());
        // SAFETY: the command takes the descriptor and no pointers.
        let made =
            unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, 0_usize, 0_usize, 0) };
        if made < 0 {
            return None;
        }
        let mount = descriptor(libc::SYS_fsmount, [raw, 0, 0])?;
        // A handle is opened by a file of the mount, for which the mount's own descriptor does not pass.
        File::open(format!("/proc/self/fd/{}/", mount.as_raw_fd())).ok().map(Self)
    }

    fn find(&self, member: Member) -> Option<(File, PathBuf)> {
        match member {
            Member::Process(pid) => {
                let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
                let path = PathBuf::from(text.lines().find_map(|line| line.strip_prefix("0::"))?);
                Some((self.open(&path)?, path))
            }
            Member::Group(id) => {
                let group = self.open_by_id(id)?;
                let path = fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd())).ok()?;
                Some((group, path))
            }
        }
    }

    /// `path`: absolute, within the hierarchy.
    fn open(&self, path: &Path) -> Option<File> {
        let relative = path.strip_prefix("/").ok()?;
        File::open(Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(relative)).ok()
    }

    fn open_by_id(&self, id: u64) -> Option<File> {
        /// `struct file_handle` with the eight bytes that kernfs has.
        #[repr(C)]
        struct Handle {
            bytes: libc::c_uint,
            kind: libc::c_int,
            id: u64,
        }
        let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
        let (mount, flags) = (self.0.as_raw_fd(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        // SAFETY: the handle is as long as it says and lives for the call.
        let opened: RawFd = unsafe { libc::open_by_handle_at(mount, (&raw mut handle).cast(), flags) };
        // SAFETY: a new descriptor that nobody else has.
        let group = (opened >= 0).then(|| unsafe { File::from_raw_fd(opened) })?;
        (group.metadata().ok()?.ino() == id).then_some(group)
    }
}

fn descriptor(call: libc::c_long, [first, second, third]: [libc::c_long; 3]) -> Option<OwnedFd> {
    // SAFETY: fsopen takes a name that is static, fsmount a descriptor.
    let raw = unsafe { libc::syscall(call, first, second, third) };
    // SAFETY: both return a new descriptor that nobody else has.
    (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_group_are_the_same() {
        let Some(root) = Root::mount() else {
            println!("SKIP: no cgroup2");
            return;
        };
        let (group, path) = root.find(Member::Process(std::process::id())).unwrap();
        let id = group.metadata().unwrap().ino();
        assert_eq!(root.find(Member::Group(id)).unwrap().1, path);
        assert!(root.find(Member::Group(u64::MAX)).is_none());
        assert!(programs(Spot::CgroupEgress, Member::Group(id)).is_some());
    }
}
