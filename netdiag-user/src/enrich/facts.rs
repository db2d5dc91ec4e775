//! What is true around a connection when it fails, gathered for the diagnoses.
//!
//! `None` means "not asked or not known", an empty list "asked, and there is none".

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::links::Link;
use super::listeners::Listener;
use super::neighbours::Neighbour;
use super::process::Process;
use super::routes::RouteAnswer;

/// A network namespace by inode number and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsFact {
    pub inode: u64,
    #[serde(default)]
    pub name: Option<String>,
}

/// A listener's queues at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSample {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub netns: u64,
    pub local: SocketAddr,
    /// Connections that wait for accept().
    pub accept_queue: u32,
    /// Its bound; the queue is full when `accept_queue` is above it.
    pub backlog: u32,
    /// Embryonic connections (SYN_RECV) on that port.
    pub syn_recv: u32,
    /// Different addresses among their peers; `None` in evidence that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_sources: Option<u32>,
    /// TCP counters of that namespace: ListenOverflows, ListenDrops, TCPReqQFullDrop, PassiveOpens...
    pub counters: BTreeMap<String, u64>,
}

/// How full a namespace's connection tracking table is, after it dropped a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackFact {
    /// Inode number.
    pub netns: u64,
    /// Entries in this namespace's table.
    pub count: u64,
    /// How many entries it may have; 0: as many as there is memory for.
    pub max: u64,
    /// Packets that connection tracking dropped in this namespace since it was made; `None`: not known.
    pub dropped: Option<u64>,
}

impl ConntrackFact {
    /// Whether there is no room, or was none a moment ago. Of a full table entries expire all the time, and the
    /// kernel's collector clears it to just below 95 % (net/netfilter/nf_conntrack_core.c, `gc_worker`): a
    /// table that had to drop packets is called full from 90 % on.
    pub fn is_full(&self) -> bool {
        let percent = if self.dropped.is_some_and(|dropped| dropped > 0) { 90 } else { 99 };
        self.max != 0 && u128::from(self.count) * 100 >= u128::from(self.max) * percent
    }
}

/// Processes that hold sockets in one state (for exhausted ports) or one address (for "in use").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// One of those that hold it; `None` where no process does (TIME_WAIT), or none that may be seen.
    pub process: Option<Process>,
    /// As the kernel names it: `LISTEN`, `ESTABLISHED`, `TIME_WAIT`; an unconnected UDP socket is in `CLOSE`.
    pub state: String,
    /// Port 0 where the sockets have several.
    pub local: SocketAddr,
    /// Sockets like this one.
    pub count: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The namespace of the other end, where that ended on this machine too.
    pub other_netns: Option<NetnsFact>,
    /// The connection's namespace by name.
    pub netns: Option<NetnsFact>,
    /// Namespaces of this machine that carry the peer's address and that links join with the connection's own;
    /// its own alone where that has it. `None`: not looked up.
    pub peer_namespaces: Option<Vec<NetnsFact>>,
    /// Whether several are named there, and which one gets the packets is not known.
    pub peer_ambiguous: bool,
    /// Listeners of this machine on the peer's port, in any namespace that links join with the connection's
    /// own.
    pub listeners: Option<Vec<Listener>>,
    /// Whether a namespace that may matter for the two above could not be looked into: where the connection's
    /// own has the peer's address, others do not matter.
    pub listeners_incomplete: bool,
    /// The route to the peer as it is now.
    pub route: Option<RouteAnswer>,
    /// The same as `ip route` would print it.
    pub route_text: Option<String>,
    /// Whether the namespace has a default route, of the connection's family.
    pub has_default_route: Option<bool>,
    /// Interfaces of the connection's namespace.
    pub links: Option<Vec<Link>>,
    /// The next hop's neighbour entry.
    pub neighbour: Option<Neighbour>,
    /// Settings of the connection's namespace, by name: `net.ipv4.ip_local_port_range`...
    pub sysctls: BTreeMap<String, String>,
    /// Settings of the peer's namespace where that is on this machine.
    pub peer_sysctls: BTreeMap<String, String>,
    /// The peer's listener, oldest first: at the first SYN retransmit and at the end.
    pub queue_samples: Vec<QueueSample>,
    /// The tables of namespaces where netfilter dropped a packet of this connection outside of nftables.
    pub conntrack: Vec<ConntrackFact>,
    /// Who holds the address or ports, for `local.*`.
    pub holders: Option<Vec<Holder>>,
    /// More about the owner.
    pub process: Option<Process>,
    /// The name that the process looked the peer up by.
    pub hostname: Option<String>,
}
