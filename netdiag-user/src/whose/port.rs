//! Who holds a port.

use super::{Held, Side};
use crate::enrich::listeners::accepts;
use crate::enrich::sockets::{Protocol, State};

/// Sockets of a port that no process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rest {
    pub time_wait: usize,
    /// Closed by their process and not at their end, or not accepted yet.
    pub closed: usize,
}

/// The sockets that stand in the way of others on this port: those that listen or are bound, and connections made
/// from it that a process holds. A listener comes with the number of connections that came to it.
pub fn stands(sockets: &[Held]) -> Vec<(&Held, Option<u32>)> {
    let mut found: Vec<&Held> = sockets.iter().filter(|held| stands_by_itself(held)).collect();
    found.sort_by_key(|held| {
        let socket = &held.socket;
        (socket.protocol as u8, socket.state != State::Listen, held.netns, socket.local, socket.peer)
    });
    found.into_iter().map(|held| (held, connections(held, sockets))).collect()
}

/// The others, where no process holds them.
pub fn rest(sockets: &[Held]) -> Rest {
    let time_wait = |held: &&Held| held.socket.state == State::TimeWait;
    let closed = |held: &&Held| {
        held.is_unowned() && held.socket.protocol == Protocol::Tcp && held.socket.state != State::TimeWait
    };
    Rest {
        time_wait: sockets.iter().filter(time_wait).count(),
        closed: sockets.iter().filter(closed).count(),
    }
}

fn stands_by_itself(held: &Held) -> bool {
    match held.side {
        Side::Unconnected => true,
        Side::Outbound => !held.is_unowned(),
        // Accepted, and its listener is there.
        Side::Inbound => false,
    }
}

fn connections(listener: &Held, sockets: &[Held]) -> Option<u32> {
    let own = &listener.socket;
    let came = |held: &&Held| {
        held.side == Side::Inbound
            && held.netns == listener.netns
            && held.socket.state != State::TimeWait
            && accepts(own.local.ip(), own.v6only, held.socket.local.ip())
    };
    (own.state == State::Listen).then(|| sockets.iter().filter(came).count() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::sockets::{Family, SocketInfo};

    fn held(state: State, side: Side, netns: u64, inode: u64) -> Held {
        let local = match side {
            Side::Unconnected => "0.0.0.0:80",
            _ => "10.0.0.1:80",
        };
        let socket = SocketInfo {
            inode,
            local: local.parse().unwrap(),
            ..SocketInfo::new(Family::Inet, Protocol::Tcp, state)
        };
        Held { netns, netns_name: None, socket, side, holders: Vec::new() }
    }

    #[test]
    fn a_listener_with_its_connections() {
        let all = [
            held(State::Established, Side::Inbound, 1, 4),
            held(State::Listen, Side::Unconnected, 1, 3),
            held(State::TimeWait, Side::Inbound, 1, 0),
            held(State::Established, Side::Inbound, 1, 0),
            held(State::Established, Side::Outbound, 2, 9),
            held(State::LastAck, Side::Outbound, 2, 0),
        ];
        let found = stands(&all);
        let shown: Vec<(u64, Option<u32>)> = found.iter().map(|(held, n)| (held.socket.inode, *n)).collect();
        assert_eq!(shown, [(3, Some(2)), (9, None)]);
        assert_eq!(rest(&all), Rest { time_wait: 1, closed: 2 });
    }
}
