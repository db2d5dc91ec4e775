//! Which processes hold a socket open.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::rc::Rc;

use nix::dir::Dir;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::Mode;

use super::process::{self, Process, pids};

/// More holders of one socket than this are not listed: a server may share its listener with hundreds of
/// workers.
pub const MAX_HOLDERS: usize = 64;

/// Finds the processes that hold sockets with these inode numbers, in one pass over `/proc/*/fd`.
///
/// A socket without an entry has no holder that this program may see: it is in TIME_WAIT, was closed, is
/// held only by the kernel, or by a process of another pid namespace. Inode 0 is no socket.
pub fn owners_of(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Process>> {
    owners_among(inodes, pids())
}

/// The same, but only these processes are looked at.
pub fn owners_among(
    inodes: &HashSet<u64>,
    pids: impl IntoIterator<Item = u32>,
) -> HashMap<u64, Vec<Process>> {
    let shared = shared_among(inodes, pids);
    let copied = |list: Vec<Rc<Process>>| list.iter().map(|process| Process::clone(process)).collect();
    shared.into_iter().map(|(inode, list)| (inode, copied(list))).collect()
}

/// As [`owners_of`] for very many sockets: each process once.
pub fn shared_owners_of(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Rc<Process>>> {
    shared_among(inodes, pids())
}

fn shared_among(
    inodes: &HashSet<u64>,
    pids: impl IntoIterator<Item = u32>,
) -> HashMap<u64, Vec<Rc<Process>>> {
    let mut owners: HashMap<u64, Vec<Rc<Process>>> = HashMap::new();
    if inodes.iter().all(|inode| *inode == 0) {
        return owners;
    }
    for pid in pids {
        let held = held_by(pid, inodes);
        if held.is_empty() {
            continue;
        }
        let Some(process) = process::read(pid).map(Rc::new) else { continue };
        for inode in held {
            let list = owners.entry(inode).or_default();
            if list.len() < MAX_HOLDERS {
                list.push(Rc::clone(&process));
            }
        }
    }
    owners
}

fn held_by(pid: u32, wanted: &HashSet<u64>) -> HashSet<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut files) = Dir::open(format!("/proc/{pid}/fd").as_str(), flags, Mode::empty()) else {
        return HashSet::new();
    };
    // Names are looked up from the directory: a path through /proc takes twice as long.
    let names: Vec<_> = files.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    let targets = names.iter().filter_map(|name| readlinkat(&files, name.as_c_str()).ok());
    targets.filter_map(|target| socket_inode(&target)).filter(|inode| wanted.contains(inode)).collect()
}

/// `socket:[INODE]` (net/socket.c, `sockfs_dname`).
fn socket_inode(target: &OsStr) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_holder_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let again = listener.try_clone().unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", again.as_raw_fd())).unwrap();
        let inode = socket_inode(link.as_os_str()).unwrap();
        let stdin = Stdio::from(listener.as_fd().try_clone_to_owned().unwrap());
        let mut child = Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();

        let owners = owners_of(&HashSet::from([0, 1, inode]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(owners.len(), 1);
        // A child that another test is just starting may hold it too, until it executes its program.
        for pid in [std::process::id(), child.id()] {
            assert_eq!(owners[&inode].iter().filter(|process| process.pid == pid).count(), 1, "{owners:?}");
        }
        assert!(owners_of(&HashSet::new()).is_empty());
    }
}
