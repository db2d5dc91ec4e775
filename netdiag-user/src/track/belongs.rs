//! Which events belong to a connection.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::connection::{Connection, End};
use super::index::{Key, Keys};
use super::timeline::{Moment, What};
use super::window::{Keyed, Window};
use crate::kernel::reasons::Reasons;
use crate::probes::{Drop, Event, RouteFailed, Tuple};

/// By what an event is found.
#[derive(Hash)]
pub(super) enum By {
    /// Both directions of a flow; for an ICMP error that of the packet that it quotes.
    Flow {
        protocol: u8,
        ends: [SocketAddr; 2],
    },
    Socket {
        sock: u64,
        netns: u32,
    },
    /// A packet that has lost its socket, in whatever namespace.
    Source {
        protocol: u8,
        source: SocketAddr,
    },
    RouteOf {
        destination: IpAddr,
        tid: u32,
    },
    RouteFrom {
        destination: IpAddr,
        source: IpAddr,
    },
    NeighbourIn {
        netns: u32,
    },
    Neighbour {
        address: IpAddr,
    },
}

impl By {
    pub(super) fn flow(tuple: &Tuple) -> Self {
        let (a, b) = (tuple.source, tuple.destination);
        Self::Flow { protocol: tuple.protocol, ends: if a <= b { [a, b] } else { [b, a] } }
    }

    fn sender(drop: &Drop) -> Self {
        let Drop { sock, packet, .. } = drop;
        match *sock {
            0 => Self::Source { protocol: packet.tuple.protocol, source: packet.tuple.source },
            sock => Self::Socket { sock, netns: packet.netns },
        }
    }

    fn route(route: &RouteFailed) -> Self {
        let destination = route.tuple.destination.ip();
        match &route.owner {
            Some(asker) => Self::RouteOf { destination, tid: asker.tid },
            None => Self::RouteFrom { destination, source: route.tuple.source.ip() },
        }
    }
}

impl Keyed for Event {
    fn keys(&self, keys: &Keys) -> [Option<Key>; 2] {
        let (first, second) = match self {
            Event::Drop(drop) => (By::flow(&drop.packet.tuple), Some(By::sender(drop))),
            Event::Wire(wire) => (By::flow(wire.flow()), wire.asked.as_ref().map(By::flow)),
            Event::IcmpSent(icmp) => (By::flow(&icmp.packet.tuple), None),
            Event::ResetSent(reset) => (By::flow(&reset.packet.tuple), None),
            Event::SynAckAgain(again) => (By::flow(&again.tuple), None),
            Event::ListenOverflow(overflow) => (By::flow(&overflow.packet.tuple), None),
            Event::RouteFailed(route) => (By::route(route), None),
            Event::NeighbourFailed(failed) => {
                (By::NeighbourIn { netns: failed.netns }, Some(By::Neighbour { address: failed.address }))
            }
            Event::Connection(_)
            | Event::Suspect(_)
            | Event::CallFailed(_)
            | Event::SocketError(_)
            | Event::Exec(_) => return [None, None],
        };
        [Some(keys.of(first)), second.map(|by| keys.of(by))]
    }

    fn is_rare(&self) -> bool {
        matches!(self, Event::RouteFailed(_) | Event::NeighbourFailed(_))
    }
}

impl Keyed for Rc<Connection> {
    fn keys(&self, keys: &Keys) -> [Option<Key>; 2] {
        [Some(flow_key(self, keys)), None]
    }
}

/// The key of a connection's flow, and of its other end's.
pub(super) fn flow_key(connection: &Connection, keys: &Keys) -> Key {
    keys.of(By::flow(&connection.tuple()))
}

/// The other end of a connection, where it ended on this machine too.
pub(super) fn other_end<'a>(
    connection: &Connection,
    flow: Key,
    ended: &'a Window<Rc<Connection>>,
) -> Option<&'a Rc<Connection>> {
    /// The same ports are not used so often while one connection lasts.
    const LATEST: usize = 256;
    let reversed = connection.tuple().reversed();
    ended
        .latest(flow)
        .take(LATEST)
        .find(|other| other.tuple() == reversed && other.end_ns >= connection.start_ns)
}

/// Which events belong to a connection.
pub(super) struct Belongs<'a> {
    connection: &'a Connection,
    sock: u64,
    flows: Vec<Tuple>,
    from_ns: u64,
}

impl<'a> Belongs<'a> {
    pub(super) fn new(connection: &'a Connection, sock: u64) -> Self {
        // A failed call has no length: what led to it was just before.
        let slack = Duration::from_millis(if matches!(connection.end, End::State { .. }) { 1 } else { 50 });
        let from_ns = connection.start_ns.saturating_sub(slack.as_nanos() as u64);
        Self { connection, sock, flows: connection.flows(), from_ns }
    }

