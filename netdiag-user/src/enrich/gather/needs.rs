//! Which facts a failure calls for.

use crate::enrich::facts::LISTENERS;
use crate::probes::{Call, TcpState};
use crate::track::{Connection, End};

/// Which sockets stand in the way of a local address or port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InTheWay {
    /// Those that hold the local address and port that was asked for.
    OfLocal,
    /// Those to the same peer, which take one port each.
    OfPeer,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Interfaces and their addresses.
    pub(super) links: bool,
    /// Route to the peer and the next hop's neighbour entry.
    pub(super) path: bool,
    /// Where on this machine the peer is, what listens there, and its settings.
    pub(super) peer: bool,
    /// Settings of the connection's own namespace.
    pub(super) settings: bool,
    pub(super) in_the_way: Option<InTheWay>,
}

const NOTHING: Needs = Needs { links: false, path: false, peer: false, settings: false, in_the_way: None };
const PEER: Needs = Needs { peer: true, ..NOTHING };
const WAY: Needs = Needs { links: true, path: true, peer: true, settings: true, in_the_way: None };
const ADDRESS: Needs = Needs { links: true, settings: true, ..NOTHING };
const SETTINGS: Needs = Needs { settings: true, ..NOTHING };
const HOLDERS: Needs = Needs { settings: true, in_the_way: Some(InTheWay::OfLocal), ..NOTHING };
/// connect() fails with EADDRNOTAVAIL for want of a port, or (IPv6) of a source address.
const PORTS: Needs = Needs { peer: false, in_the_way: Some(InTheWay::OfPeer), ..WAY };

impl Needs {
    pub(super) fn of(connection: &Connection) -> Self {
        use TcpState::{CloseWait, Established, FinWait1, SynRecv, SynSent};
        match (&connection.end, connection.errno) {
            (_, Some(libc::EADDRINUSE)) => HOLDERS,
            (End::CallFailed { call: Call::Bind }, Some(libc::EADDRNOTAVAIL | libc::EINVAL)) => ADDRESS,
            (End::CallFailed { call: Call::Bind }, _) => SETTINGS,
            (_, Some(libc::EADDRNOTAVAIL)) => PORTS,
            (End::CallFailed { .. } | End::SocketError, _) => WAY,
            (End::State { from: SynSent | SynRecv, .. }, _) => WAY,
            (End::State { .. }, Some(libc::ECONNRESET | libc::EPIPE)) => PEER,
            (End::State { .. }, Some(_)) => WAY,
            // Orphans that the peer did not answer, or reset.
            (End::State { from: FinWait1, .. } | End::State { to: FinWait1, .. }, None) => WAY,
            (End::State { .. }, None) if unanswered(connection) => WAY,
            // This end cut it off.
            (End::State { from: Established | CloseWait, .. }, None) => PEER,
            (End::State { .. }, None) => NOTHING,
        }
    }

    /// As [`Facts::not_looked_up`] names them.
    ///
    /// [`Facts::not_looked_up`]: crate::enrich::facts::Facts::not_looked_up
    pub(super) fn names(self) -> Vec<String> {
        let all = [
            (self.peer, LISTENERS),
            (self.path, "route"),
            (self.links, "links"),
            (self.settings, "settings"),
            (self.in_the_way.is_some(), "holders"),
        ];
        all.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name.to_owned()).collect()
    }

    /// Whether the facts depend on the local port.
    pub(super) fn local_port(self) -> bool {
        self.in_the_way == Some(InTheWay::OfLocal)
    }

    /// Whether something is to be looked up in the connection's own namespace.
    pub(super) fn own_namespace(self) -> bool {
        self.links || self.path || self.settings || self.in_the_way.is_some()
    }
}

/// Whether it was retransmitting or probing when it ended.
fn unanswered(connection: &Connection) -> bool {
    let some = |count: Option<u8>| count.is_some_and(|count| count > 0);
    some(connection.tcp.retransmits) || some(connection.tcp.probes_out)
}

#[cfg(test)]
mod tests {
    use super::super::tests::connection;
    use super::*;

    #[test]
    fn by_symptom() {
        let needs = |end: End, errno: Option<i32>| {
            Needs::of(&Connection { end, errno, ..connection(1, "10.0.2.2:80") })
        };
        let state = |from, to| End::State { from, to };
        let call = |call| End::CallFailed { call };
        use TcpState::*;
        assert_eq!(needs(state(SynSent, Close), Some(libc::ETIMEDOUT)), WAY);
        assert_eq!(needs(state(SynSent, Close), None), WAY);
        assert_eq!(needs(state(SynSent, Close), Some(libc::EADDRNOTAVAIL)), PORTS);
        assert_eq!(needs(call(Call::Connect), Some(libc::EADDRNOTAVAIL)), PORTS);
        assert_eq!(needs(call(Call::Connect), Some(libc::ENETUNREACH)), WAY);
        assert_eq!(needs(call(Call::Bind), Some(libc::EADDRNOTAVAIL)), ADDRESS);
        assert_eq!(needs(call(Call::Bind), Some(libc::EACCES)), SETTINGS);
        assert_eq!(needs(call(Call::Bind), Some(libc::EADDRINUSE)), HOLDERS);
        assert_eq!(needs(state(Listen, Close), Some(libc::EADDRINUSE)), HOLDERS);
        assert_eq!(needs(End::SocketError, Some(libc::ECONNREFUSED)), WAY);
        assert_eq!(needs(state(Established, Close), Some(libc::ECONNRESET)), PEER);
        assert_eq!(needs(state(Established, Close), Some(libc::ETIMEDOUT)), WAY);
        assert_eq!(needs(state(Established, Close), None), PEER);
        assert_eq!(needs(state(Established, FinWait1), None), WAY);
        for from in [FinWait2, LastAck, Closing] {
            assert_eq!(needs(state(from, Close), None), NOTHING);
        }
    }

    #[test]
    fn an_orphan_that_was_retransmitting() {
        let mut connection = connection(1, "10.0.2.2:80");
        connection.errno = None;
        connection.end = End::State { from: TcpState::LastAck, to: TcpState::Close };
        assert_eq!(Needs::of(&connection), NOTHING);
        connection.tcp.retransmits = Some(3);
        assert_eq!(Needs::of(&connection), WAY);
    }
}
