//! Records that cross from the kernel to user space.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`). Addresses are in network byte order, an
//! IPv4 address in the first four bytes and the rest zero. Ports are in host byte order. Paddings are written
//! as zero.

use core::mem::size_of;
use core::net::IpAddr;

/// An address as records have it.
pub const fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Values of [`Header::kind`].
pub mod kind {
    pub const CONNECTION: u16 = 1;
    pub const SUSPECT: u16 = 2;
    pub const DROP: u16 = 3;
    pub const RESULT: u16 = 4;
    pub const ROUTE: u16 = 5;
    pub const NEIGHBOUR: u16 = 6;
    pub const ICMP_SENT: u16 = 7;
    pub const RESET_SENT: u16 = 8;
    pub const WIRE: u16 = 9;
    pub const ERROR: u16 = 10;
    pub const EXEC: u16 = 11;
    pub const SYN_ACK_AGAIN: u16 = 12;
    pub const OVERFLOW: u16 = 13;
    pub const DROP_WITH_FRAMES: u16 = 14;
}

/// First part of every record.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// A value of [`kind`].
    pub kind: u16,
    /// Length of the whole record in bytes.
    pub len: u16,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// When it was written.
    pub time_ns: u64,
}

/// The two ends as the socket or packet names them. Aligned, so that programs compare and copy words.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// `AF_INET` or `AF_INET6`; 0 where unknown.
    pub family: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Source port, or local port of a socket.
    pub sport: u16,
    /// Destination port, or peer's port of a socket.
    pub dport: u16,
    /// Source address, or local address of a socket.
    pub saddr: [u8; 16],
    /// Destination address, or peer's address of a socket.
    pub daddr: [u8; 16],
}

/// A process, taken where process context is certain.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// Process id (thread group id) in the initial pid namespace; 0 where unknown.
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Inode number of its network namespace; 0 where unknown.
    pub netns: u32,
    pub cgroup: u64,
    /// NUL-padded name of the thread.
    pub comm: [u8; 16],
}

/// Values of [`Step::kind`].
pub mod step {
    /// State transition; `code` = old state << 8 | new state.
    pub const STATE: u8 = 1;
    /// Segment retransmitted; `code` = TCP state, `detail` = retransmissions so far.
    pub const RETRANSMIT: u8 = 2;
    /// The socket's error was reported; `code` = `sk_err`, `detail` = `sk_err_soft`.
    pub const ERROR: u8 = 4;
    /// RST received.
    pub const RESET_RECEIVED: u8 = 5;
    /// RST sent in answer to a segment; `code` = reset reason + 1, 0 where the kernel has none.
    pub const RESET_SENT: u8 = 6;
    /// A packet of this socket was dropped; `detail` = drop reason.
    pub const DROP: u8 = 7;
}

/// One entry of a socket's timeline.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Microseconds since the timeline's start, saturating.
    pub offset_us: u32,
    /// A value of [`step`].
    pub kind: u8,
    pub _pad: u8,
    pub code: u16,
    pub detail: u32,
}

/// Length of a timeline. 24 steps hold a connect with all its SYN retransmits and a death by `tcp_retries2`.
pub const STEPS: usize = 24;

/// What is kept per open socket: what could not be had later. One cache line.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketEntry {
    pub start_ns: u64,
    pub owner: Owner,
    /// Sum over the fields above and the socket's address.
    pub check: u64,
    /// Bits of [`socket_flag`].
    pub flags: u32,
    pub _pad: u32,
}

/// Bits of [`SocketEntry::flags`] and [`ConnectionRecord::flags`].
pub mod socket_flag {
    /// Asked for by the user: sent whatever its end.
    pub const ASKED: u32 = 1;
    /// Has a timeline.
    pub const TIMELINE: u32 = 2;
    /// Seen from its connect(); without it the entry was made at the first sign of trouble.
    pub const FROM_START: u32 = 4;
    /// A SUSPECT record was sent.
    pub const SUSPECT: u32 = 8;
    /// Reached ESTABLISHED.
    pub const ESTABLISHED: u32 = 16;
    /// Opened from this side (SYN_SENT).
    pub const OUTBOUND: u32 = 32;
    /// The record was made by a process that is exiting (`PF_EXITING`).
    pub const CLOSER_EXITING: u32 = 64;
    /// The closer fields come from process context: the task that closed the socket.
    pub const CLOSER_KNOWN: u32 = 128;
    /// The kernel ended it with an error, and the application had taken `sk_err` before it could be read.
    pub const ERROR_TAKEN: u32 = 256;
}

