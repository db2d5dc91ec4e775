//! Who may ask.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// More groups than this one process hardly has; of those beyond nothing is known.
const MAX_GROUPS: usize = 4096;

/// Whether the process at the other end is root's, or was in the group when it connected.
pub(super) fn may_ask(stream: &UnixStream, group: Option<u32>) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else { return false };
    if peer.uid() == 0 {
        return true;
    }
    group.is_some_and(|group| peer.gid() == group || groups(stream).contains(&group))
}

/// Supplementary groups of the process at the other end (SO_PEERGROUPS, Linux 4.13).
fn groups(stream: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut bytes = (MAX_GROUPS * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` to the vector, which is that long, and says how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let written = if result == 0 { bytes as usize / size_of::<u32>() } else { 0 };
    groups.truncate(written);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_this_process_are_those_of_the_other_end() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut own: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut found = groups(&one);
        own.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, own);
    }

    #[test]
    fn root_may_ask_and_others_in_the_group_alone() {
        let (one, _other) = UnixStream::pair().unwrap();
        let root = nix::unistd::getuid().is_root();
        assert_eq!(may_ask(&one, None), root);
        assert!(may_ask(&one, Some(nix::unistd::getgid().as_raw())));
    }
}
