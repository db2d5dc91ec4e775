use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::reasons::Reasons;
use crate::probes::{
    Call, CallFailed, Closer, ConnectionEnd, Owner, SocketError, TcpState, TcpSummary, Tuple,
};

/// Which end opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This host opened it.
    Outbound,
    /// It came to a listener of this host.
    Inbound,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// A system call failed at once; no packet of it left the socket layer.
    CallFailed { call: Call },
    /// The socket went from this state to the other (CLOSE, or FIN_WAIT1 where the application closed it
    /// while its data went unanswered).
    State { from: TcpState, to: TcpState },
    /// A datagram socket got an error.
    SocketError,
}

/// Both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// One connection (or one failed call, or one datagram flow) of a process of this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// IP protocol number.
    pub protocol: u8,
    pub side: Side,
    /// As its packets leave this machine's network namespace; port 0 where it never got one.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// As the application sees both, where NAT of this machine makes others of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_nat: Option<Ends>,
    /// Inode number of its network namespace.
    pub netns: u32,
    pub cookie: Option<u64>,
    /// Who opened it; `None` for an accepted connection whose accept was not seen.
    pub owner: Option<Owner>,
    pub start_ns: u64,
    pub end_ns: u64,
    /// Whether connect() was seen.
    pub from_start: bool,
    /// Whether the user asked for it (a followed process, or `--all`).
    pub asked: bool,
    pub end: End,
    /// What the application got; `None` where it got none.
    pub errno: Option<i32>,
    /// `sk_err_soft`: an ICMP error that did not kill the socket.
    pub soft_errno: Option<i32>,
    pub bound_interface: Option<u32>,
    /// The socket of a call that failed is known to have IPV6_V6ONLY.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6_only: bool,
    /// SO_LINGER is set; `None` where the kernel does not tell.
    pub linger: Option<bool>,
    /// SO_KEEPALIVE is set.
    pub keepalive: Option<bool>,
    /// The application had closed it before it ended (SOCK_DEAD): no error reached anybody.
    #[serde(default)]
    pub orphaned: Option<bool>,
    pub tcp: TcpSummary,
    /// Who closed it, where that was a system call.
    pub closer: Option<Closer>,
    pub lost_steps: u32,
}

/// Closed by its process already: what follows happens when packets come, whoever runs then.
fn is_after_close(state: TcpState) -> bool {
    use TcpState::{Closing, FinWait1, FinWait2, LastAck, TimeWait};
    matches!(state, FinWait1 | FinWait2 | Closing | LastAck | TimeWait)
}

impl Connection {
    /// Takes what is large out of the record.
    pub(super) fn ended(end: &mut ConnectionEnd, reasons: &Reasons) -> Self {
        let orphaned = reasons.is_orphaned(end.sk_flags);
        // The entry of a socket may have been lost to another that was opened in the same instant.
        let outbound = end.outbound || end.from == TcpState::SynSent;
        Self {
            protocol: end.tuple.protocol,
            side: if outbound { Side::Outbound } else { Side::Inbound },
            local: end.tuple.source,
            peer: end.tuple.destination,
            before_nat: None,
            netns: end.netns,
            cookie: end.cookie,
            owner: end.owner.take(),
            start_ns: end.start_ns,
            end_ns: end.time_ns,
            from_start: end.from_start,
            asked: end.asked,
            end: End::State { from: end.from, to: end.to },
            // A socket that the application has closed has nobody to tell.
            errno: end.errno.filter(|_| orphaned != Some(true)),
            soft_errno: end.soft_errno,
            bound_interface: end.bound_interface,
            ipv6_only: false,
            linger: reasons.has_linger(end.sk_flags),
            keepalive: reasons.has_keepalive(end.sk_flags),
            orphaned,
            tcp: std::mem::take(&mut end.tcp),
            closer: end.closer.take().filter(|_| orphaned != Some(true) || !is_after_close(end.from)),
            lost_steps: end.lost_steps,
        }
    }

