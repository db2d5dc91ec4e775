pub mod listeners;

use netdiag_ebpf::fields::ABSENT;
use netdiag_ebpf::records::{self, ConnectionRecord, STEPS, socket_flag, step};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner, text};

/// include/net/tcp_states.h
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    BoundInactive,
}

impl TcpState {
    const ALL: [TcpState; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
        Self::BoundInactive,
    ];

    /// The state with this number in the kernel; `None` for one that is newer than this table.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    pub(super) fn decode(value: u8) -> Result<Self, DecodeError> {
        Self::from_number(value).ok_or(DecodeError::Value { what: "TCP state", value: value.into() })
    }
}

impl std::fmt::Display for TcpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
            Self::BoundInactive => "BOUND_INACTIVE",
        })
    }
}

/// What `tcp_sock` said at the end. `None`: this kernel's BTF does not name the field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSummary {
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    /// Smoothed round-trip time; `None` also where none was measured.
    pub srtt_us: Option<u32>,
    pub total_retrans: Option<u32>,
    pub packets_out: Option<u32>,
    /// Bytes that arrived and were not read by the application (a FIN counts one).
    pub unread: Option<u32>,
    /// Bytes that were written and not acknowledged.
    pub unacked: Option<u32>,
    /// `TCP_USER_TIMEOUT`; 0 is off.
    pub user_timeout_ms: Option<u32>,
    /// Retransmissions of the segment at the head of the queue.
    pub retransmits: Option<u8>,
    /// Keepalive or zero-window probes without an answer.
    pub probes_out: Option<u8>,
    /// Jiffies; with the flag SOCK_LINGER and 0, close() sends RST.
    pub lingertime: Option<u64>,
}

/// The task that closed a socket, where it was process context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closer {
    pub pid: u32,
    pub comm: SmolStr,
    #[serde(default)]
    pub uid: u32,
    /// It was exiting: the kernel closed its descriptors.
    pub exiting: bool,
}

/// What happened to a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    State { from: TcpState, to: TcpState },
    Retransmit { state: TcpState, retransmits: Option<u32> },
    Error { errno: i32, soft: i32 },
    ResetReceived,
    ResetSent { reason: Option<u32> },
    Drop { reason: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub time_ns: u64,
    pub kind: StepKind,
}

/// A SYN that was dropped on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedSyn {
    pub time_ns: u64,
    pub tuple: Tuple,
    /// `skb_drop_reason` of this kernel.
    pub reason: u32,
    /// Inode number of the network namespace where that was; 0 where unknown.
    pub netns: u32,
}

/// The end of a connection, with its timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionEnd {
    pub time_ns: u64,
    /// connect(), or the first sign of trouble where the beginning was not seen.
    pub start_ns: u64,
    /// Identity of the socket while it lives; a kernel address, never shown.
    #[serde(skip)]
    pub sock: u64,
    pub cookie: Option<u64>,
    pub owner: Option<Owner>,
    /// Source is the local end.
    pub tuple: Tuple,
    pub netns: u32,
    pub asked: bool,
    pub from_start: bool,
    pub outbound: bool,
    pub sk_flags: u64,
    pub errno: Option<i32>,
    /// The kernel ended it with an error that the application took before it could be read.
    pub error_taken: bool,
    pub soft_errno: Option<i32>,
    pub from: TcpState,
    pub to: TcpState,
    pub bound_interface: Option<u32>,
    pub tcp: TcpSummary,
    pub closer: Option<Closer>,
    /// One from its source, right before the kernel ended its attempt.
    #[serde(default)]
    pub dropped_syn: Option<DroppedSyn>,
    pub steps: Vec<Step>,
    /// Steps beyond the kernel's bound.
    pub lost_steps: u32,
}

