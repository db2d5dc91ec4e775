//! Network namespaces of this machine: how to find, name and enter them.
//!
//! A namespace is known by its inode number in nsfs, the number that `readlink /proc/self/ns/net` shows.
//! Namespaces that are kept alive only by a thread other than a process' first, by an open file or by a
//! mount outside `/run/netns` are not found.

mod listing;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::process::{self, pids};
pub use listing::Listing;

const NAMED: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// More namespaces than this are not listed: every one costs a thread and a few system calls to look into.
pub const MAX_NAMESPACES: usize = 256;

/// Where a namespace was found, and so how it can be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The namespace of the calling thread.
    Current,
    /// A name below `/run/netns`, as made by `ip netns add`.
    Named(String),
    /// The process that lives in it (thread group id).
    Process(u32),
}

/// A network namespace of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub inode: u64,
    pub source: Source,
}

/// The network namespaces of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub found: Vec<Namespace>,
    /// There may be others: [`MAX_NAMESPACES`] was reached, or some processes may not be looked into.
    pub incomplete: bool,
}

/// An open network namespace: it stays alive as long as this value does.
#[derive(Debug)]
pub struct NetnsHandle {
    inode: u64,
    file: File,
}

impl NetnsHandle {
    fn open(path: &str) -> Option<Self> {
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        // A name whose namespace was unmounted is an ordinary file.
        (metadata.dev() == nsfs_device()?).then(|| Self { inode: metadata.ino(), file })
    }

    /// Opens the namespace of a process.
    pub fn of_process(pid: u32) -> Option<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// Opens the namespace with this name below `/run/netns`.
    pub fn named(name: &str) -> Option<Self> {
        if name.is_empty() || name.contains('/') || name.starts_with("..") {
            return None;
        }
        Self::open(&format!("{NAMED}/{name}"))
    }

    /// The namespace's inode number.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// For requests that name the namespace by an open file; not to be closed.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Namespace {
    /// Opens it, unless it is gone or its process now lives in another one.
    pub fn open(&self) -> Option<NetnsHandle> {
        let handle = match &self.source {
            Source::Current => NetnsHandle::open(OWN),
            Source::Named(name) => NetnsHandle::named(name),
            Source::Process(pid) => NetnsHandle::of_process(*pid),
        }?;
        (handle.inode == self.inode).then_some(handle)
    }

    /// Its name below `/run/netns`, if it has one.
    pub fn name(&self) -> Option<String> {
        match &self.source {
            Source::Named(name) => Some(name.clone()),
            _ => name_of(self.inode),
        }
    }
}

fn nsfs_device() -> Option<u64> {
    fs::metadata(OWN).ok().map(|metadata| metadata.dev())
}

/// The inode number of the calling thread's network namespace.
pub fn current_inode() -> Option<u64> {
    fs::metadata(OWN).ok().map(|metadata| metadata.ino())
}

/// The inode number of a process' network namespace.
pub fn inode_of_process(pid: u32) -> Option<u64> {
    read_inode(pid).ok().flatten()
}

fn read_inode(pid: u32) -> io::Result<Option<u64>> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net"))?;
    let number = |text: &str| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok();
    Ok(link.to_str().and_then(number))
}

fn named() -> Vec<(String, u64)> {
    let (Some(device), Ok(entries)) = (nsfs_device(), fs::read_dir(NAMED)) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            (metadata.dev() == device).then(|| (name, metadata.ino()))
        })
        .collect();
    found.sort();
    found
}

/// The name below `/run/netns` of the namespace with this inode number.
pub fn name_of(inode: u64) -> Option<String> {
    named().into_iter().find(|(_, other)| *other == inode).map(|(name, _)| name)
}

/// The names below `/run/netns` as they were at the first question: [`name_of`] for many.
#[derive(Debug, Default)]
pub struct Names(OnceCell<HashMap<u64, String>>);

impl Names {
    /// The name of the namespace with this inode number.
    pub fn of(&self, inode: u64) -> Option<String> {
        let read = || named().into_iter().rev().map(|(name, inode)| (inode, name)).collect();
        self.0.get_or_init(read).get(&inode).cloned()
    }
}

/// Opens the namespace with this inode number: by name if it has one, else by a process that lives in it.
pub fn find(inode: u64) -> Option<NetnsHandle> {
    places(inode).find_map(|namespace| namespace.open())
}

/// Where [`find`] finds it.
pub fn locate(inode: u64) -> Option<Namespace> {
    places(inode).find(|namespace| namespace.open().is_some())
}

/// Where a namespace may be found, the cheapest first; processes are gone through only where the others do not do.
fn places(inode: u64) -> impl Iterator<Item = Namespace> {
    let current = (current_inode() == Some(inode)).then_some(Source::Current);
    let named = std::iter::once_with(move || name_of(inode).map(Source::Named)).flatten();
    let processes = std::iter::once_with(pids).flatten();
    let processes = processes.filter(move |pid| inode_of_process(*pid) == Some(inode)).map(Source::Process);
    current.into_iter().chain(named).chain(processes).map(move |source| Namespace { inode, source })
}

/// A container that lives in a namespace: its id, and a process of it to enter the namespace by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub id: String,
    pub pid: u32,
}

/// The container whose processes are in this namespace; `None` for one without, as that of the host.
pub fn container_of(inode: u64) -> Option<Container> {
    pids().filter(|pid| inode_of_process(*pid) == Some(inode)).find_map(|pid| {
        let id = process::read(pid)?.container?;
        Some(Container { id, pid })
    })
}

