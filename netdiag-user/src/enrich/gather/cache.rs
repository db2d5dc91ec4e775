//! Many failures of one kind are gathered for once, and all of them together at a bounded cost.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::gather_among;
use super::known::Known;
use super::needs::Needs;
use crate::enrich::facts::{Facts, QueueSample};
use crate::enrich::netns::Listing;
use crate::track::{Connection, End, Side};

/// Answers younger than this are given again.
const FRESH: Duration = Duration::from_secs(1);
const MAX_ENTRIES: usize = 256;
const WINDOW: Duration = Duration::from_secs(1);
/// How often facts are gathered in a window, and how long that may take altogether: a search for the holders
/// of a socket looks through the files of every process.
const MAX_GATHERED: u32 = 50;
const MAX_SPENT: Duration = Duration::from_millis(250);
/// The same where a command's own connections are all that is asked for.
const GENEROUS_GATHERED: u32 = 200;
const GENEROUS_SPENT: Duration = Duration::from_millis(900);

/// What decides the facts, those of the process and the samples aside.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    netns: u32,
    protocol: u8,
    side: Side,
    end: End,
    errno: Option<i32>,
    bound_interface: Option<u32>,
    ipv6_only: bool,
    peer: SocketAddr,
    /// Port 0 unless it matters.
    local: SocketAddr,
    needs: Needs,
}

impl Key {
    fn new(connection: &Connection, needs: Needs) -> Self {
        let mut local = connection.local;
        if !needs.local_port() {
            local.set_port(0);
        }
        Self {
            netns: connection.netns,
            protocol: connection.protocol,
            side: connection.side,
            end: connection.end.clone(),
            errno: connection.errno,
            bound_interface: connection.bound_interface,
            ipv6_only: connection.ipv6_only,
            peer: connection.peer,
            local,
            needs,
        }
    }
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    key: Key,
    facts: Facts,
}

/// Gathers facts like [`gather`](super::gather), but at a bounded rate and with a memory of one second.
#[derive(Debug, Default)]
pub struct Gatherer {
    /// Oldest first.
    recent: VecDeque<Entry>,
    window: Option<Instant>,
    gathered: u32,
    spent: Duration,
    skipped: u64,
    known: Known,
    listing: Listing,
    generous: bool,
}

impl Gatherer {
    pub fn new() -> Self {
        Self::default()
    }

    /// With a larger budget, for one command's connections.
    pub fn generous() -> Self {
        Self { generous: true, ..Self::default() }
    }

    /// As [`gather`](super::gather); what was learnt less than a second ago for the same failure (namespaces, addresses,
    /// errno and end) is used again. Beyond 50 times a second, or a quarter of a second spent in each, only
    /// what is at hand is given, and [`skipped`](Self::skipped) counts it.
    pub fn gather(&mut self, connection: &Connection, samples: Vec<QueueSample>) -> Facts {
        let listing = self.listing.clone();
        let gather = |connection: &Connection, samples| gather_among(connection, samples, &listing);
        self.gather_by(connection, samples, Instant::now, gather)
    }

