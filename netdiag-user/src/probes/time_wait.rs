use std::net::{IpAddr, SocketAddr};

use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner, time_wait_flag};

use super::{Owner, owner, read};
use crate::enrich::sockets::{Family, SocketInfo};

const KEY: usize = size_of::<TimeWaitKey>();

/// Who closed a connection first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub owner: Owner,
    /// A thread of the kernel did it: for the kernel itself, or for a process that is not known.
    pub by_kernel: bool,
}

/// The map's key of a socket that sock_diag shows; `netns` is an inode number.
pub(crate) fn key(netns: u64, socket: &SocketInfo) -> Option<[u8; KEY]> {
    let family = match socket.family {
        Family::Inet => libc::AF_INET,
        Family::Inet6 => libc::AF_INET6,
    };
    let mut key = [0; KEY];
    let mut put = |at: usize, bytes: &[u8]| key[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(family as u16).to_ne_bytes());
    put(2, &(libc::IPPROTO_TCP as u16).to_ne_bytes());
    put(4, &socket.local.port().to_ne_bytes());
    put(6, &socket.peer.port().to_ne_bytes());
    put(8, &address(socket.family, socket.local));
    put(24, &address(socket.family, socket.peer));
    put(40, &u32::try_from(netns).ok()?.to_ne_bytes());
    Some(key)
}

/// As the kernel's socket has it: IPv4 in the first four bytes, or mapped on an IPv6 socket.
fn address(family: Family, end: SocketAddr) -> [u8; 16] {
    match (end.ip(), family) {
        (IpAddr::V6(address), _) => address.octets(),
        (IpAddr::V4(address), Family::Inet6) => address.to_ipv6_mapped().octets(),
        (IpAddr::V4(address), Family::Inet) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
    }
}

/// `None` where no process is named.
pub(crate) fn decode(value: &[u8]) -> Option<Closed> {
    read(0, value, |raw: &TimeWaitOwner| {
        let by_kernel = raw.flags & time_wait_flag::KERNEL_THREAD != 0;
        Ok(owner(&raw.owner).map(|owner| Closed { time_ns: raw.closed_ns, owner, by_kernel }))
    })
    .ok()?
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use netdiag_ebpf::records::Tuple;

    use super::*;
    use crate::enrich::sockets::{Protocol, State};

    #[test]
    fn layout() {
        assert_eq!(offset_of!(TimeWaitKey, tuple), 0);
        assert_eq!((offset_of!(Tuple, family), offset_of!(Tuple, protocol)), (0, 2));
        assert_eq!((offset_of!(Tuple, sport), offset_of!(Tuple, dport)), (4, 6));
        assert_eq!((offset_of!(Tuple, saddr), offset_of!(Tuple, daddr)), (8, 24));
        assert_eq!(offset_of!(TimeWaitKey, netns), 40);
    }

    #[test]
    fn ipv4_on_an_ipv6_socket_is_mapped() {
        let mut socket = SocketInfo {
            local: "10.0.0.1:80".parse().unwrap(),
            peer: "10.0.0.2:4000".parse().unwrap(),
            ..SocketInfo::new(Family::Inet6, Protocol::Tcp, State::TimeWait)
        };
        let mapped = key(7, &socket).unwrap();
        assert_eq!(mapped[18..24], [0xff, 0xff, 10, 0, 0, 1]);
        socket.family = Family::Inet;
        let plain = key(7, &socket).unwrap();
        assert_eq!((&plain[8..12], &plain[12..24]), (&[10, 0, 0, 1][..], &[0; 12][..]));
        assert_eq!(key(u64::MAX, &socket), None);
    }

    #[test]
    fn a_value_without_a_process_is_none() {
        let mut value = [0; size_of::<TimeWaitOwner>()];
        assert_eq!(decode(&value), None);
        assert_eq!(decode(&value[1..]), None);
        value[offset_of!(TimeWaitOwner, owner)] = 77;
        value[offset_of!(TimeWaitOwner, flags)] = 1;
        value[32..36].copy_from_slice(b"curl");
        let closed = decode(&value).unwrap();
        assert_eq!((closed.owner.pid, closed.owner.comm.as_str(), closed.by_kernel), (77, "curl", true));
    }
}
