//! Sockets and their connections: how they began, what they went through, how they ended, which calls failed.

use super::{Header, Owner, Tuple};

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

/// Bits of [`super::SocketEntry::flags`] and [`ConnectionRecord::flags`].
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
    /// An IPv6 socket that may not carry IPv4 (`IPV6_V6ONLY`). Told of calls that failed only.
    pub const IPV6_ONLY: u32 = 512;
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

sizes! {
    Step = 12;
    Timeline = 16 + 12 * STEPS;
    TcpSummary = 56;
    DroppedSyn = 56;
    ConnectionRecord = 288 + size_of::<Timeline>();
    SuspectRecord = 120;
    ResultRecord = 128;
    ErrorRecord = 120;
}