    /// Connections for which no facts were gathered, since the budget was used up.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn gather_by(
        &mut self,
        connection: &Connection,
        samples: Vec<QueueSample>,
        clock: impl Fn() -> Instant,
        gather: impl FnOnce(&Connection, Vec<QueueSample>) -> Facts,
    ) -> Facts {
        let needs = Needs::of(connection);
        if needs == Needs::default() {
            return gather(connection, samples);
        }
        let now = clock();
        let stale = |entry: &Entry| now.saturating_duration_since(entry.at) >= FRESH;
        while self.recent.front().is_some_and(stale) {
            self.recent.pop_front();
        }
        let key = Key::new(connection, needs);
        if let Some(entry) = self.recent.iter().find(|entry| entry.key == key) {
            let own = self.known.about(connection, samples, true, now);
            return Facts {
                netns: own.netns,
                process: own.process,
                queue_samples: own.queue_samples,
                ..entry.facts.clone()
            };
        }
        if !self.may_gather(now) {
            self.skipped += 1;
            let own = self.known.about(connection, samples, false, now);
            return Facts { not_looked_up: needs.names(), ..own };
        }
        let facts = gather(connection, samples);
        let done = clock();
        self.gathered += 1;
        self.spent += done.saturating_duration_since(now);
        if self.recent.len() == MAX_ENTRIES {
            self.recent.pop_front();
        }
        self.recent.push_back(Entry { at: done, key, facts: facts.clone() });
        facts
    }

    fn may_gather(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW) {
            self.window = Some(now);
            self.gathered = 0;
            self.spent = Duration::ZERO;
        }
        let (most, longest) =
            if self.generous { (GENEROUS_GATHERED, GENEROUS_SPENT) } else { (MAX_GATHERED, MAX_SPENT) };
        self.gathered < most && self.spent < longest
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::tests::connection;
    use super::*;
    use crate::enrich::facts::LISTENERS;

    struct Bench {
        gatherer: Gatherer,
        now: Cell<Instant>,
        calls: Cell<u32>,
        cost: Duration,
    }

    impl Bench {
        fn new(cost_ms: u64) -> Self {
            let cost = Duration::from_millis(cost_ms);
            Self { gatherer: Gatherer::new(), now: Cell::new(Instant::now()), calls: Cell::new(0), cost }
        }

        fn wait(&self, ms: u64) {
            self.now.set(self.now.get() + Duration::from_millis(ms));
        }

        fn gather(&mut self, connection: &Connection) -> Facts {
            let (now, calls, cost) = (&self.now, &self.calls, self.cost);
            let gather = |_: &Connection, queue_samples| {
                calls.set(calls.get() + 1);
                now.set(now.get() + cost);
                Facts { route_text: Some(calls.get().to_string()), queue_samples, ..Facts::default() }
            };
            self.gatherer.gather_by(connection, Vec::new(), || now.get(), gather)
        }
    }

    #[test]
    fn the_same_failure_is_gathered_once_a_second() {
        let mut bench = Bench::new(0);
        let mut failed = connection(7, "10.0.2.2:80");
        let text = |facts: Facts| facts.route_text.unwrap();
        assert_eq!(text(bench.gather(&failed)), "1");
        failed.local.set_port(40001);
        let again = bench.gather(&failed);
        assert_eq!(again.process.as_ref().map(|process| process.pid), Some(std::process::id()));
        assert_eq!(text(again), "1", "another ephemeral port is no other failure");
        for change in [
            |c: &mut Connection| c.netns += 1,
            |c: &mut Connection| c.errno = Some(libc::EHOSTUNREACH),
            |c: &mut Connection| c.peer.set_port(81),
            |c: &mut Connection| c.end = End::SocketError,
        ] {
            let mut other = failed.clone();
            change(&mut other);
            let before = bench.calls.get();
            bench.gather(&other);
            assert_eq!(bench.calls.get(), before + 1);
        }
        bench.wait(999);
        assert_eq!(text(bench.gather(&failed)), "1");
        bench.wait(1);
        assert_eq!(text(bench.gather(&failed)), "6");
    }

    #[test]
    fn the_budget_of_a_second() {
        let mut bench = Bench::new(0);
        let failed = |port| connection(7, &format!("10.0.2.2:{port}"));
        for port in 1..=60 {
            let facts = bench.gather(&failed(port));
            assert_eq!(facts.route_text.is_some(), port <= 50);
            assert_eq!(facts.is_not_looked_up(LISTENERS), port > 50);
            assert_eq!(facts.netns.is_some(), port > 50, "the stand-in knows none");
        }
        assert_eq!((bench.calls.get(), bench.gatherer.skipped()), (50, 10));
        assert!(bench.gather(&failed(50)).route_text.is_some(), "what is known costs nothing");
        bench.wait(1000);
        assert!(bench.gather(&failed(61)).route_text.is_some());

        let mut slow = Bench::new(100);
        for port in 1..=5 {
            slow.gather(&failed(port));
        }
        assert_eq!((slow.calls.get(), slow.gatherer.skipped()), (3, 2));
    }

    #[test]
    fn memory_is_bounded() {
        let mut bench = Bench::new(0);
        for port in 1..=1000 {
            bench.gather(&connection(7, &format!("10.0.2.2:{port}")));
            bench.wait(1);
            assert!(bench.gatherer.recent.len() <= MAX_ENTRIES);
        }
    }

    #[test]
    fn a_healthy_end_needs_no_budget() {
        let mut bench = Bench::new(100);
        let mut healthy = connection(7, "10.0.2.2:80");
        healthy.errno = None;
        healthy.end =
            End::State { from: crate::probes::TcpState::LastAck, to: crate::probes::TcpState::Close };
        for _ in 0..10 {
            bench.gather(&healthy);
        }
        assert_eq!((bench.calls.get(), bench.gatherer.skipped()), (10, 0));
    }
}
