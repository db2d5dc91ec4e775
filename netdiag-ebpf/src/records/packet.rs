//! Packets and what became of them: seen on the wire, dropped, answered, without a route or a neighbour.

use super::{Header, Owner, Tuple};

/// Depth of the kernel stack kept with a drop.
pub const STACK_DEPTH: usize = 24;

/// Values of [`PacketInfo::direction`].
pub mod direction {
    pub const UNKNOWN: u8 = 0;
    pub const INGRESS: u8 = 1;
    pub const EGRESS: u8 = 2;
}

/// The headers of one packet.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketInfo {
    pub tuple: Tuple,
    /// TCP flags byte; ICMP type for ICMP.
    pub flags: u8,
    /// ICMP code for ICMP.
    pub code: u8,
    /// Time to live or hop limit as read in the header.
    pub ttl: u8,
    /// A value of [`direction`].
    pub direction: u8,
    /// TCP sequence number, host byte order.
    pub seq: u32,
    /// `skb->dev`, 0 where unknown.
    pub ifindex: u32,
    /// Where it came in (`skb_iif`), 0 for a packet of this host.
    pub iif: u32,
    pub netns: u32,
    pub _pad: u32,
    pub ifname: [u8; 16],
}

/// `kfree_skb`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropRecord {
    pub header: Header,
    /// The packet's own socket, 0 if none.
    pub sock: u64,
    /// Address of the instruction that freed the packet.
    pub location: u64,
    /// `skb_drop_reason`
    pub reason: u32,
    /// Like drops not sent since the last record of this flow and cause.
    pub suppressed: u32,
    pub packet: PacketInfo,
    /// Words of `stack` that are valid.
    pub stack_len: u32,
    /// [`super::LimitBucket::key`] that it was limited by.
    pub limit_key: u32,
    pub stack: [u64; STACK_DEPTH],
}

/// Words of raw stack memory that go with a drop of the packet filter.
pub const FRAME_WORDS: usize = 160;

/// `kfree_skb` out of the packet filter: the frames of its callers still live on the kernel's stack, and hold what
/// the filter was looking at.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramesDropRecord {
    pub drop: DropRecord,
    /// The packet's network namespace (`struct net`); 0 where unknown.
    pub net: u64,
    /// Where `frames` was copied from, lowest address first.
    pub base: u64,
    /// Words of `frames` that could be read.
    pub frames_len: u32,
    pub _pad: u32,
    pub frames: [u64; FRAME_WORDS],
}

/// A route lookup that failed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRecord {
    pub header: Header,
    pub owner: Owner,
    pub tuple: Tuple,
    /// Routing table that was asked last.
    pub table: u32,
    /// Positive errno: EAGAIN (11) for "not in this table".
    pub errno: u32,
    pub iif: u32,
    pub oif: u32,
}

/// A neighbour that did not answer (NUD_FAILED).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourRecord {
    pub header: Header,
    pub address: [u8; 16],
    pub family: u32,
    pub ifindex: u32,
    pub netns: u32,
    pub _pad: u32,
    pub ifname: [u8; 16],
}

/// `icmp_send`: this machine answers a packet with an ICMP error.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpRecord {
    pub header: Header,
    /// The packet that is answered.
    pub packet: PacketInfo,
    pub icmp_type: u32,
    pub icmp_code: u32,
}

/// `tcp_send_reset`: this machine answers a segment with RST.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetRecord {
    pub header: Header,
    /// 0 where there is none.
    pub sock: u64,
    /// The segment that is answered.
    pub packet: PacketInfo,
    /// `sk_rst_reason` + 1; 0 where the kernel has none.
    pub reason: u32,
    pub sk_state: u32,
    /// Accept queue of the listener.
    pub ack_backlog: u32,
    pub max_ack_backlog: u32,
}

/// A packet on the wire, seen by tc.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireRecord {
    pub header: Header,
    /// For an ICMP error: its own source and destination.
    pub packet: PacketInfo,
    /// For an ICMP error: the packet that it quotes. For a SYN of which NAT has changed an end: what its socket asked for.
    pub quoted: Tuple,
}

/// A listener of this machine sends its SYN-ACK again: the handshake's last ACK did not come.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynAckRecord {
    pub header: Header,
    /// Source is the listener's end.
    pub tuple: Tuple,
    pub netns: u32,
    pub _pad: u32,
}

/// `tcp_conn_request`: a listener's accept queue has no room for this SYN.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverflowRecord {
    pub header: Header,
    pub packet: PacketInfo,
    /// Finished handshakes that wait for accept().
    pub ack_backlog: u32,
    /// One more than this may wait.
    pub max_ack_backlog: u32,
}

sizes! {
    PacketInfo = 80;
    DropRecord = 128 + 8 * STACK_DEPTH;
    FramesDropRecord = 24 + size_of::<DropRecord>() + 8 * FRAME_WORDS;
    RouteRecord = 112;
    NeighbourRecord = 64;
    IcmpRecord = 104;
    ResetRecord = 120;
    WireRecord = 136;
    SynAckRecord = 64;
    OverflowRecord = 104;
}
