//! What connection tracking knows of connections in trouble: NAT may have made another flow of theirs.

use std::collections::{HashMap, VecDeque};

use super::budget::Budget;
use super::now_ns;
use crate::enrich::conntrack;
use crate::probes::{Tuple, protocol};
use crate::track::{Connection, End, Side, Tracker};

/// Connections whose flow is remembered; the oldest goes.
const MAX_KNOWN: usize = 1024;

/// The function of the kernel that answers.
const ANSWERS: &str = "ctnetlink_get_conntrack";

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Translations {
    /// By the socket's identity: its flow, and what it became.
    known: HashMap<u64, [Tuple; 2]>,
    order: VecDeque<u64>,
    /// Whether the kernel answers; where it does not, to ask it could load a module.
    answers: Option<bool>,
    tracked: Tracked,
    budget: Budget,
}

/// Which namespaces track connections, as it was a second ago at most.
#[derive(Debug, Default)]
struct Tracked {
    second: u64,
    namespaces: HashMap<u32, bool>,
}

impl Tracked {
    fn by(&mut self, netns: u32) -> bool {
        let second = now_ns() / 1_000_000_000;
        if self.second != second {
            *self = Self { second, ..Self::default() };
        }
        *self.namespaces.entry(netns).or_insert_with(|| conntrack::has_entries(netns.into()))
    }
}

impl Translations {
    /// Looks what became of an open connection, and remembers it. `whatever_it_takes`: the user waits for this one.
    pub(super) fn look(
        &mut self,
        tracker: &Tracker,
        sock: u64,
        netns: u32,
        asked: &Tuple,
        whatever_it_takes: bool,
    ) -> Option<Tuple> {
        if let Some([_, known]) = self.known.get(&sock).filter(|[of, _]| of == asked) {
            return Some(*known);
        }
        let found = self.ask(tracker, netns, asked, whatever_it_takes)?;
        if self.order.len() >= MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(sock);
        self.known.insert(sock, [*asked, found]);
        Some(found)
    }

    /// What became of a connection that ended. A reset that answers the first SYN takes the entry with it.
    pub(super) fn of_ended(
        &mut self,
        tracker: &Tracker,
        sock: u64,
        connection: &Connection,
        whatever_it_takes: bool,
    ) -> Option<Tuple> {
        if connection.side != Side::Outbound || matches!(connection.end, End::CallFailed { .. }) {
            return None;
        }
        let asked = connection.tuple();
        match self.known.remove(&sock) {
            Some([of, known]) if of == asked => Some(known),
            _ => self.ask(tracker, connection.netns, &asked, whatever_it_takes),
        }
    }

    fn ask(
        &mut self,
        tracker: &Tracker,
        netns: u32,
        asked: &Tuple,
        whatever_it_takes: bool,
    ) -> Option<Tuple> {
        let is_tracked = matches!(asked.protocol, protocol::TCP | protocol::UDP) && asked.source.port() != 0;
        if !is_tracked {
            return None;
        }
        let Self { answers, tracked, budget, .. } = self;
        let mut answers = || *answers.get_or_insert_with(|| !tracker.code_of(&[ANSWERS]).is_empty());
        let translated = || conntrack::translated(netns.into(), asked);
        if whatever_it_takes {
            return (conntrack::has_entries(netns.into()) && answers()).then(translated).flatten();
        }
        // A namespace that cannot be found costs the most: all of it counts.
        budget.within(|| (tracked.by(netns) && answers()).then(translated).flatten()).flatten()
    }
}