    pub(super) fn call_failed(call: CallFailed) -> Self {
        Self {
            owner: call.owner,
            from_start: true,
            asked: call.asked,
            errno: Some(call.errno),
            bound_interface: call.bound_interface,
            ipv6_only: call.ipv6_only,
            ..Self::at_once(call.tuple, call.netns, call.time_ns, End::CallFailed { call: call.call })
        }
    }

    pub(super) fn socket_error(error: SocketError) -> Self {
        Self {
            owner: error.owner,
            asked: error.asked,
            errno: (error.errno != 0).then_some(error.errno),
            soft_errno: (error.soft_errno != 0).then_some(error.soft_errno),
            ..Self::at_once(error.tuple, error.netns, error.time_ns, End::SocketError)
        }
    }

    /// What has no length, and of which nothing else is known.
    fn at_once(tuple: Tuple, netns: u32, time_ns: u64, end: End) -> Self {
        Self {
            protocol: tuple.protocol,
            side: Side::Outbound,
            local: tuple.source,
            peer: tuple.destination,
            before_nat: None,
            netns,
            cookie: None,
            owner: None,
            start_ns: time_ns,
            end_ns: time_ns,
            from_start: false,
            asked: false,
            end,
            errno: None,
            soft_errno: None,
            bound_interface: None,
            ipv6_only: false,
            linger: None,
            keepalive: None,
            orphaned: None,
            tcp: TcpSummary::default(),
            closer: None,
            lost_steps: 0,
        }
    }

    /// One of which no more is known than a packet of it.
    pub fn of_flow(tuple: Tuple, netns: u32, time_ns: u64) -> Self {
        Self::at_once(tuple, netns, time_ns, End::SocketError)
    }

    /// Both ends as the application sees them.
    pub fn asked(&self) -> Ends {
        self.before_nat.unwrap_or(Ends { local: self.local, peer: self.peer })
    }

    /// NAT makes this flow of it.
    pub(super) fn translate(&mut self, wire: &Tuple) {
        let asked = self.asked();
        (self.local, self.peer) = (wire.source, wire.destination);
        self.before_nat = (asked != Ends { local: self.local, peer: self.peer }).then_some(asked);
    }

    /// The flows that its packets may have on this machine: after NAT, as the application asked for it, and between the
    /// change of the destination and that of the source.
    pub(super) fn flows(&self) -> Vec<Tuple> {
        let wire = self.tuple();
        let Some(asked) = self.before_nat else { return vec![wire] };
        let before = Tuple { source: asked.local, destination: asked.peer, ..wire };
        let mut flows = vec![wire, before, Tuple { destination: wire.destination, ..before }];
        flows.dedup();
        flows
    }

    /// Whether packets to there go to its peer, before NAT or after.
    pub(super) fn goes_to(&self, destination: SocketAddr) -> bool {
        destination == self.peer || self.before_nat.is_some_and(|asked| destination == asked.peer)
    }

    /// It stands for all the handshakes that a listener waits for: it came from nobody in particular.
    pub fn is_of_listener(&self) -> bool {
        let half_open = End::State { from: TcpState::SynRecv, to: TcpState::Close };
        self.side == Side::Inbound && self.end == half_open && self.peer.port() == 0
    }

    /// Local end as source.
    pub fn tuple(&self) -> Tuple {
        Tuple { protocol: self.protocol, source: self.local, destination: self.peer }
    }

    /// From connect() (or the first sign of trouble) to the end.
    pub fn duration(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.end_ns.saturating_sub(self.start_ns))
    }

    /// Whether the handshake was ever completed.
    pub fn was_established(&self) -> bool {
        match self.end {
            End::State { from, .. } => {
                !matches!(from, TcpState::SynSent | TcpState::SynRecv | TcpState::Close)
            }
            End::CallFailed { .. } | End::SocketError => false,
        }
    }

    /// Whether it ended in SYN_SENT.
    pub fn died_connecting(&self) -> bool {
        matches!(self.end, End::State { from: TcpState::SynSent, .. })
    }
}