/// A bounded timeline, begun at the first sign of trouble or at the start where the user asked.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    pub start_ns: u64,
    /// Steps written; may exceed [`STEPS`], then the rest was lost.
    pub count: u32,
    pub _pad: u32,
    pub steps: [Step; STEPS],
}

/// What `tcp_sock` says when it ends. A field that the kernel does not have reads [`crate::fields::ABSENT`]
/// truncated to its width (all ones).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpSummary {
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// Smoothed round-trip time in microseconds, times 8.
    pub srtt_us8: u32,
    pub total_retrans: u32,
    pub packets_out: u32,
    /// Bytes in the receive queue that the application did not read (a FIN counts one).
    pub unread: u32,
    /// Bytes written and not acknowledged.
    pub unacked: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds.
    pub user_timeout_ms: u32,
    pub retransmits: u8,
    pub probes_out: u8,
    pub _pad: [u8; 6],
    /// `sk_lingertime` in jiffies; meaningful when the flag SOCK_LINGER is in [`ConnectionRecord::sk_flags`].
    pub lingertime: u64,
}

/// A SYN that was dropped on this machine; all zero where there is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DroppedSyn {
    pub tuple: Tuple,
    pub time_ns: u64,
    /// `skb_drop_reason`
    pub reason: u32,
    pub netns: u32,
}

/// A connection that ended badly, or any that the user asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRecord {
    pub header: Header,
    /// Identity of the socket while it lives: its address in the kernel. Never shown.
    pub sock: u64,
    pub cookie: u64,
    pub start_ns: u64,
    pub owner: Owner,
    pub tuple: Tuple,
    /// Bits of [`socket_flag`].
    pub flags: u32,
    pub netns: u32,
    /// `sock.sk_flags`, bits named by `enum sock_flags` in BTF.
    pub sk_flags: u64,
    pub sk_err: u32,
    pub sk_err_soft: u32,
    pub old_state: u8,
    pub new_state: u8,
    pub _pad: [u8; 2],
    pub bound_dev_if: u32,
    pub tcp: TcpSummary,
    /// The task that ran the last transition; meaningful with CLOSER_KNOWN.
    pub closer_tgid: u32,
    pub closer_uid: u32,
    pub closer_comm: [u8; 16],
    /// The SYN from this source that was dropped right before, where the kernel ended the attempt.
    pub dropped_syn: DroppedSyn,
    pub timeline: Timeline,
}

/// A SYN was retransmitted: look at the connection's way and its listener now.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectRecord {
    pub header: Header,
    pub sock: u64,
    pub start_ns: u64,
    pub owner: Owner,
    pub tuple: Tuple,
    pub netns: u32,
    pub flags: u32,
}

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
    /// [`LimitBucket::key`] that it was limited by.
    pub limit_key: u32,
    pub stack: [u64; STACK_DEPTH],
}

/// How many records with one key were sent, and how many not (per CPU, map `LIMITS`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitBucket {
    /// Flow and cause, hashed; the latest that came to this bucket.
    pub key: u32,
    pub window: u32,
    /// Records sent in this window, whatever their key.
    pub sent: u32,
    /// Records of `key` not sent since the last that was.
    pub suppressed: u32,
}

/// Drops of one reason (per CPU, map `DROP_TOTALS`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropTotal {
    pub all: u64,
    /// Those of them that are no IP packet, or cannot be read: there is no record of them.
    pub unparsed: u64,
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

/// What the program `peek` reads: one page, which is there as a whole or not at all.
pub const PEEK_BYTES: usize = 4096;

/// The answer of the program `peek`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeekAnswer {
    /// 1 if the page could be read.
    pub read: u64,
    pub bytes: [u8; PEEK_BYTES],
}

