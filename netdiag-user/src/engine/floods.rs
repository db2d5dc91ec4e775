//! Listeners whose SYN-ACKs go unanswered: a flood of SYNs is no connection of anybody, and with SYN cookies nobody
//! fails. The first sign are SYN-ACKs that are sent again, which costs nothing while there are none.

use std::collections::HashMap;

use super::{Engine, Explained, now_ns};
use crate::diagnoses::{self, Coverage, Evidence, flood};
use crate::enrich::facts::{Facts, NetnsFact, QueueSample};
use crate::enrich::sockets::Protocol;
use crate::enrich::{listeners, netns, owners, queues, sysctl};
use crate::probes::{SynAckAgain, TcpState, Tuple};
use crate::track::{Connection, End, Moment, Place, Side, What};

/// So many in `WINDOW_NS` are worth a look at the listener's queue: one may get lost on its way.
const SIGNS: u32 = 4;
const WINDOW_NS: u64 = 2_000_000_000;
/// From the first look at the counters to the second.
const APART_NS: u64 = 1_000_000_000;
/// Between two looks at one listener, and between two tellings.
const AGAIN_NS: u64 = 5_000_000_000;
const TOLD_NS: u64 = 60_000_000_000;
const MAX_LISTENERS: usize = 256;

const SETTINGS: &[&str] = &[
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_timestamps",
    "net.core.somaxconn",
];

/// By network namespace and port.
#[derive(Debug, Default)]
pub(super) struct Floods(HashMap<(u32, u16), Watched>);

#[derive(Debug)]
struct Watched {
    since_ns: u64,
    signs: u32,
    /// The SYN-ACK that was sent again last.
    tuple: Tuple,
    /// The first look, and when it was.
    first: Option<(u64, Vec<QueueSample>)>,
    quiet_until_ns: u64,
}

impl Floods {
    /// Whether it is time for a first look.
    fn note(&mut self, again: &SynAckAgain) -> bool {
        let (key, now) = ((again.netns, again.tuple.source.port()), again.time_ns);
        if self.0.len() >= MAX_LISTENERS && !self.0.contains_key(&key) {
            self.0.retain(|_, one| {
                one.first.is_some() || now < one.quiet_until_ns.max(one.since_ns + WINDOW_NS)
            });
            if self.0.len() >= MAX_LISTENERS {
                return false;
            }
        }
        let one = self.0.entry(key).or_insert_with(|| Watched {
            since_ns: now,
            signs: 0,
            tuple: again.tuple,
            first: None,
            quiet_until_ns: 0,
        });
        if now.saturating_sub(one.since_ns) > WINDOW_NS {
            (one.since_ns, one.signs) = (now, 0);
        }
        one.signs += 1;
        one.tuple = again.tuple;
        one.signs >= SIGNS && one.first.is_none() && now >= one.quiet_until_ns
    }

    /// When the next second look is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.0.values().filter_map(|one| one.first.as_ref()).map(|(at, _)| at + APART_NS).min()
    }

    fn take_due(&mut self, now: u64) -> Vec<(u32, Tuple, u64, Vec<QueueSample>)> {
        let due = |((netns, _), one): (&(u32, u16), &mut Watched)| {
            let (at, samples) = one.first.take_if(|(at, _)| *at + APART_NS <= now)?;
            one.quiet_until_ns = now + AGAIN_NS;
            Some((*netns, one.tuple, at, samples))
        };
        self.0.iter_mut().filter_map(due).collect()
    }
}

impl Engine {
    /// `run` has nothing to do with the listeners of others.
    pub(super) fn syn_ack_again(&mut self, again: &SynAckAgain) {
        if self.follows || self.shed.samples || !self.floods.note(again) {
            return;
        }
        let key = (again.netns, again.tuple.source.port());
        let look = || queues::sample_at(again.tuple.source, again.netns, now_ns());
        let samples = if self.may_be_wanted(again) { self.sampled(look) } else { None };
        let Some(one) = self.floods.0.get_mut(&key) else { return };
        one.quiet_until_ns = again.time_ns + AGAIN_NS;
        one.first = samples.filter(|all| all.iter().any(flood::is_full)).map(|all| (now_ns(), all));
    }

    /// The agent can do without it as without other looks at queues.
    fn sampled<T>(&mut self, look: impl FnOnce() -> T) -> Option<T> {
        let before = self.searches.total_ns();
        let seen = self.searches.within(look);
        self.samplings_ns += self.searches.total_ns() - before;
        seen
    }

    fn may_be_wanted(&self, again: &SynAckAgain) -> bool {
        let connection = about(&again.tuple, again.netns, again.time_ns, again.time_ns);
        self.filter.as_ref().is_none_or(|may| may.0(&connection))
    }

    /// Listeners that are flooded, of those whose second look is due.
    pub(super) fn flooded(&mut self, now: u64) -> Vec<Explained> {
        let due = self.floods.take_due(now);
        due.into_iter()
            .filter_map(|(netns, tuple, at, samples)| self.judge(netns, &tuple, at, samples))
            .collect()
    }

