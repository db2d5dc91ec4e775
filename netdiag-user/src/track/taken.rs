//! The error of a socket whose application took it before a probe could read it.

use super::connection::Connection;
use super::timeline::{Moment, What};
use crate::probes::protocol;

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

    #[test]
    fn icmp_becomes_the_errno_of_the_kernel_s_table() {
        assert_eq!(icmp_errno(true, 3, 1), Some(libc::EHOSTUNREACH));
        assert_eq!(icmp_errno(true, 3, 0), Some(libc::ENETUNREACH));
        assert_eq!(icmp_errno(true, 3, 3), Some(libc::ECONNREFUSED));
        assert_eq!(icmp_errno(false, 1, 1), Some(libc::EACCES));
        assert_eq!(icmp_errno(false, 1, 4), Some(libc::ECONNREFUSED));
        assert_eq!(icmp_errno(true, 8, 0), None);
    }
}
