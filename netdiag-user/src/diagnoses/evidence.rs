//! All that a diagnosis may look at. It can be saved and read back, so diagnoses are tested without a kernel.

use serde::{Deserialize, Serialize};

use crate::enrich::facts::Facts;
use crate::probes::TcpState;
use crate::track::{Connection, Hook, Moment, What};

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

    /// Packets of this connection that the packet filter dropped on their way out, at most so long before its end: a
    /// rule that rejects answers at once.
    pub fn filtered_at_end(&self, within_ns: u64) -> impl Iterator<Item = &What> {
        let end_ns = self.connection.end_ns;
        self.drops().filter_map(move |(time_ns, what)| {
            let filtered =
                matches!(what, What::Dropped { outgoing: true, reason, .. } if reason == "NETFILTER_DROP");
            (filtered && (time_ns..=time_ns + within_ns).contains(&end_ns)).then_some(what)
        })
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

    /// The error of the lookup for the destination that NAT gave to the SYN, which cost it in hook output: that is no rule
    /// (net/netfilter/nf_nat_proto.c, `nf_nat_ipv4_local_fn`, `nf_nat_ipv6_local_fn`). The application is told nothing.
    pub fn unroutable_after_nat(&self) -> Option<i32> {
        /// One call of the hook does both.
        const AT_MOST_NS: u64 = 5_000_000;
        let connection = &self.connection;
        if connection.before_nat.is_none() || !connection.died_connecting() {
            return None;
        }
        let cost_a_syn = |lookup_ns: u64| {
            self.drops().any(|(time_ns, what)| {
                matches!(what, What::Dropped { packet, outgoing: true, hook: Some(Hook::Output), symbol, .. }
                    if packet.is_syn() && symbol.as_deref() == Some("nf_hook_slow")
                        && (lookup_ns..lookup_ns + AT_MOST_NS).contains(&time_ns))
            })
        };
        let failed = self.find(|what| match what {
            What::RouteFailed { errno, forwarded: false, tuple, .. }
                if tuple.destination.ip() == connection.peer.ip() =>
            {
                Some(*errno)
            }
            _ => None,
        });
        failed.filter(|(time_ns, _)| cost_a_syn(*time_ns)).last().map(|(_, errno)| errno)
    }
}
