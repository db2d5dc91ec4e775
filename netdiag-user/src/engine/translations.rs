//! What connection tracking knows of connections in trouble: NAT may have made another flow of theirs.

use std::collections::{HashMap, VecDeque};

use super::budget::Budget;
use crate::enrich::conntrack;
use crate::probes::{Tuple, protocol};
use crate::track::{Connection, End, Side, Tracker};

/// Connections whose flow is remembered; the oldest goes.
const MAX_KNOWN: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Translations {
    /// By the socket's identity: its flow, and what it became.
    known: HashMap<u64, [Tuple; 2]>,
    order: VecDeque<u64>,
    /// Whether the kernel answers; where it does not, to ask it could load a module.
    answers: Option<bool>,
    budget: Budget,
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
        let answers = || !tracker.code_of(&["ctnetlink_get_conntrack"]).is_empty();
        if !is_tracked || !conntrack::has_entries(netns.into()) || !*self.answers.get_or_insert_with(answers)
        {
            return None;
        }
        let look = || conntrack::translated(netns.into(), asked);
        if whatever_it_takes { look() } else { self.budget.within(look).flatten() }
    }
}
