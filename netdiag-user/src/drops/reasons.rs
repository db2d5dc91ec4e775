//! What the kernel's reasons mean: the cause that each stands for, or why it is no loss.
//!
//! Names are those of `enum skb_drop_reason` (include/net/dropreason-core.h), without its prefix, of Linux 6.1 to 7.3.
//! A reason that is in no row is `drop.other`.

use std::net::IpAddr;

use crate::probes::Packet;

/// What a drop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A packet was lost; the code in the catalogue.
    Loss(&'static str),
    /// An ordinary free, or one that TCP expects.
    Normal,
}

impl Class {
    pub fn is_normal(self) -> bool {
        self == Self::Normal
    }

    /// `None` of what is normal.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Loss(code) => Some(code),
            Self::Normal => None,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Reason {
    pub name: &'static str,
    pub class: Class,
    /// In words, to follow "the packet was dropped: ".
    pub meaning: &'static str,
}

const FIREWALL: Class = Class::Loss("drop.firewall");
const REVERSE_PATH: Class = Class::Loss("drop.reverse-path-filter");
const NO_SOCKET: Class = Class::Loss("drop.no-socket");
const MARTIAN: Class = Class::Loss("drop.martian");
const FORWARDING: Class = Class::Loss("drop.forwarding-disabled");
const NO_ROUTE: Class = Class::Loss("drop.no-route");
const TOO_BIG: Class = Class::Loss("drop.too-big");
const CHECKSUM: Class = Class::Loss("drop.checksum");
const RECEIVE_BUFFER: Class = Class::Loss("drop.receive-buffer");
const BPF: Class = Class::Loss("drop.bpf");
const QDISC: Class = Class::Loss("drop.qdisc");
const OTHER: Class = Class::Loss("drop.other");
const NORMAL: Class = Class::Normal;

const fn row(name: &'static str, class: Class, meaning: &'static str) -> Reason {
    Reason { name, class, meaning }
}

/// By name.
pub const REASONS: &[Reason] = &[
    row("NETFILTER_DROP", FIREWALL, "the packet filter threw it away"),
    row("IP_RPFILTER", REVERSE_PATH, "answers to its source would leave by another interface"),
    row("NO_SOCKET", NO_SOCKET, "nothing here listens on its port"),
    row("SOCKET_CLOSE", NO_SOCKET, "its socket is closed"),
    row("TCP_CLOSE", NO_SOCKET, "its socket is closed"),
    row("IP_NOPROTO", NO_SOCKET, "nothing here takes its IP protocol"),
    row("IP_INVALID_SOURCE", MARTIAN, "its source address cannot be one (multicast, broadcast, 0.0.0.0)"),
    row("IP_LOCAL_SOURCE", MARTIAN, "it came in from outside with an address of this host as its source"),
    row("IP_LOCALNET", MARTIAN, "it came in from outside with a loopback address"),
    row("IP_INVALID_DEST", MARTIAN, "its destination address cannot be one"),
    row("UNICAST_IN_L2_MULTICAST", MARTIAN, "for one host, but sent to all on the link"),
    row("IP_INADDRERRORS", FORWARDING, "it is for another host, and this one forwards nothing"),
    row("IP_OUTNOROUTES", NO_ROUTE, "there is no route to its destination"),
    row("IP_INNOROUTES", NO_ROUTE, "there is no route to its destination"),
    row("PKT_TOO_BIG", TOO_BIG, "it is larger than the next link takes, and may not be cut"),
    row("TCP_CSUM", CHECKSUM, "its TCP checksum is wrong"),
    row("UDP_CSUM", CHECKSUM, "its UDP checksum is wrong"),
    row("ICMP_CSUM", CHECKSUM, "its ICMP checksum is wrong"),
    row("IP_CSUM", CHECKSUM, "its IP checksum is wrong"),
    row("SKB_CSUM", CHECKSUM, "its checksum could not be computed"),
    row("SOCKET_RCVBUFF", RECEIVE_BUFFER, "the socket's receive buffer is full"),
    row("SOCKET_BACKLOG", RECEIVE_BUFFER, "the socket's backlog is full"),
    row("PROTO_MEM", RECEIVE_BUFFER, "the protocol's memory is used up"),
    row("PFMEMALLOC", RECEIVE_BUFFER, "memory is short, and the socket is not needed to free some"),
    row("SOCKET_FILTER", BPF, "the filter of its socket, or of its socket's control group, refused it"),
    row("BPF_CGROUP_EGRESS", BPF, "a BPF program of its control group refused it"),
    row("TC_INGRESS", BPF, "a tc program or filter threw it away as it came in"),
    row("TC_EGRESS", BPF, "a tc program or filter threw it away as it went out"),
    row("TC_COOKIE_ERROR", BPF, "tc could not keep its place"),
    row("TC_CHAIN_NOTFOUND", BPF, "a tc filter sent it to a chain that is not there"),
    row("TC_RECLASSIFY_LOOP", BPF, "tc filters sent it in circles"),
    row("XDP", BPF, "an XDP program threw it away"),
    row("QDISC_DROP", QDISC, "the queueing discipline threw it away (queue full, or told to)"),
    row("QDISC_OVERLIMIT", QDISC, "the queueing discipline's queue is full"),
    row("QDISC_CONGESTED", QDISC, "the queueing discipline sees congestion"),
    row("CAKE_FLOOD", QDISC, "its flow floods the queue (cake)"),
    row("FQ_BAND_LIMIT", QDISC, "its band of the queue is full (fq)"),
    row("FQ_HORIZON_LIMIT", QDISC, "it was to be sent too far in the future (fq)"),
    row("FQ_FLOW_LIMIT", QDISC, "its flow has too many packets in the queue (fq)"),
    row("DUALPI2_STEP_DROP", QDISC, "the queue is too long (dualpi2)"),
    row("CPU_BACKLOG", QDISC, "the processor's input queue is full (net.core.netdev_max_backlog)"),
    row("FULL_RING", QDISC, "the queue of a virtual interface is full"),
    row("SECURITY_HOOK", OTHER, "a security module (SELinux, AppArmor...) refused it"),
    row("XFRM_POLICY", OTHER, "the IPsec policy does not allow it"),
    row("NEIGH_CREATEFAIL", OTHER, "no entry could be made for the next hop"),
    row("NEIGH_FAILED", OTHER, NO_NEIGHBOUR),
    row("NEIGH_QUEUEFULL", OTHER, "too many packets wait for the next hop's address"),
    row("NEIGH_DEAD", OTHER, "the next hop is gone"),
    row("NEIGH_HH_FILLFAIL", OTHER, "the link header could not be built"),
    row("DEV_READY", OTHER, "the interface is down"),
    row("DEV_HDR", OTHER, "the interface's driver could not build its header"),
    row("IPV6DISABLED", OTHER, "IPv6 is switched off on the interface"),
    row("IP_INHDR", OTHER, "its IP header is damaged, or its TTL ran out"),
    row("PKT_TOO_SMALL", OTHER, "it is shorter than its headers say"),
    row("HDR_TRUNC", OTHER, "its header is cut off"),
    row("TCP_FLAGS", OTHER, "its TCP flags do not fit the state of its connection"),
    row("TCP_ZEROWINDOW", OTHER, "the receive window is closed: the application does not read"),
    row("TCP_RFC7323_PAWS", OTHER, "its timestamp is older than the last one (PAWS)"),
    row("TCP_RFC7323_TW_PAWS", OTHER, "its timestamp is older than the connection in TIME_WAIT allows"),
    row("TCP_RFC7323_TSECR", OTHER, "it echoes a timestamp that was never sent"),
    row("TCP_INVALID_SEQUENCE", OTHER, "its sequence number is outside the window"),
    row("TCP_INVALID_END_SEQUENCE", OTHER, "it ends beyond the window"),
    row("TCP_INVALID_ACK_SEQUENCE", OTHER, "it acknowledges what was not sent"),
    row("TCP_INVALID_SYN", OTHER, "a SYN within a connection that exists"),
    row("TCP_FASTOPEN", OTHER, "TCP Fast Open does not want its data"),
    row("TCP_LISTEN_OVERFLOW", OTHER, "the listener's accept queue is full"),
    row("TCP_OFO_DROP", OTHER, "there is no memory for a segment out of order"),
    row("TCP_ABORT_ON_DATA", OTHER, "data came for a connection that nobody holds any more"),
    row("TCP_AUTH_HDR", OTHER, "its TCP authentication option is damaged"),
    row("TCP_MD5NOTFOUND", OTHER, "a TCP MD5 signature is missing"),
    row("TCP_MD5UNEXPECTED", OTHER, "a TCP MD5 signature that nobody asked for"),
    row("TCP_MD5FAILURE", OTHER, "its TCP MD5 signature is wrong"),
    row("NOMEM", OTHER, "the kernel is out of memory"),
    row("FRAG_REASM_TIMEOUT", OTHER, "other fragments of it did not come in time"),
    row("FRAG_TOO_FAR", OTHER, "fragments came too far apart"),
    row("DUP_FRAG", OTHER, "the fragment came twice"),
    // A packet of a connection that lives, or goes on without it; data that nobody can want any more.
    row("NOT_SPECIFIED", NORMAL, "the kernel gives no reason: mostly the ordinary end of a packet"),
    row("SKB_CONSUMED", NORMAL, "its way ended where it should"),
    row("QUEUE_PURGE", NORMAL, "left in the queue of a socket or device that was closed"),
    row("UNIX_DISCONNECT", NORMAL, "left in a Unix socket that was closed; never on a network"),
    row("UNIX_SKIP_OOB", NORMAL, "passed over in a Unix socket; never on a network"),
    row("TCP_OLD_DATA", NORMAL, "TCP had its data already"),
    row("TCP_OVERWINDOW", NORMAL, "more than the window that TCP announced; it will be sent again"),
    row("TCP_OFOMERGE", NORMAL, "TCP had its data already, out of order"),
    row("TCP_OFO_QUEUE_PRUNE", NORMAL, "TCP made room; it will be sent again"),
    row("TCP_OLD_SEQUENCE", NORMAL, "TCP had seen it already"),
    row("TCP_OLD_ACK", NORMAL, "an acknowledgement that a later one overtook"),
    row("TCP_TOO_OLD_ACK", NORMAL, "an acknowledgement that later ones overtook long ago"),
    row("TCP_ACK_UNSENT_DATA", NORMAL, "an acknowledgement of what was not sent; TCP answered it"),
    row("TCP_RFC7323_PAWS_ACK", NORMAL, "an old acknowledgement, overtaken by a later one"),
    row("TCP_RESET", NORMAL, "a RST that ended its connection"),
    row("TCP_FIN", NORMAL, "a FIN that did its work"),
    row("OTHERHOST", NORMAL, "for another host; a switch or a capture let it be seen"),
    row("UNHANDLED_PROTO", NORMAL, "no protocol of this kernel takes it"),
    row("IPV6DISABLED_PORT", NORMAL, "IPv6 on a port that has none"),
    row("PACKET_SOCK_ERROR", NORMAL, "a copy for a capture that had no room"),
    row("TAP_FILTER", NORMAL, "a virtual machine's interface did not ask for it"),
    row("TAP_TXFILTER", NORMAL, "a virtual machine's interface did not ask for it"),
    row("BRIDGE_INGRESS_STP_STATE", NORMAL, "the bridge port does not forward (spanning tree)"),
    row("LOCAL_MAC", NORMAL, "a bridge does not send to itself"),
];

const NO_NEIGHBOUR: &str = "the next hop does not answer ARP or neighbour discovery";
const REFUSED: &str = "a route refuses its destination (unreachable, prohibit, blackhole)";

/// Places that say more than the reason does: reason, function, and what it is then.
const PLACES: &[(&str, &str, Class, &str)] = &[
    // It ends packets for which the lookup found no route, and gives a reason for some only.
    ("NOT_SPECIFIED", "ip_error", NO_ROUTE, REFUSED),
    ("NOT_SPECIFIED", "dst_discard", NO_ROUTE, REFUSED),
    ("NOT_SPECIFIED", "dst_discard_out", NO_ROUTE, REFUSED),
    // ndisc_error_report() gives no reason where arp_error_report() does.
    ("NOT_SPECIFIED", "neigh_invalidate", OTHER, NO_NEIGHBOUR),
    ("NOT_SPECIFIED", "ndisc_error_report", OTHER, NO_NEIGHBOUR),
    // Before Linux 6.14 there was no reason for any of IP_INVALID_SOURCE and its like.
    ("NOT_SPECIFIED", "ip_rcv_finish_core", MARTIAN, "its addresses or IP options make no sense here"),
];

const NOT_JOINED: &str = "for a multicast group that nobody here joined";

/// What a drop for this reason is where nothing else is known, and its meaning in words.
pub fn of_reason(reason: &str) -> (Class, &'static str) {
    let known = REASONS.iter().find(|known| known.name == reason);
    match known {
        Some(known) => (known.class, known.meaning),
        None if reason.starts_with("QDISC_") => (QDISC, "the queueing discipline threw it away"),
        None => (OTHER, ""),
    }
}

/// What a drop for this reason in this function is, and its meaning in words.
pub fn class(reason: &str, symbol: Option<&str>, packet: &Packet) -> (Class, &'static str) {
    let is_there = |(name, at, ..): &&(&str, &str, Class, &str)| *name == reason && Some(*at) == symbol;
    let (class, meaning) = match PLACES.iter().find(is_there) {
        Some((_, _, class, meaning)) => (*class, *meaning),
        None => of_reason(reason),
    };
    let (from, to) = (packet.tuple.source.ip(), packet.tuple.destination.ip());
    // ip_route_input_rcu() and ip6_forward() give one reason for several things; addresses tell them apart.
    match class {
        MARTIAN if to.is_multicast() && !is_source_at_fault(reason, from) => (NORMAL, NOT_JOINED),
        FORWARDING if !can_be_source(from) || to.is_unspecified() => {
            (MARTIAN, "its addresses cannot be those of a packet that is passed on")
        }
        // A SYN that meets these is lost. What comes late, out of order, is no loss: TCP has said all, and answers it.
        OTHER if packet.is_late() && reason == "TCP_FLAGS" => {
            (NORMAL, "late, for a connection that has ended; the listener answered with RST")
        }
        OTHER if packet.is_late() && reason == "TCP_RFC7323_TW_PAWS" => {
            (NORMAL, "an old segment for a connection in TIME_WAIT")
        }
        as_it_is => (as_it_is, meaning),
    }
}

fn is_source_at_fault(reason: &str, from: IpAddr) -> bool {
    matches!(reason, "IP_INVALID_SOURCE" | "IP_LOCAL_SOURCE" | "IP_LOCALNET") || !can_be_source(from)
}

fn can_be_source(from: IpAddr) -> bool {
    !(from.is_unspecified() || from.is_loopback() || from.is_multicast())
}
