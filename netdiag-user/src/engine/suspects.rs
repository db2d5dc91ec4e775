//! What is looked at as soon as a connection is in trouble: it may be gone when the connection ends.

use super::Engine;
use crate::enrich::owners::{self, Holders};
use crate::enrich::queues;
use crate::kernel::clock::now_ns;
use crate::probes::{SocketError, Suspect};

/// Samples of a listener, taken while a connection to it was in trouble.
const MAX_SAMPLED: usize = 1024;
/// Samples of one listener for one connection; the first and the last say the most.
const SAMPLES: usize = 8;
/// tc leaves a namespace again when no SYN was sent again for this long. Retransmits are at most 32 s apart,
/// but for a connection that has been waiting for more than a minute.
const WIRE_IDLE_NS: u64 = 40_000_000_000;
/// And a namespace that is gone, after what is still to be told of it.
const WIRE_GONE_NS: u64 = 5_000_000_000;

impl Engine {
    pub(super) fn suspect(&mut self, suspect: &Suspect) {
        // `run` has nothing to do in the namespaces of others.
        if self.follows && !suspect.asked {
            return;
        }
        let netns = u64::from(suspect.netns);
        self.changes.watch(netns, suspect.time_ns);
        if !self.asks_about_xdp && self.xdp_looked_ns.saturating_add(1_000_000_000) < suspect.time_ns {
            self.xdp_looked_ns = suspect.time_ns;
            self.look_for_xdp();
        }
        if !self.shed.wire && !self.wire_since.contains_key(&netns) {
            self.watch_wire(netns);
            self.just_in_time.insert(netns, 0);
        }
        if let Some(last) = self.just_in_time.get_mut(&netns) {
            *last = suspect.time_ns;
        }
        let Suspect { sock, netns, tuple, asked, .. } = suspect;
        let translated = self.translations.look(&self.tracker, *sock, *netns, tuple, *asked);
        let to = translated.as_ref().unwrap_or(tuple).destination;
        if translated.is_some() {
            self.session.take_interest(to);
        }
        if self.shed.samples {
            return;
        }
        let look = || queues::sample(to, suspect.netns, suspect.time_ns);
        let before = self.searches.total_ns();
        let sample = if suspect.asked { Some(look()) } else { self.searches.within(look) };
        self.samplings_ns += self.searches.total_ns() - before;
        let Some(sample) = sample.filter(|sample| !sample.is_empty()) else { return };
        if let Some(known) = self.samples.get_mut(&suspect.sock) {
            known.truncate(SAMPLES);
            known.extend(sample);
            return;
        }
        if self.sampled.len() >= MAX_SAMPLED
            && let Some(oldest) = self.sampled.pop_front()
        {
            self.samples.remove(&oldest);
        }
        self.sampled.push_back(suspect.sock);
        self.samples.insert(suspect.sock, sample);
    }

    /// Looks for the owner of a datagram socket while it is still there.
    pub(super) fn find_owner(&mut self, error: &mut SocketError) {
        if error.owner.is_some() || self.follows || self.shed.owners {
            return;
        }
        let found = self.searches.within(|| owners::find(&error.tuple, error.netns, Holders::All));
        error.owner = found.flatten().and_then(|found| found.owner);
    }

    /// There is nothing to be seen in that namespace any more.
    pub(super) fn leave_soon(&mut self, netns: u64) {
        if let Some(last) = self.just_in_time.get_mut(&netns) {
            *last = (*last).min(now_ns().saturating_sub(WIRE_IDLE_NS - WIRE_GONE_NS));
        }
    }

    /// Takes tc away again where no connection was suspect for a while.
    pub(super) fn retire_wire(&mut self, now: u64) {
        let idle: Vec<u64> = self
            .just_in_time
            .iter()
            .filter(|(_, last)| now.saturating_sub(**last) > WIRE_IDLE_NS)
            .map(|(netns, _)| *netns)
            .collect();
        for netns in idle {
            self.just_in_time.remove(&netns);
            self.wire_since.remove(&netns);
            self.session.leave_wire(netns);
        }
    }
}
