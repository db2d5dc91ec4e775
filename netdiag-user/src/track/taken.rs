//! The error of a socket whose application took it before a probe could read it.

use super::connection::Connection;
use super::timeline::{Moment, What};
use crate::probes::protocol;

/// An application that waits for the end of connect() is told at once.
const AT_ONCE_NS: u64 = 500_000_000;

/// The error that the kernel ended a connection with, from what led to it (tcp_reset, tcp_v4_err, tcp_v6_err).
pub(super) fn errno_of(connection: &Connection, timeline: &[Moment]) -> Option<i32> {
    timeline.iter().rev().find_map(|moment| match &moment.what {
        What::ResetReceived if connection.died_connecting() => Some(libc::ECONNREFUSED),
        What::ResetReceived => Some(libc::ECONNRESET),
        What::IcmpReceived { packet, .. } => icmp_errno(connection.peer.is_ipv4(), packet.flags, packet.code),
        What::IcmpSent { icmp_type, icmp_code, outgoing: true, .. } => {
            icmp_errno(true, *icmp_type, *icmp_code)
        }
        What::Dropped { outgoing: true, reason, .. }
            if connection.protocol == protocol::UDP && reason == "NO_SOCKET" =>
        {
            Some(libc::ECONNREFUSED)
        }
        _ => None,
    })
}

/// The ICMP error that a connecting socket noted and its application took. While connect() holds the socket the error does
/// not end it, but goes to `sk_err_soft` (tcp_v4_err, tcp_v6_err); `SO_ERROR` gives it and clears it (sk_getsockopt), and
/// the application closes. One that does not ask leaves it there.
pub(super) fn noted_errno_of(connection: &Connection, timeline: &[Moment]) -> Option<i32> {
    if !connection.died_connecting() || connection.soft_errno.is_some() || connection.closer.is_none() {
        return None;
    }
    let lately =
        |moment: &&Moment| (moment.time_ns..=moment.time_ns + AT_ONCE_NS).contains(&connection.end_ns);
    let is_icmp = |number| matches!(number, protocol::ICMP | protocol::ICMPV6);
    let mut lately = timeline.iter().rev().filter(lately);
    lately.find_map(|moment| match &moment.what {
        What::Dropped { packet, outgoing: false, .. } if is_icmp(packet.tuple.protocol) => Some(None),
        What::IcmpReceived { .. } | What::IcmpSent { outgoing: true, .. } => {
            Some(errno_of(connection, std::slice::from_ref(moment)))
        }
        _ => None,
    })?
}

/// What an ICMP error becomes for a connecting socket (net/ipv4/icmp.c icmp_err_convert, net/ipv6/icmp.c
/// tab_unreach).
fn icmp_errno(ipv4: bool, icmp_type: u8, icmp_code: u8) -> Option<i32> {
    match (ipv4, icmp_type, icmp_code) {
        (true, 3, 0 | 6 | 9 | 11) => Some(libc::ENETUNREACH),
        (true, 3, 2) => Some(libc::ENOPROTOOPT),
        (true, 3, 3) => Some(libc::ECONNREFUSED),
        (true, 3, 5) => Some(libc::EOPNOTSUPP),
        (true, 3, 7) => Some(libc::EHOSTDOWN),
        (true, 3, 8) => Some(libc::ENONET),
        // Path MTU discovery ends no connection.
        (true, 3, 4) => None,
        (true, 3 | 11, _) => Some(libc::EHOSTUNREACH),
        (false, 1, 0) => Some(libc::ENETUNREACH),
        (false, 1, 1 | 5 | 6) => Some(libc::EACCES),
        (false, 1, 4) => Some(libc::ECONNREFUSED),
        (false, 1 | 3, _) => Some(libc::EHOSTUNREACH),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Closer, TcpState, Tuple};
    use crate::track::{End, Place};

    #[test]
    fn icmp_becomes_the_errno_of_the_kernel_s_table() {
        assert_eq!(icmp_errno(true, 3, 1), Some(libc::EHOSTUNREACH));
        assert_eq!(icmp_errno(true, 3, 0), Some(libc::ENETUNREACH));
        assert_eq!(icmp_errno(true, 3, 3), Some(libc::ECONNREFUSED));
        assert_eq!(icmp_errno(false, 1, 1), Some(libc::EACCES));
        assert_eq!(icmp_errno(false, 1, 4), Some(libc::ECONNREFUSED));
        assert_eq!(icmp_errno(true, 8, 0), None);
        assert_eq!(icmp_errno(true, 3, 4), None);
    }

    #[test]
    fn an_error_that_was_noted_is_taken_by_who_closes_at_once() {
        let ends = ["10.0.0.1:40000", "10.0.0.2:80"].map(|end| end.parse().unwrap());
        let tuple = Tuple { protocol: protocol::TCP, source: ends[0], destination: ends[1] };
        let closed_after = |ms: u64| {
            let mut connection = Connection::of_flow(tuple, 1, ms * 1_000_000);
            connection.end = End::State { from: TcpState::SynSent, to: TcpState::Close };
            connection.closer = Some(Closer { pid: 1, uid: 0, comm: "curl".into(), exiting: false });
            connection
        };
        let what = What::IcmpSent { icmp_type: 3, icmp_code: 3, outgoing: true, place: Place::default() };
        let rejected = [Moment { time_ns: 0, what }];
        let at_once = closed_after(1);
        assert_eq!(noted_errno_of(&at_once, &rejected), Some(libc::ECONNREFUSED));
        assert_eq!(noted_errno_of(&at_once, &[]), None);
        assert_eq!(noted_errno_of(&closed_after(4000), &rejected), None);
        let left = Connection { soft_errno: Some(libc::ECONNREFUSED), ..closed_after(1) };
        assert_eq!(noted_errno_of(&left, &rejected), None);
        let nobody = Connection { closer: None, ..closed_after(1) };
        assert_eq!(noted_errno_of(&nobody, &rejected), None);
    }
}
