//! What is true around a connection when it fails, gathered for the diagnoses.
//!
//! `None` means "not asked or not known", an empty list "asked, and there is none".

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::droppers::Dropper;
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

/// What was seen of the peer's answers on other connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBefore {
    /// TTL or hop limit of its last SYN-ACK.
    pub ttl: u8,
    /// Microseconds from a SYN to its SYN-ACK, at least.
    #[serde(default)]
    pub fastest_us: Option<u64>,
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

/// What connection tracking knows of a connection of which it called a packet invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedFact {
    /// Inode number.
    pub netns: u64,
    /// Whether it has an entry for it.
    pub known: bool,
    /// Of TCP: `SYN_SENT`, `ESTABLISHED`, as conntrack(8) prints it.
    pub state: Option<String>,
    /// Whether it looks at checksums (`nf_conntrack_checksum`).
    pub checksums: Option<bool>,
    /// Whether it lets packets outside of the window pass (`nf_conntrack_tcp_be_liberal`).
    pub liberal: Option<bool>,
}

/// Whether a namespace forwards packets that come in by an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardingFact {
    /// Inode number.
    pub netns: u64,
    /// The setting that decides: `net.ipv4.conf.eth0.forwarding`, `net.ipv6.conf.all.forwarding`.
    pub setting: String,
    pub enabled: bool,
}

/// The route that an answer to a packet would take: what the reverse path filter asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReverseRoute {
    /// Inode number of the namespace in which the packet was dropped.
    pub netns: u64,
    /// The packet's source.
    pub address: IpAddr,
    /// The interface that the answer would leave through; `None`: there is no route.
    pub interface: Option<String>,
    /// As `ip route` prints it.
    pub text: Option<String>,
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

/// A rule that may give what a connection sends another destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRule {
    /// Inode number of its network namespace.
    pub netns: u64,
    /// As nftables names it: `ip`, `inet`.
    pub family: String,
    pub table: String,
    pub chain: String,
    /// Of nftables.
    pub handle: Option<u64>,
    /// An address, a port (`:8081`), or both; `None` where that is not known.
    pub to: Option<String>,
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
    /// Where a rule about invalid packets dropped one of this connection.
    pub tracked: Vec<TrackedFact>,
    /// Programs, filters and queues where packets of this connection were dropped by one of them.
    pub droppers: Vec<Dropper>,
    /// Where a packet of this connection was not for the namespace that it had come to.
    pub forwarding: Vec<ForwardingFact>,
    /// Where the reverse path filter dropped a packet of this connection.
    pub reverse_routes: Vec<ReverseRoute>,
    /// Who holds the address or ports, for `local.*`.
    pub holders: Option<Vec<Holder>>,
    /// The peer's answers on other connections, where the wire was watched then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_before: Option<PeerBefore>,
    /// More about the owner.
    pub process: Option<Process>,
    /// Rules of the connection's own namespace, and of netdiag's where links join the two, that may have sent its SYN
    /// elsewhere, where nothing else tells. `None`: not looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_rules: Option<Vec<NatRule>>,
    /// The name that the process looked the peer up by.
    pub hostname: Option<String>,
    /// What this failure called for, and was not looked up, as so many connections failed at once: [`LISTENERS`] and the
    /// like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_looked_up: Vec<String>,
}

/// Whose the peer's address is and what listens there, in [`Facts::not_looked_up`].
pub const LISTENERS: &str = "listeners";
/// [`Facts::nat_rules`], in [`Facts::not_looked_up`].
pub const NAT: &str = "nat";

impl Facts {
    pub fn is_not_looked_up(&self, what: &str) -> bool {
        self.not_looked_up.iter().any(|name| name == what)
    }
}