pub(super) fn decode(raw: &ConnectionRecord) -> Result<ConnectionEnd, DecodeError> {
    let has = |flag: u32| raw.flags & flag != 0;
    let errno = |value: u32| (value != 0).then_some(value as i32);
    let count = (raw.timeline.count as usize).min(STEPS);
    let mut steps = Vec::with_capacity(count);
    for step in &raw.timeline.steps[..count] {
        steps.push(decode_step(raw.timeline.start_ns, step)?);
    }
    Ok(ConnectionEnd {
        time_ns: raw.header.time_ns,
        start_ns: raw.start_ns,
        sock: raw.sock,
        cookie: (raw.cookie != 0).then_some(raw.cookie),
        owner: owner(&raw.owner),
        tuple: tuple(&raw.tuple)?,
        netns: raw.netns,
        asked: has(socket_flag::ASKED),
        from_start: has(socket_flag::FROM_START),
        outbound: has(socket_flag::OUTBOUND),
        sk_flags: raw.sk_flags,
        errno: errno(raw.sk_err),
        error_taken: has(socket_flag::ERROR_TAKEN),
        soft_errno: errno(raw.sk_err_soft),
        from: TcpState::decode(raw.old_state)?,
        to: TcpState::decode(raw.new_state)?,
        bound_interface: (raw.bound_dev_if != 0).then_some(raw.bound_dev_if),
        tcp: summary(&raw.tcp),
        closer: has(socket_flag::CLOSER_KNOWN).then(|| Closer {
            pid: raw.closer_tgid,
            comm: text(&raw.closer_comm),
            uid: raw.closer_uid,
            exiting: has(socket_flag::CLOSER_EXITING),
        }),
        dropped_syn: dropped_syn(&raw.dropped_syn)?,
        steps,
        lost_steps: raw.timeline.count.saturating_sub(STEPS as u32),
    })
}

fn dropped_syn(raw: &records::DroppedSyn) -> Result<Option<DroppedSyn>, DecodeError> {
    if raw.time_ns == 0 {
        return Ok(None);
    }
    let records::DroppedSyn { tuple: ends, time_ns, reason, netns } = raw;
    Ok(Some(DroppedSyn { time_ns: *time_ns, tuple: tuple(ends)?, reason: *reason, netns: *netns }))
}

fn summary(raw: &records::TcpSummary) -> TcpSummary {
    let word = |value: u32| (value != ABSENT).then_some(value);
    let byte = |value: u8| (value != u8::MAX).then_some(value);
    let long = |value: u64| (value != u64::MAX).then_some(value);
    TcpSummary {
        bytes_acked: long(raw.bytes_acked),
        bytes_received: long(raw.bytes_received),
        srtt_us: word(raw.srtt_us8).filter(|v| *v != 0).map(|v| v / 8),
        total_retrans: word(raw.total_retrans),
        packets_out: word(raw.packets_out),
        unread: word(raw.unread),
        unacked: word(raw.unacked),
        user_timeout_ms: word(raw.user_timeout_ms),
        retransmits: byte(raw.retransmits),
        probes_out: byte(raw.probes_out),
        lingertime: long(raw.lingertime),
    }
}

fn decode_step(start_ns: u64, raw: &records::Step) -> Result<Step, DecodeError> {
    let kind = match raw.kind {
        step::STATE => StepKind::State {
            from: TcpState::decode((raw.code >> 8) as u8)?,
            to: TcpState::decode(raw.code as u8)?,
        },
        step::RETRANSMIT => StepKind::Retransmit {
            state: TcpState::decode(raw.code as u8)?,
            retransmits: (raw.detail != u32::from(u8::MAX)).then_some(raw.detail),
        },
        step::ERROR => StepKind::Error { errno: raw.code.into(), soft: raw.detail as i32 },
        step::RESET_RECEIVED => StepKind::ResetReceived,
        step::RESET_SENT => StepKind::ResetSent { reason: u32::from(raw.code).checked_sub(1) },
        step::DROP => StepKind::Drop { reason: raw.detail },
        other => return Err(DecodeError::Value { what: "step", value: other.into() }),
    };
    Ok(Step { time_ns: start_ns.saturating_add(u64::from(raw.offset_us) * 1000), kind })
}