    /// The events that are its own, in the order of the window, and how many were left out of very many.
    ///
    /// `flow` is the key of the connection; `numbers` is working memory.
    pub(super) fn select<'w, 'n: 'w>(
        &self,
        flow: Key,
        window: &'w Window<Event>,
        reasons: &Reasons,
        numbers: &'n mut Vec<u64>,
    ) -> (impl Iterator<Item = &'w Event> + use<'w, 'n, '_, 'a>, u64) {
        let connection = self.connection;
        numbers.clear();
        let mut left_out = window.find(flow, self.from_ns, numbers);
        let mut find = |by: By| window.find(window.keys.of(by), self.from_ns, numbers);
        for other in self.flows.iter().skip(1) {
            left_out += find(By::flow(other));
        }
        if self.sock != 0 {
            left_out += find(By::Socket { sock: self.sock, netns: connection.netns });
        }
        if window.has_rare() {
            for Tuple { source, destination, .. } in &self.flows {
                let (source, destination) = (source.ip(), destination.ip());
                if let Some(owner) = &connection.owner {
                    left_out += find(By::RouteOf { destination, tid: owner.tid });
                }
                left_out += find(By::RouteFrom { destination, source });
                left_out += find(By::Neighbour { address: destination });
            }
            left_out += find(By::NeighbourIn { netns: connection.netns });
            for netns in self.waited_for_neighbours(window, reasons, numbers) {
                left_out += window.find(window.keys.of(By::NeighbourIn { netns }), self.from_ns, numbers);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        let events = numbers.iter().filter_map(|number| window.get(*number));
        (events.filter(|event| self.has(event)), left_out)
    }

    /// Other namespaces in which a packet of this connection was dropped for a neighbour.
    fn waited_for_neighbours(&self, window: &Window<Event>, reasons: &Reasons, numbers: &[u64]) -> Vec<u32> {
        let mut namespaces: Vec<u32> = numbers
            .iter()
            .filter_map(|number| match window.get(*number) {
                Some(event @ Event::Drop(drop)) => (reasons.is_drop(drop.reason, NO_NEIGHBOUR)
                    && drop.packet.netns != self.connection.netns
                    && self.has(event))
                .then_some(drop.packet.netns),
                _ => None,
            })
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces
    }

    fn is_flow(&self, tuple: &Tuple) -> bool {
        self.flows.iter().any(|own| tuple == own || *tuple == own.reversed())
    }

    /// A packet with our addresses and ports that another socket sent: another namespace may use the same.
    fn is_anothers(&self, drop: &Drop) -> bool {
        let sent_here = drop.packet.iif == 0 && self.flows.contains(&drop.packet.tuple);
        sent_here && drop.sock != 0 && self.sock != 0 && drop.sock != self.sock
    }

    pub(super) fn has(&self, event: &Event) -> bool {
        match event {
            Event::Drop(d) => {
                d.time_ns >= self.from_ns
                    && (self.is_flow(&d.packet.tuple) && !self.is_anothers(d) || self.is_sender(d))
            }
            Event::Wire(w) => {
                let asked = w.asked.as_ref().is_some_and(|asked| self.is_flow(asked));
                w.time_ns >= self.from_ns && (asked || self.is_flow(w.flow()))
            }
            Event::IcmpSent(i) => i.time_ns >= self.from_ns && self.is_flow(&i.packet.tuple),
            Event::ResetSent(r) => {
                r.time_ns >= self.from_ns && r.sock != self.sock && self.is_flow(&r.packet.tuple)
            }
            Event::RouteFailed(r) => r.time_ns >= self.from_ns && self.has_route(r),
            Event::SynAckAgain(s) => s.time_ns >= self.from_ns && self.is_flow(&s.tuple),
            Event::ListenOverflow(o) => o.time_ns >= self.from_ns && self.is_flow(&o.packet.tuple),
            Event::NeighbourFailed(n) => n.time_ns >= self.from_ns,
            Event::Connection(_)
            | Event::Suspect(_)
            | Event::CallFailed(_)
            | Event::SocketError(_)
            | Event::Exec(_) => false,
        }
    }

    /// A packet of its own that does not have its ends: before it had a port, or after NAT. The memory of a closed
    /// socket is used again at once.
    fn is_sender(&self, drop: &Drop) -> bool {
        let connection = self.connection;
        let lived = matches!(connection.end, End::State { .. })
            && drop.time_ns >= connection.start_ns
            && drop.packet.tuple.protocol == connection.protocol
            && drop.was_sent_by(self.sock, connection.netns);
        drop.sock != 0
            && drop.sock == self.sock
            && drop.time_ns <= connection.end_ns
            && drop.packet.netns == connection.netns
            && (lived || connection.goes_to(drop.packet.tuple.destination))
    }

    fn has_route(&self, route: &RouteFailed) -> bool {
        let to = route.tuple.destination.ip();
        let mut flows = self.flows.iter().filter(|flow| flow.destination.ip() == to);
        match (&route.owner, &self.connection.owner) {
            (Some(asker), Some(owner)) => flows.next().is_some() && asker.tid == owner.tid,
            (None, _) => flows.any(|flow| flow.source.ip() == route.tuple.source.ip()),
            (Some(_), None) => false,
        }
    }
}

/// The kernel's reason for dropping what waited for a neighbour.
const NO_NEIGHBOUR: &str = "NEIGH_FAILED";

/// A neighbour's failure matters in the connection's own namespace, for the peer itself, and where a packet of
/// this connection was dropped for it. The diagnosis compares it with the next hop.
pub(super) fn keep_relevant_neighbours(connection: &Connection, timeline: &mut Vec<Moment>) {
    let waiting: Vec<u32> = timeline
        .iter()
        .filter_map(|moment| match &moment.what {
            What::Dropped { reason, place, .. } if reason == NO_NEIGHBOUR => Some(place.netns),
            _ => None,
        })
        .collect();
    let flows = connection.flows();
    let is_peer = |address: IpAddr| flows.iter().any(|flow| flow.destination.ip() == address);
    timeline.retain(|moment| match &moment.what {
        What::NeighbourFailed { address, place } => {
            place.netns == connection.netns || is_peer(*address) || waiting.contains(&place.netns)
        }
        _ => true,
    });
}

#[cfg(test)]
#[path = "belongs_tests.rs"]
mod tests;
