use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::hook::Hook;
use crate::enrich::changes::Change;
use crate::probes::{Call, DropRule, Packet, TcpState, Tuple};

/// Where a packet was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Inode number of the network namespace; 0 where unknown.
    pub netns: u32,
    /// Its name below /run/netns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    State {
        from: TcpState,
        to: TcpState,
    },
    /// `state` SYN_SENT: the SYN was sent again.
    Retransmit {
        state: TcpState,
        retransmits: Option<u32>,
    },
    Error {
        errno: i32,
        soft: i32,
    },
    ResetReceived,
    /// The socket of this connection answered a segment with RST.
    ResetSent {
        reason: Option<String>,
    },
    /// A packet was dropped on this machine. `outgoing`: from the local end to the peer (else it came from
    /// the peer). `reason` is the kernel's name, without its prefix.
    Dropped {
        packet: Packet,
        outgoing: bool,
        reason: String,
        /// Kernel function that dropped it.
        symbol: Option<String>,
        hook: Option<Hook>,
        /// Functions of the kernel's stack, innermost first, without offsets; empty where none was taken.
        stack: Vec<String>,
        place: Place,
        suppressed: u32,
        /// The firewall's rule, where the kernel named it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Box<DropRule>>,
    },
    /// Seen by tc on an interface. `outgoing` as above.
    Wire {
        packet: Packet,
        outgoing: bool,
        place: Place,
    },
    /// An ICMP error about this connection arrived (seen by tc); `packet.tuple.source` said it.
    IcmpReceived {
        packet: Packet,
        place: Place,
    },
    /// This machine sent an ICMP error about a packet of this connection.
    IcmpSent {
        icmp_type: u8,
        icmp_code: u8,
        outgoing: bool,
        place: Place,
    },
    /// This machine answered a segment of this connection with RST, on behalf of another socket (a listener,
    /// or the other end).
    ResetAnswered {
        reason: Option<String>,
        state: Option<TcpState>,
        accept_queue: u32,
        backlog: u32,
        place: Place,
    },
    /// A route lookup for this connection failed. `forwarded`: in another namespace's routing.
    RouteFailed {
        tuple: Tuple,
        table: u32,
        errno: i32,
        forwarded: bool,
        #[serde(default)]
        place: Place,
    },
    /// The listener of this connection, on this machine, sent its SYN-ACK again.
    SynAckRetransmitted {
        place: Place,
    },
    /// The listener of this connection, on this machine, had no room for the SYN, and the kernel dropped it.
    ListenOverflow {
        accept_queue: u32,
        backlog: u32,
        place: Place,
    },
    NeighbourFailed {
        address: IpAddr,
        place: Place,
    },
    CallFailed {
        call: Call,
        errno: i32,
    },
    /// Rules, routes, addresses, links or neighbours were changed, perhaps before the connection began.
    Changed {
        change: Box<Change>,
        place: Place,
    },
}

/// An entry of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub what: What,
}
