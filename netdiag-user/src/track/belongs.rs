//! Which events belong to a connection.

use std::net::IpAddr;
use std::time::Duration;

use super::connection::{Connection, End};
use super::timeline::{Moment, What};
use crate::probes::{Drop, Event, RouteFailed, Tuple};

/// Which events belong to a connection.
pub(super) struct Belongs<'a> {
    connection: &'a Connection,
    sock: u64,
    tuple: Tuple,
    reversed: Tuple,
    from_ns: u64,
}

impl<'a> Belongs<'a> {
    pub(super) fn new(connection: &'a Connection, sock: u64) -> Self {
        let tuple = connection.tuple();
        // A failed call has no length: what led to it was just before.
        let slack = Duration::from_millis(if matches!(connection.end, End::State { .. }) { 1 } else { 50 });
        let from_ns = connection.start_ns.saturating_sub(slack.as_nanos() as u64);
        Self { connection, sock, tuple, reversed: tuple.reversed(), from_ns }
    }

    fn is_flow(&self, tuple: &Tuple) -> bool {
        *tuple == self.tuple || *tuple == self.reversed
    }

    /// A packet with our addresses and ports that another socket sent: another namespace may use the same.
    fn is_anothers(&self, drop: &Drop) -> bool {
        let sent_here = drop.packet.iif == 0 && drop.packet.tuple == self.tuple;
        sent_here && drop.sock != 0 && self.sock != 0 && drop.sock != self.sock
    }

    pub(super) fn has(&self, event: &Event) -> bool {
        match event {
            Event::Drop(d) => {
                d.time_ns >= self.from_ns
                    && (self.is_flow(&d.packet.tuple) && !self.is_anothers(d)
                        // Before it had a port. The memory of a closed socket is used again at once.
                        || d.sock != 0
                            && d.sock == self.sock
                            && d.time_ns <= self.connection.end_ns
                            && d.packet.netns == self.connection.netns
                            && d.packet.tuple.destination == self.connection.peer)
            }
            Event::Wire(w) => {
                w.time_ns >= self.from_ns && self.is_flow(w.quoted.as_ref().unwrap_or(&w.packet.tuple))
            }
            Event::IcmpSent(i) => i.time_ns >= self.from_ns && self.is_flow(&i.packet.tuple),
            Event::ResetSent(r) => {
                r.time_ns >= self.from_ns && r.sock != self.sock && self.is_flow(&r.packet.tuple)
            }
            Event::RouteFailed(r) => r.time_ns >= self.from_ns && self.has_route(r),
            Event::SynAckAgain(s) => s.time_ns >= self.from_ns && self.is_flow(&s.tuple),
            Event::NeighbourFailed(n) => n.time_ns >= self.from_ns,
            Event::Connection(_)
            | Event::Suspect(_)
            | Event::CallFailed(_)
            | Event::SocketError(_)
            | Event::Exec(_) => false,
        }
    }

    fn has_route(&self, route: &RouteFailed) -> bool {
        let same_peer = route.tuple.destination.ip() == self.connection.peer.ip();
        match (&route.owner, &self.connection.owner) {
            (Some(asker), Some(owner)) => same_peer && asker.tid == owner.tid,
            (None, _) => same_peer && route.tuple.source.ip() == self.connection.local.ip(),
            (Some(_), None) => false,
        }
    }
}

/// A neighbour's failure matters in the connection's own namespace, for the peer itself, and where a packet of
/// this connection was dropped for it. The diagnosis compares it with the next hop.
pub(super) fn keep_relevant_neighbours(connection: &Connection, timeline: &mut Vec<Moment>) {
    let waiting: Vec<u32> = timeline
        .iter()
        .filter_map(|moment| match &moment.what {
            What::Dropped { reason, place, .. } if reason == "NEIGH_FAILED" => Some(place.netns),
            _ => None,
        })
        .collect();
    let is_peer = |address: IpAddr| address == connection.peer.ip();
    timeline.retain(|moment| match &moment.what {
        What::NeighbourFailed { address, place } => {
            place.netns == connection.netns || is_peer(*address) || waiting.contains(&place.netns)
        }
        _ => true,
    });
}
