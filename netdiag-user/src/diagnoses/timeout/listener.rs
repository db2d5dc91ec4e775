//! What is known of a listener on this machine that should have answered, and of its queues. Where one is full, the
//! kernel discards the SYN without a drop event.

use super::{Evidence, Place, What, connecting, syn_acks, syns_again};
use crate::enrich::facts::QueueSample;
use crate::enrich::listeners::Listener;

/// What the samples of one listener say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queues<'a> {
    first: &'a QueueSample,
    last: &'a QueueSample,
    /// The sample with the longest accept queue.
    pub(super) longest: &'a QueueSample,
    /// The sample with the most half-open connections.
    pub(super) most_half_open: &'a QueueSample,
}

impl Queues<'_> {
    pub(super) fn accept_full(&self) -> bool {
        self.longest.accept_queue > self.longest.backlog
    }

    /// How much a counter of the namespace grew while the SYN was being sent again.
    pub(super) fn grew(&self, counter: &str) -> u64 {
        let value = |sample: &QueueSample| sample.counters.get(counter).copied();
        match (value(self.first), value(self.last)) {
            (Some(first), Some(last)) => last.saturating_sub(first),
            _ => 0,
        }
    }
}

/// Samples by listener, the one that comes first with a full queue if there is one.
pub(super) fn queues(evidence: &Evidence) -> Option<Queues<'_>> {
    let samples = &evidence.facts.queue_samples;
    let mut all = samples.iter().enumerate().filter_map(|(index, sample)| {
        let same = |other: &&QueueSample| (other.netns, other.local) == (sample.netns, sample.local);
        if samples[..index].iter().any(|other| same(&other)) {
            return None;
        }
        let mine = || samples[index..].iter().filter(same);
        Some(Queues {
            first: sample,
            last: mine().next_back()?,
            longest: mine().max_by_key(|s| i64::from(s.accept_queue) - i64::from(s.backlog))?,
            most_half_open: mine().max_by_key(|s| s.syn_recv)?,
        })
    });
    let first = all.next()?;
    if first.accept_full() {
        return Some(first);
    }
    Some(all.find(Queues::accept_full).unwrap_or(first))
}

/// Waits for an answer that only a listener of this machine could give.
pub(super) fn waits_for_listener(evidence: &Evidence) -> bool {
    let overdue = evidence.connection.errno.is_some() || syns_again(evidence).is_none_or(|count| count > 0);
    connecting(evidence)
        && overdue
        && evidence.peer_is_local() != Some(false)
        && syn_acks(evidence).next().is_none()
        && !evidence.drops().any(|(_, what)| {
            matches!(what, What::Dropped { packet, reason, .. }
                if (packet.is_syn() || packet.is_syn_ack()) && reason != "TCP_LISTEN_OVERFLOW")
        })
}

/// Whether the queues may be those of a namesake: of another namespace with the same address.
pub(super) fn is_guess(evidence: &Evidence, queues: Option<Queues>) -> bool {
    let elsewhere = |queues: Queues| queues.longest.netns != u64::from(evidence.connection.netns);
    evidence.facts.peer_ambiguous && queues.is_none_or(elsewhere)
}

pub(super) fn guessed(evidence: &Evidence) -> String {
    format!(
        " Several network namespaces of this machine have the address {}, and it is not known which of them \
         gets the packets.",
        evidence.connection.peer.ip()
    )
}

/// The listener's namespace.
pub(super) fn place(evidence: &Evidence, dropped_at: Option<&Place>, queues: Option<Queues>) -> Place {
    let netns = match (dropped_at, queues) {
        (Some(place), _) => return place.clone(),
        (None, Some(queues)) => queues.longest.netns,
        (None, None) => return Place::default(),
    };
    let name = |listener: &Listener| (listener.netns == netns).then(|| listener.netns_name.clone()).flatten();
    let netns_name = evidence.facts.listeners.iter().flatten().find_map(name).or_else(|| {
        let spaces = evidence.facts.peer_namespaces.iter().flatten();
        spaces.filter(|space| space.inode == netns).find_map(|space| space.name.clone())
    });
    Place { netns: netns as u32, netns_name, interface: None }
}

pub(super) fn listener<'a>(evidence: &'a Evidence, place: &Place) -> Option<&'a Listener> {
    let peer = evidence.connection.peer.ip();
    let listeners = evidence.facts.listeners.iter().flatten();
    listeners.filter(|l| l.netns == u64::from(place.netns)).find(|listener| listener.accepts(peer))
}

/// "nginx[800]", "nginx[800] and 3 more".
pub(super) fn owners(listener: &Listener) -> String {
    match listener.processes.as_slice() {
        [] => "the service".into(),
        [one] => format!("{}[{}]", one.comm, one.pid),
        [first, rest @ ..] => format!("{}[{}] and {} more", first.comm, first.pid, rest.len()),
    }
}
