//! What all causes of `unreachable` ask first: how it failed, and what belongs to the connection's own namespace.

use std::net::IpAddr;
use std::time::Duration;

use crate::diagnoses::{Evidence, words};
use crate::enrich::links::Link;
use crate::enrich::routes::{Route, RouteAnswer};
use crate::probes::{Call, TcpState};
use crate::track::{End, Place, What};

/// An error of a call that waited was found out on the way, not in the routing tables.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How a connection failed, as far as this symptom goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The call failed at once, without a packet.
    Call { errno: i32, connect: bool },
    /// It ended in SYN_SENT; `None` where the application stopped waiting.
    Connecting(Option<i32>),
    /// It was established, and the network lost it.
    Established(Option<i32>),
    /// A datagram socket got an error.
    Datagram(i32),
}

/// Errors that ICMP or the neighbour table gives to a socket (net/ipv4/icmp.c `icmp_err_convert`,
/// net/ipv6/icmp.c `tab_unreach`).
const LATE_ERRORS: &[i32] = &[
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::ENOPROTOOPT,
    libc::EACCES,
    libc::ENETDOWN,
];

impl Failure {
    /// `None`: it did not fail, or with something that is no business of this symptom.
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        let connection = &evidence.connection;
        let errno = connection.errno;
        let late = errno.is_some_and(|e| LATE_ERRORS.contains(&e));
        let expired = late || errno == Some(libc::ETIMEDOUT);
        match connection.end {
            End::CallFailed { call: Call::Bind } => None,
            End::CallFailed { call } => {
                let errno = errno?;
                let connect = call == Call::Connect;
                match connection.duration() < AT_ONCE {
                    true => Some(Self::Call { errno, connect }),
                    false => expired.then_some(Self::Connecting(Some(errno))),
                }
            }
            End::State { from: TcpState::SynSent, .. } => {
                (errno.is_none() || expired).then_some(Self::Connecting(errno))
            }
            End::State { to: TcpState::FinWait1, .. } => Some(Self::Established(errno)),
            End::State { .. } if connection.was_established() => expired.then_some(Self::Established(errno)),
            End::State { .. } => None,
            End::SocketError => {
                errno.or(connection.soft_errno).filter(|e| LATE_ERRORS.contains(e)).map(Self::Datagram)
            }
        }
    }

    /// Whether a call failed at once with this error.
    pub(super) fn is_call(self, wanted: &[i32]) -> bool {
        matches!(self, Self::Call { errno, .. } if wanted.contains(&errno))
    }

    /// The error that came after the packet had left; of an application that stopped waiting, the one that the
    /// kernel had noted.
    pub(super) fn late_errno(self, evidence: &Evidence) -> Option<i32> {
        match self {
            Self::Call { errno, connect: false } => Some(errno),
            Self::Call { .. } => None,
            Self::Datagram(errno) => Some(errno),
            Self::Connecting(errno) | Self::Established(errno) => {
                errno.filter(|e| *e != libc::ETIMEDOUT).or(evidence.connection.soft_errno)
            }
        }
    }

    /// Whether a packet was tried, and long enough for the network to fail.
    pub(super) fn waited(self, evidence: &Evidence) -> bool {
        match self {
            Self::Call { connect, .. } => !connect,
            Self::Connecting(None) => evidence.connection.duration() >= Duration::from_secs(1),
            _ => true,
        }
    }
}

/// "no route to host (EHOSTUNREACH)", "timed out after 5.0 s".
pub(super) fn headline(evidence: &Evidence, failure: Failure) -> String {
    let errno = match failure {
        Failure::Call { errno, .. } | Failure::Datagram(errno) => errno,
        Failure::Connecting(errno) | Failure::Established(errno) => match errno {
            Some(errno) if errno != libc::ETIMEDOUT => errno,
            _ => return words::how_it_ended(evidence),
        },
    };
    let name = words::errno_name(errno);
    let text = match errno {
        libc::ENETUNREACH => "network is unreachable",
        libc::EHOSTUNREACH => "no route to host",
        libc::EACCES => "permission denied",
        libc::EINVAL => "invalid argument",
        libc::ENETDOWN => "network is down",
        libc::EADDRNOTAVAIL => "cannot assign requested address",
        _ => "failed",
    };
    match failure {
        Failure::Connecting(_) | Failure::Established(_) => {
            format!("{text} ({name}) after {}", words::duration(evidence.connection.duration()))
        }
        _ => format!("{text} ({name})"),
    }
}

/// The connection's own namespace.
pub(super) fn own_place(evidence: &Evidence, interface: Option<String>) -> Place {
    Place { netns: evidence.connection.netns, netns_name: own_name(evidence).map(str::to_owned), interface }
}

fn own_name(evidence: &Evidence) -> Option<&str> {
    evidence.facts.netns.as_ref()?.name.as_deref()
}

/// `ip netns exec NAME ` for the connection's own namespace.
pub(super) fn own_prefix(evidence: &Evidence) -> String {
    words::in_netns(own_name(evidence))
}