/// Lists the network namespaces, each once: the current one, those with a name, those of processes.
pub fn all() -> Namespaces {
    let current = current_inode().map(|inode| Namespace { inode, source: Source::Current });
    let named = named().into_iter().map(|(name, inode)| Namespace { inode, source: Source::Named(name) });
    let mut hidden = false;
    let processes = pids().filter_map(|pid| {
        let inode =
            read_inode(pid).inspect_err(|error| hidden |= error.kind() == ErrorKind::PermissionDenied);
        Some(Namespace { inode: inode.ok()??, source: Source::Process(pid) })
    });
    let mut namespaces = Namespaces::default();
    let mut seen = HashSet::new();
    for namespace in current.into_iter().chain(named).chain(processes) {
        if seen.contains(&namespace.inode) {
            continue;
        }
        if namespaces.found.len() == MAX_NAMESPACES {
            namespaces.incomplete = true;
            break;
        }
        seen.insert(namespace.inode);
        namespaces.found.push(namespace);
    }
    namespaces.incomplete |= hidden;
    namespaces
}

/// Runs `work` inside the namespace, on a thread of its own: the caller's namespace never changes.
///
/// Needs CAP_SYS_ADMIN, unless it is the caller's own namespace: then `work` runs right here.
pub fn enter<T: Send>(handle: &NetnsHandle, work: impl FnOnce() -> T + Send) -> Result<T, EnrichError> {
    if current_inode() == Some(handle.inode) {
        return Ok(work());
    }
    thread::scope(|scope| {
        let inside = || {
            setns(&handle.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| EnrichError::errno("enter network namespace", errno))?;
            Ok(work())
        };
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, inside)
            .map_err(|source| EnrichError::Io { what: "start a thread", source })?;
        thread.join().unwrap_or(Err(EnrichError::Panicked))
    })
}

/// [`enter`], or right here if no namespace is given.
pub fn within<T: Send>(
    netns: Option<&NetnsHandle>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, EnrichError> {
    match netns {
        Some(handle) => enter(handle, work),
        None => Ok(work()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn a_named_namespace_is_found_and_entered() {
        let netns = TestNetns::new();
        let handle = NetnsHandle::named(&netns.name).unwrap();
        let before = current_inode().unwrap();
        assert_ne!(handle.inode(), before);
        assert_eq!(name_of(handle.inode()).as_deref(), Some(netns.name.as_str()));
        assert_eq!(find(handle.inode()).unwrap().inode(), handle.inode());
        assert_eq!(enter(&handle, current_inode).unwrap(), Some(handle.inode()));
        assert_eq!(current_inode(), Some(before));

        let all = all();
        assert_eq!(all.found[0], Namespace { inode: before, source: Source::Current });
        let ours = all.found.iter().find(|namespace| namespace.inode == handle.inode()).unwrap();
        assert_eq!(ours.source, Source::Named(netns.name.clone()));
        assert_eq!(ours.name().as_deref(), Some(netns.name.as_str()));
        assert_eq!(ours.open().unwrap().inode(), handle.inode());
    }

    #[test]
    fn a_namespace_without_a_name_is_found_by_its_process() {
        let mut child = std::process::Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
        let inode = super::super::testing::wait_for(|| {
            inode_of_process(child.id()).filter(|inode| Some(*inode) != current_inode())
        });
        let found = find(inode).map(|handle| handle.inode());
        let listed = all().found.into_iter().find(|namespace| namespace.inode == inode);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(inode));
        assert_eq!(listed.unwrap().source, Source::Process(child.id()));
    }

    #[test]
    fn what_is_not_there_is_none() {
        assert!(find(1).is_none());
        assert!(name_of(1).is_none());
        assert!(NetnsHandle::named("no-such-namespace").is_none());
        assert!(NetnsHandle::named("../netns").is_none());
        assert!(NetnsHandle::of_process(u32::MAX).is_none());
        assert!(Namespace { inode: 1, source: Source::Current }.open().is_none());
    }

    #[test]
    fn a_panic_inside_is_an_error() {
        let netns = TestNetns::new();
        let handle = NetnsHandle::named(&netns.name).unwrap();
        let result: Result<(), _> = enter(&handle, || panic!("on purpose"));
        assert!(matches!(result, Err(EnrichError::Panicked)));
    }

    /// A control group that is named as Docker with systemd names that of a container.
    struct ContainerGroup(std::path::PathBuf);

    impl ContainerGroup {
        fn new(id: &str) -> Option<Self> {
            let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
            let mount = mounts.lines().find(|line| line.contains(" cgroup2 "))?.split(' ').nth(1)?;
            let group = std::path::Path::new(mount).join(format!("docker-{id}.scope"));
            fs::create_dir(&group).ok()?;
            Some(Self(group))
        }
    }

    impl Drop for ContainerGroup {
        fn drop(&mut self) {
            // A member that is just ending may still hold it.
            for _ in 0..100 {
                if fs::remove_dir(&self.0).is_ok() {
                    break;
                }
                thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn a_namespace_is_known_by_its_container() {
        let id = format!("{:064x}", 0xc0_0000_0000 + u64::from(std::process::id()));
        let Some(group) = ContainerGroup::new(&id) else {
            println!("SKIP: no cgroup2 that can be written");
            return;
        };
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        assert_eq!(container_of(inode), None);
        let command = ["netns", "exec", netns.name.as_str(), "sleep", "30"];
        let mut member = std::process::Command::new("ip").args(command).spawn().unwrap();
        let pid = member.id();
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut found = container_of(inode);
        while found.is_none() && std::time::Instant::now() < deadline {
            thread::sleep(std::time::Duration::from_millis(10));
            found = container_of(inode);
        }
        member.kill().unwrap();
        member.wait().unwrap();
        assert_eq!(found, Some(Container { id, pid }));
    }
}
