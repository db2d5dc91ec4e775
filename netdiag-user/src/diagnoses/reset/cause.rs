//! Why a socket of this machine sent a RST in place of a FIN.

use crate::diagnoses::Evidence;
use crate::probes::{Closer, TcpState};
use crate::track::{Connection, End, Side, What};

/// In the order in which the kernel looks (net/ipv4/tcp.c __tcp_close): unread data, then SO_LINGER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// close() with this many bytes unread.
    Unread(u32),
    /// SO_LINGER with zero seconds.
    Linger,
    /// The process ended; bytes that it had not read.
    Exited(u32),
    /// It went from an established state to CLOSE at once, and what decides is not known or does not fit.
    Unknown,
}

/// `None`: it did not end that way.
pub(super) fn cause(connection: &Connection) -> Option<(Cause, Option<&Closer>)> {
    let End::State { from: from @ (TcpState::Established | TcpState::CloseWait), to: TcpState::Close } =
        connection.end
    else {
        return None;
    };
    if connection.errno.is_some() {
        return None;
    }
    // A FIN that arrived counts one.
    let fin = u32::from(from == TcpState::CloseWait);
    let unread = connection.tcp.unread.map(|unread| unread.saturating_sub(fin));
    let linger = match (connection.linger, connection.tcp.lingertime) {
        (Some(on), Some(time)) => Some(on && time == 0),
        (Some(false), None) => Some(false),
        _ => None,
    };
    let closer = connection.closer.as_ref();
    let exiting = closer.is_some_and(|closer| closer.exiting);
    let cause = match (unread, linger) {
        (Some(unread), _) if unread > 0 && exiting => Cause::Exited(unread),
        (Some(unread), _) if unread > 0 && closer.is_some() => Cause::Unread(unread),
        (Some(0), Some(true)) => Cause::Linger,
        // An exit alone says FIN: this connection stood in the accept queue of a listener.
        (Some(0), Some(false)) if exiting => Cause::Exited(0),
        _ => Cause::Unknown,
    };
    Some((cause, closer))
}

/// Whether a RST of the other end ended it while somebody could still lose something.
pub(super) fn got_reset(evidence: &Evidence) -> bool {
    let connection = &evidence.connection;
    let End::State { from, .. } = connection.end else { return false };
    if !connection.was_established() || !matches!(connection.errno, Some(libc::ECONNRESET | libc::EPIPE)) {
        return false;
    }
    match from {
        // Both sides have said that they are done.
        TcpState::LastAck | TcpState::Closing | TcpState::TimeWait => {
            connection.tcp.unacked.is_some_and(|n| n > 1)
        }
        // This side is done; most programs do not wait for more than they already had, nor for anything
        // where they said nothing.
        TcpState::FinWait1 | TcpState::FinWait2 => {
            let unanswered = connection.tcp.bytes_received == Some(0) && has_spoken(connection);
            unanswered || connection.tcp.unacked.is_some_and(|n| n > 1)
        }
        _ => true,
    }
}

/// Whether data of this side was acknowledged. The counter takes in the SYN of the side that connected, and
/// this side's FIN from FIN_WAIT2 on (net/ipv4/tcp_input.c tcp_snd_una_update).
fn has_spoken(connection: &Connection) -> bool {
    let fin = matches!(connection.end, End::State { from: TcpState::FinWait2, .. });
    let control = u64::from(connection.side == Side::Outbound) + u64::from(fin);
    connection.tcp.bytes_acked.is_none_or(|acked| acked > control)
}

/// Whether neither side ever sent data.
pub(super) fn said_nothing(connection: &Connection) -> bool {
    let tcp = &connection.tcp;
    tcp.bytes_received == Some(0) && tcp.unacked == Some(0) && !has_spoken(connection)
}

/// A listener that had no room reset it: `refused.backlog-overflow`.
pub(super) fn refused_by_listener(evidence: &Evidence) -> bool {
    let answered = evidence.timeline.iter().any(|moment| match &moment.what {
        What::ResetAnswered { state, reason, .. } => {
            *state == Some(TcpState::Listen) || reason.as_deref() == Some("TCP_LISTEN_OVERFLOW")
        }
        What::Dropped { reason, .. } => reason == "TCP_LISTEN_OVERFLOW",
        _ => false,
    });
    let aborts = (evidence.facts.peer_sysctls.get("net.ipv4.tcp_abort_on_overflow"))
        .is_some_and(|value| value.trim() == "1");
    answered || aborts && evidence.connection.tcp.bytes_received == Some(0) && evidence.other_end.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnoses::testing::Case;

    fn of(from: TcpState, change: impl FnOnce(&mut Connection)) -> Option<Cause> {
        let evidence = Case::ending(from, TcpState::Close).with(|e| change(&mut e.connection)).build();
        cause(&evidence.connection).map(|(cause, _)| cause)
    }

    fn exiting(connection: &mut Connection) {
        connection.closer = connection.closer.take().map(|closer| Closer { exiting: true, ..closer });
    }

    #[test]
    fn the_kernels_order() {
        let established = |change: fn(&mut Connection)| of(TcpState::Established, change);
        assert_eq!(established(|c| c.tcp.unread = Some(9)), Some(Cause::Unread(9)));
        assert_eq!(established(|c| (c.tcp.unread, c.linger) = (Some(9), Some(true))), Some(Cause::Unread(9)));
        assert_eq!(established(|c| c.linger = Some(true)), Some(Cause::Linger));
        assert_eq!(established(exiting), Some(Cause::Exited(0)));
        assert_eq!(established(|_| ()), Some(Cause::Unknown));
        assert_eq!(established(|c| c.tcp.unread = None), Some(Cause::Unknown));
        assert_eq!(established(|c| c.errno = Some(libc::ETIMEDOUT)), None);
    }

    #[test]
    fn nobody_waits_after_a_close_without_a_word() {
        let reset = |from, acked| {
            let case = Case::ending(from, TcpState::Close).errno(libc::ECONNRESET);
            got_reset(&case.tcp(|tcp| (tcp.bytes_received, tcp.bytes_acked) = (Some(0), Some(acked))).build())
        };
        assert!(!reset(TcpState::FinWait1, 1) && !reset(TcpState::FinWait2, 2));
        assert!(reset(TcpState::FinWait1, 2) && reset(TcpState::FinWait2, 3));
    }

    #[test]
    fn a_fin_is_no_data() {
        assert_eq!(of(TcpState::CloseWait, |c| c.tcp.unread = Some(1)), Some(Cause::Unknown));
        assert_eq!(of(TcpState::CloseWait, |c| c.tcp.unread = Some(2)), Some(Cause::Unread(1)));
        assert_eq!(of(TcpState::FinWait2, |c| c.tcp.unread = Some(2)), None);
    }
}