    fn judge(&mut self, netns: u32, tuple: &Tuple, at: u64, first: Vec<QueueSample>) -> Option<Explained> {
        let now = now_ns();
        let facts = self.sampled(|| gather(netns, tuple, now, first))?;
        let place = Place { netns, netns_name: netns::name_of(netns.into()), interface: None };
        let coverage = Coverage { lost_events: self.lost_between(at, now), ..Coverage::default() };
        let again = Moment { time_ns: at, what: What::SynAckRetransmitted { place } };
        let connection = about(tuple, netns, at, now);
        let mut evidence = Evidence { connection, timeline: vec![again], other_end: None, facts, coverage };
        diagnoses::diagnose(&evidence)?;
        self.name_listener(&mut evidence);
        let mut diagnosis = diagnoses::diagnose(&evidence)?;
        if diagnosis.1.place.netns_name.is_none() {
            diagnosis.1.place.container = self.containers.of(netns.into());
        }
        if let Some(one) = self.floods.0.get_mut(&(netns, tuple.source.port())) {
            one.quiet_until_ns = now + TOLD_NS;
        }
        Some(Explained { evidence, diagnosis: Some(diagnosis) })
    }

    /// Who holds the listener.
    fn name_listener(&mut self, evidence: &mut Evidence) {
        let (netns, local) = (u64::from(evidence.connection.netns), evidence.connection.local);
        let look = || listeners::find_listeners(local.port(), Protocol::Tcp).found;
        let mut found = self.searches.within(look).unwrap_or_default();
        found.retain(|listener| listener.netns == netns && listener.accepts(local.ip()));
        let process = found.first().and_then(|listener| listener.processes.first()).cloned();
        evidence.connection.owner = process.as_ref().map(owners::owner_of);
        evidence.facts.process = process;
        evidence.facts.listeners = Some(found);
    }
}

/// What stands for all the half-open connections: it has no peer.
fn about(tuple: &Tuple, netns: u32, start_ns: u64, end_ns: u64) -> Connection {
    let unspecified = match tuple.source {
        std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let destination = std::net::SocketAddr::new(unspecified, 0);
    Connection {
        side: Side::Inbound,
        end: End::State { from: TcpState::SynRecv, to: TcpState::Close },
        end_ns,
        ..Connection::of_flow(Tuple { destination, ..*tuple }, netns, start_ns)
    }
}

fn gather(inode: u32, tuple: &Tuple, now: u64, mut samples: Vec<QueueSample>) -> Facts {
    samples.extend(queues::sample_at(tuple.source, inode, now));
    let handle = netns::find(inode.into());
    let read = |key: &&str| Some(((*key).to_owned(), sysctl::read(None, key)?));
    let settings =
        handle.and_then(|handle| netns::enter(&handle, || SETTINGS.iter().filter_map(read).collect()).ok());
    Facts {
        netns: Some(NetnsFact { inode: inode.into(), name: netns::name_of(inode.into()) }),
        sysctls: settings.unwrap_or_default(),
        queue_samples: samples,
        ..Facts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::protocol;

    const SECOND: u64 = 1_000_000_000;

    fn again(time_ns: u64, port: u16) -> SynAckAgain {
        let tuple = Tuple {
            protocol: protocol::TCP,
            source: ([10, 0, 0, 1], port).into(),
            destination: ([10, 0, 0, 2], 999).into(),
        };
        SynAckAgain { time_ns, tuple, netns: 7 }
    }

    #[test]
    fn one_that_gets_lost_is_no_sign() {
        let mut floods = Floods::default();
        assert!((0..100).all(|count| !floods.note(&again(count * SECOND, 80))));
        let found: Vec<bool> = (0..4).map(|count| floods.note(&again(200 * SECOND + count, 80))).collect();
        assert_eq!(found, [false, false, false, true]);
    }

    #[test]
    fn a_second_look_comes_a_second_later_and_then_it_is_quiet() {
        let mut floods = Floods::default();
        for _ in 0..3 {
            floods.note(&again(SECOND, 80));
        }
        assert!(floods.note(&again(SECOND, 80)));
        floods.0.get_mut(&(7, 80)).unwrap().first = Some((SECOND, Vec::new()));
        assert!(!floods.note(&again(SECOND, 80)), "one look at a time");
        assert_eq!(floods.next_due_ns(), Some(2 * SECOND));
        assert!(floods.take_due(2 * SECOND - 1).is_empty());
        assert_eq!(floods.take_due(2 * SECOND).len(), 1);
        assert_eq!(floods.next_due_ns(), None);
        assert!(!floods.note(&again(2 * SECOND, 80)));
        let later: Vec<bool> = (0..4).map(|_| floods.note(&again(8 * SECOND, 80))).collect();
        assert_eq!(later, [false, false, false, true]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut floods = Floods::default();
        for port in 0..2000 {
            floods.note(&again(u64::from(port) * SECOND, port));
            assert!(floods.0.len() <= MAX_LISTENERS);
        }
    }
}