/// Values of [`ResultRecord::call`].
pub mod call {
    pub const CONNECT: u32 = 1;
    pub const BIND: u32 = 2;
    pub const SENDTO: u32 = 3;
    pub const SENDMSG: u32 = 4;
    pub const LISTEN: u32 = 5;
    /// How many there are.
    pub const CALLS: usize = 5;
}

/// A system call that failed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultRecord {
    pub header: Header,
    pub sock: u64,
    pub owner: Owner,
    /// Local end from the socket, other end from the call's argument (`bind`: local from the argument).
    pub tuple: Tuple,
    /// A value of [`call`].
    pub call: u32,
    /// Positive errno.
    pub errno: u32,
    pub netns: u32,
    pub bound_dev_if: u32,
    pub flags: u32,
    pub _pad: u32,
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

/// The error of a socket that is no TCP connection (UDP).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRecord {
    pub header: Header,
    pub sock: u64,
    pub tuple: Tuple,
    pub sk_err: u32,
    pub sk_err_soft: u32,
    pub netns: u32,
    /// Bits of [`socket_flag`].
    pub flags: u32,
    /// Who connected it, if a followed process did; all zero else.
    pub owner: Owner,
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

/// A followed process runs a program in a network namespace other than netdiag's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecRecord {
    pub header: Header,
    pub owner: Owner,
}

/// A remote end, or a flow to it, whose packets the programs of probe `wire` may send: key of the map `INTEREST`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Interest {
    pub address: [u8; 16],
    pub port: u16,
    pub family: u16,
    /// The port of this machine's end; 0 for any.
    pub local_port: u16,
    pub _pad: u16,
}

/// Entries of the map of that name: closes of this machine between two looks of user space.
pub const TIME_WAIT_OWNERS: u32 = 65536;

/// What a socket in TIME_WAIT is found by; source is the local end.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TimeWaitKey {
    pub tuple: Tuple,
    pub netns: u32,
    pub _pad: u32,
}

/// Who closed a connection first.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeWaitOwner {
    pub closed_ns: u64,
    pub owner: Owner,
    /// Bits of [`time_wait_flag`].
    pub flags: u32,
    pub _pad: u32,
}

/// Bits of [`TimeWaitOwner::flags`].
pub mod time_wait_flag {
    /// A thread of the kernel closed it: for the kernel itself, or for a process that is not known.
    pub const KERNEL_THREAD: u32 = 1;
}

/// Where somebody listened.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LastListenerKey {
    pub address: [u8; 16],
    pub netns: u32,
    pub family: u16,
    pub port: u16,
}

/// Who listened there last.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastListener {
    /// 0: before the program was attached, or not known.
    pub since_ns: u64,
    pub until_ns: u64,
    /// Who held the socket last; all zero where that is not known.
    pub owner: Owner,
}

macro_rules! sizes {
    ($($t:ty = $n:expr;)*) => { $(const _: () = assert!(size_of::<$t>() == $n);)* };
}

sizes! {
    Header = 16;
    Tuple = 40;
    Owner = 40;
    Step = 12;
    SocketEntry = 64;
    Timeline = 16 + 12 * STEPS;
    TcpSummary = 56;
    PacketInfo = 80;
    DroppedSyn = 56;
    ConnectionRecord = 288 + size_of::<Timeline>();
    SuspectRecord = 120;
    DropRecord = 128 + 8 * STACK_DEPTH;
    FramesDropRecord = 24 + size_of::<DropRecord>() + 8 * FRAME_WORDS;
    PeekAnswer = 8 + PEEK_BYTES;
    LimitBucket = 16;
    DropTotal = 16;
    ResultRecord = 128;
    RouteRecord = 112;
    NeighbourRecord = 64;
    IcmpRecord = 104;
    ResetRecord = 120;
    WireRecord = 136;
    ErrorRecord = 120;
    ExecRecord = 56;
    SynAckRecord = 64;
    OverflowRecord = 104;
    Interest = 24;
    TimeWaitKey = 48;
    TimeWaitOwner = 56;
    LastListenerKey = 24;
    LastListener = 56;
}
