//! All that a diagnosis may look at. It can be saved and read back, so diagnoses are tested without a kernel.

use serde::{Deserialize, Serialize};

use crate::enrich::facts::Facts;
use crate::probes::TcpState;
use crate::track::{Connection, Moment, What};

/// What could not be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Records that the kernel side could not send since the connection began.
    pub lost_events: u64,
    /// Programs that this kernel does not allow.
    pub missing: Vec<String>,
    /// Whether tc watched the connection's namespace from its start.
    pub wire: bool,
    /// Whether tc watched it from the first SYN retransmit on.
    pub wire_since_suspect: bool,
    /// What the agent did without to keep within its budget: `wire`, `samples`, `owners`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shed: Vec<String>,
}

/// One connection and everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub connection: Connection,
    /// Oldest first.
    pub timeline: Vec<Moment>,
    /// The end at the peer, where that is on this machine and failed too.
    #[serde(default)]
    pub other_end: Option<Box<Connection>>,
    #[serde(default)]
    pub facts: Facts,
    #[serde(default)]
    pub coverage: Coverage,
}

impl Evidence {
    /// Moments that `pick` maps to something.
    pub fn find<'a, T>(
        &'a self,
        pick: impl Fn(&'a What) -> Option<T> + 'a,
    ) -> impl Iterator<Item = (u64, T)> + 'a {
        self.timeline.iter().filter_map(move |m| pick(&m.what).map(|t| (m.time_ns, t)))
    }

    /// How often the SYN was sent again.
    pub fn syn_retransmits(&self) -> usize {
        self.find(|w| matches!(w, What::Retransmit { state: TcpState::SynSent, .. }).then_some(())).count()
    }

    /// Retransmits after the handshake.
    pub fn data_retransmits(&self) -> usize {
        self.find(|w| {
            matches!(w, What::Retransmit { state, .. } if *state != TcpState::SynSent).then_some(())
        })
        .count()
    }

    /// Packets of this connection that this machine dropped: (time, moment).
    pub fn drops(&self) -> impl Iterator<Item = (u64, &What)> {
        self.find(|w| matches!(w, What::Dropped { .. }).then_some(w))
    }

    /// The first drop whose reason is one of `reasons` and whose direction fits.
    pub fn drop_of(&self, reasons: &[&str], outgoing: bool) -> Option<(u64, &What)> {
        self.drops().find(|(_, w)| {
            matches!(w, What::Dropped { reason, outgoing: out, .. }
                if *out == outgoing && reasons.contains(&reason.as_str()))
        })
    }

    /// SYNs of this connection that left an interface of this machine.
    pub fn syns_on_wire(&self) -> impl Iterator<Item = (u64, &What)> {
        self.find(|w| {
            matches!(w, What::Wire { packet, outgoing: true, .. }
                if packet.is_syn() && packet.direction == crate::probes::Direction::Egress)
            .then_some(w)
        })
    }

    /// Packets of the peer that arrived on an interface of this machine.
    pub fn answers_on_wire(&self) -> impl Iterator<Item = (u64, &What)> {
        self.find(|w| {
            matches!(w, What::Wire { packet, outgoing: false, .. }
                if packet.direction == crate::probes::Direction::Ingress)
            .then_some(w)
        })
    }

    /// Whether the peer's address belongs to a namespace of this machine; `None`: not known.
    pub fn peer_is_local(&self) -> Option<bool> {
        if self.connection.peer.ip().is_loopback() {
            return Some(true);
        }
        self.facts.peer_namespaces.as_ref().map(|found| !found.is_empty())
    }

    /// Microseconds from the start.
    pub fn offset_us(&self, time_ns: u64) -> i64 {
        (time_ns as i64 - self.connection.start_ns as i64) / 1000
    }
}
