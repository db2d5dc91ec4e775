//! What NAT of this machine made of a connection's ends, as its packets show it.
//!
//! A socket knows nothing of NAT: its packets have its ends only until the first hook that changes them. What proves a
//! translation is a packet that still has the socket, or one that nobody else can have sent.

use std::rc::Rc;

use super::belongs::By;
use super::connection::{Connection, End, Side};
use super::index::Key;
use super::window::Window;
use crate::probes::{Drop, Event, Tuple};

/// What NAT of this machine made of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nat {
    Made(Tuple),
    /// Its packets were seen as the application asked for them.
    Nothing,
    NotSeen,
}

/// Where a connection's packets are looked for.
pub(super) struct Seen<'a> {
    pub(super) window: &'a Window<Event>,
    /// Connections that ended lately.
    pub(super) ended: &'a Window<Rc<Connection>>,
}

impl Seen<'_> {
    /// What NAT made of the connection's flow. `flow` is its key, `numbers` is working memory.
    pub(super) fn translated(
        &self,
        connection: &Connection,
        sock: u64,
        flow: Key,
        numbers: &mut Vec<u64>,
    ) -> Nat {
        if connection.side != Side::Outbound || !matches!(connection.end, End::State { .. }) {
            return Nat::NotSeen;
        }
        let of = Of { connection, sock, asked: connection.tuple() };
        let mut left_as_asked = false;
        for event in self.latest(flow, &of, numbers) {
            match event {
                Event::Wire(wire) if wire.asked == Some(of.asked) => return Nat::Made(wire.packet.tuple),
                Event::Wire(wire) => left_as_asked |= wire.packet.tuple == of.asked,
                Event::Drop(drop) => left_as_asked |= drop.packet.tuple == of.asked,
                _ => {}
            }
        }
        let by_socket = By::Socket { sock, netns: connection.netns };
        for event in self.latest(self.window.keys.of(by_socket), &of, numbers) {
            if let Event::Drop(drop) = event
                && of.sent(drop)
                && of.is_changed(&drop.packet.tuple)
            {
                return Nat::Made(drop.packet.tuple);
            }
        }
        if left_as_asked {
            return Nat::Nothing;
        }
        self.redirected(&of, numbers).map_or(Nat::NotSeen, Nat::Made)
    }

    /// A SYN that NAT sent back to this namespace, or into another of this machine, has lost its socket on the way. It
    /// has the source that the connection alone has, unless another connection shares it, which would have ended as well.
    fn redirected(&self, of: &Of<'_>, numbers: &mut Vec<u64>) -> Option<Tuple> {
        let Of { connection, asked, .. } = of;
        let by_source = By::Source { protocol: asked.protocol, source: asked.source };
        let mut found = None;
        for event in self.latest(self.window.keys.of(by_source), of, numbers) {
            let Event::Drop(drop) = event else { continue };
            let tuple = drop.packet.tuple;
            let came_back = drop.packet.netns == connection.netns;
            let is_ours = drop.packet.is_syn()
                && drop.time_ns <= connection.end_ns
                && (came_back || of.may_go_elsewhere() && of.was_refused_after(drop))
                && tuple.protocol == asked.protocol
                && tuple.source == asked.source
                && tuple.destination != asked.destination;
            if !is_ours || self.is_of_another(&tuple, came_back.then_some(connection.netns)) {
                continue;
            }
            if found.is_some_and(|found| found != tuple) {
                return None;
            }
            found = Some(tuple);
        }
        found
    }

    /// Whether a connection asked for just these ends. Where the SYN came to another namespace, that may have been in
    /// any.
    fn is_of_another(&self, tuple: &Tuple, own: Option<u32>) -> bool {
        let key = self.ended.keys.of(By::flow(tuple));
        let mut others = self.ended.latest(key).filter(|other| other.tuple() == *tuple);
        others.any(|other| own.is_none_or(|netns| other.netns == netns))
    }

    /// Events with this key since the connection began, the latest first.
    fn latest<'n>(
        &'n self,
        key: Key,
        of: &Of<'_>,
        numbers: &'n mut Vec<u64>,
    ) -> impl Iterator<Item = &'n Event> + use<'n> {
        let from_ns = of.connection.start_ns;
        numbers.clear();
        self.window.find(key, from_ns, numbers);
        let events = numbers.iter().rev().filter_map(|number| self.window.get(*number));
        events.filter(move |event| event.time_ns() >= from_ns)
    }
}

/// Whose packets are looked for.
struct Of<'a> {
    connection: &'a Connection,
    sock: u64,
    asked: Tuple,
}

impl Of<'_> {
    /// Whether the connection's own socket sent a packet that was dropped.
    fn sent(&self, drop: &Drop) -> bool {
        drop.was_sent_by(self.sock, self.connection.netns)
            && drop.time_ns <= self.connection.end_ns
            && drop.packet.tuple.protocol == self.asked.protocol
    }

    /// Whether the kernel refused the connection right after this drop: in other namespaces others may have its source.
    fn was_refused_after(&self, drop: &Drop) -> bool {
        const AT_MOST_NS: u64 = 5_000_000;
        let connection = self.connection;
        let refused = connection.errno == Some(libc::ECONNREFUSED);
        refused && connection.died_connecting() && connection.end_ns - drop.time_ns < AT_MOST_NS
    }

    /// Every namespace has a loopback of its own.
    fn may_go_elsewhere(&self) -> bool {
        !self.asked.source.ip().to_canonical().is_loopback()
    }

    /// A socket that has let go of its port, or has no address yet, has fewer ends than its packets.
    fn is_changed(&self, tuple: &Tuple) -> bool {
        let (own, source) = (self.asked.source, tuple.source);
        tuple.destination != self.asked.destination
            || !own.ip().is_unspecified() && source.ip() != own.ip()
            || own.port() != 0 && source.port() != own.port()
    }
}

#[cfg(test)]
#[path = "translated_tests.rs"]
mod tests;
