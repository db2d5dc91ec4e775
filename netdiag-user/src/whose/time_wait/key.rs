//! What a socket in TIME_WAIT is found by on the kernel side.

use std::net::{IpAddr, SocketAddr};

use netdiag_ebpf::records::{TimeWaitKey, Tuple, address};

use crate::enrich::sockets::Family;
use crate::enrich::time_wait::TimeWait;
use crate::probes::ip;

/// `netns` is an inode number.
pub(super) fn key(netns: u64, socket: &TimeWait) -> Option<TimeWaitKey> {
    // As the kernel's socket has it: IPv4 on an IPv6 socket is mapped.
    let on_socket = |end: SocketAddr| match (end.ip(), socket.family) {
        (IpAddr::V4(ip), Family::Inet6) => address(IpAddr::V6(ip.to_ipv6_mapped())),
        (ip, _) => address(ip),
    };
    let family = match socket.family {
        Family::Inet => libc::AF_INET,
        Family::Inet6 => libc::AF_INET6,
    };
    let tuple = Tuple {
        family: family as u16,
        protocol: libc::IPPROTO_TCP as u16,
        sport: socket.local.port(),
        dport: socket.peer.port(),
        saddr: on_socket(socket.local),
        daddr: on_socket(socket.peer),
    };
    Some(TimeWaitKey { tuple, netns: u32::try_from(netns).ok()?, _pad: 0 })
}

/// The namespace and the socket of a key that [`key`] made; `None` for another.
pub(super) fn socket(key: &TimeWaitKey, cookie: u64) -> Option<(u64, TimeWait)> {
    let Tuple { family, saddr, daddr, sport, dport, .. } = key.tuple;
    let local = SocketAddr::new(ip(family, &saddr)?, sport);
    let peer = SocketAddr::new(ip(family, &daddr)?, dport);
    let family = if i32::from(family) == libc::AF_INET { Family::Inet } else { Family::Inet6 };
    Some((key.netns.into(), TimeWait { family, local, peer, cookie, timer_ms: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_on_an_ipv6_socket_is_mapped() {
        let one = TimeWait {
            family: Family::Inet6,
            local: "10.0.0.1:80".parse().unwrap(),
            peer: "10.0.0.2:4000".parse().unwrap(),
            cookie: 5,
            timer_ms: 0,
        };
        let mapped = key(7, &one).unwrap();
        assert_eq!(mapped.tuple.saddr[10..], [0xff, 0xff, 10, 0, 0, 1]);
        let plain = key(7, &TimeWait { family: Family::Inet, ..one }).unwrap();
        assert_eq!(plain.tuple.saddr, [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((plain.tuple.sport, plain.tuple.dport, plain.netns), (80, 4000, 7));
        assert_eq!(key(u64::MAX, &one), None);
        for one in [one, TimeWait { family: Family::Inet, ..one }] {
            assert_eq!(socket(&key(7, &one).unwrap(), 5), Some((7, one)));
        }
        let six =
            TimeWait { local: "[fd00::1]:80".parse().unwrap(), peer: "[fd00::2]:9".parse().unwrap(), ..one };
        assert_eq!(socket(&key(7, &six).unwrap(), 5), Some((7, six)));
    }
}