/// Whether something happened in another namespace of this machine.
pub(super) fn elsewhere(evidence: &Evidence, place: &Place) -> bool {
    place.netns != 0 && place.netns != evidence.connection.netns
}

/// The address that is to be reached, IPv4 where it is a mapped one.
pub(super) fn peer(evidence: &Evidence) -> IpAddr {
    evidence.connection.peer.ip().to_canonical()
}

/// The route as it is now, where there is one that leads somewhere.
pub(super) fn working_route(evidence: &Evidence) -> Option<&Route> {
    match evidence.facts.route.as_ref()? {
        RouteAnswer::Route(route) => Some(route),
        RouteAnswer::Failed { .. } => None,
    }
}

/// What the lookup says for an established connection that cannot send any more: its data goes unanswered, and now the
/// lookup fails. A packet without a route leaves no drop (net/ipv4/ip_output.c `__ip_queue_xmit` frees a copy), in IPv6 a
/// soft error (net/ipv6/inet6_connection_sock.c `inet6_csk_xmit`).
pub(super) fn stuck(evidence: &Evidence, failure: Failure) -> Option<&RouteAnswer> {
    let tcp = &evidence.connection.tcp;
    let some = |count: Option<u8>| count.is_some_and(|count| count > 0);
    let silent = matches!(failure, Failure::Established(None | Some(libc::ETIMEDOUT)))
        && tcp.unacked.is_some_and(|bytes| bytes > 0)
        && (some(tcp.retransmits) || some(tcp.probes_out));
    let late = failure.late_errno(evidence);
    evidence.facts.route.as_ref().filter(|answer| {
        silent
            && matches!(answer, RouteAnswer::Failed { errno, .. } if late.is_none_or(|late| late == *errno))
    })
}

/// The address whose hardware address is needed: the gateway, or the destination.
pub(super) fn next_hop(evidence: &Evidence) -> Option<IpAddr> {
    working_route(evidence).map(|route| route.gateway.unwrap_or_else(|| peer(evidence)))
}

pub(super) fn link(evidence: &Evidence, ifindex: u32) -> Option<&Link> {
    evidence.facts.links.as_ref()?.iter().find(|link| link.ifindex == ifindex)
}

/// Interface of the route as it is now.
pub(super) fn route_link(evidence: &Evidence) -> Option<&Link> {
    link(evidence, working_route(evidence)?.oif?)
}

/// An interface that is down, and whose own network holds the destination.
pub(super) fn down_link_of_destination(evidence: &Evidence) -> Option<&Link> {
    let peer = peer(evidence);
    evidence
        .facts
        .links
        .as_ref()?
        .iter()
        .find(|link| !usable(link) && link.addresses.iter().any(|prefix| contains(*prefix, peer)))
}

/// Up, and not known to be without a carrier.
pub(super) fn usable(link: &Link) -> bool {
    link.up && link.carrier != Some(false)
}

fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let (difference, width) = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32u32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    difference.checked_shr(width - u32::from(prefix).min(width)).unwrap_or(0) == 0
}

/// Whether the kernel's own lookup for a packet of this connection failed so: in its own namespace, or with
/// `forwarded` in that of a router on this machine.
pub(super) fn lookup_failed(evidence: &Evidence, wanted: &[i32], in_router: bool) -> bool {
    let peer = peer(evidence);
    evidence.timeline.iter().any(|moment| {
        matches!(&moment.what, What::RouteFailed { errno, forwarded, tuple, .. }
            if *forwarded == in_router && wanted.contains(errno)
                && tuple.destination.ip().to_canonical() == peer)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, connecting};
    use super::*;
    use crate::diagnoses::testing::Case;

    #[test]
    fn prefixes() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(
            contains((ip("10.1.2.3"), 24), ip("10.1.2.77"))
                && !contains((ip("10.1.2.3"), 24), ip("10.1.3.1"))
        );
        assert!(
            contains((ip("10.0.0.1"), 0), ip("192.0.2.1")) && contains((ip("fd00::1"), 64), ip("fd00::9"))
        );
        assert!(
            !contains((ip("fd00::1"), 64), ip("fd01::9")) && !contains((ip("fd00::1"), 0), ip("10.0.0.1"))
        );
    }

    #[test]
    fn healthy_ends_are_no_failures() {
        for (from, to) in [
            (TcpState::FinWait2, TcpState::Close),
            (TcpState::LastAck, TcpState::Close),
            (TcpState::Established, TcpState::Close),
        ] {
            assert_eq!(Failure::of(&Case::ending(from, to).build()), None);
        }
        assert_eq!(Failure::of(&connecting(libc::ECONNREFUSED).build()), None);
    }

    #[test]
    fn a_call_that_waited_was_no_routing_error() {
        let at_once = call(libc::EHOSTUNREACH).build();
        assert!(Failure::of(&at_once).unwrap().is_call(&[libc::EHOSTUNREACH]));
        let late = call(libc::EHOSTUNREACH).lasted(3000).build();
        assert_eq!(Failure::of(&late), Some(Failure::Connecting(Some(libc::EHOSTUNREACH))));
    }
}
