//! What a remote host can do to a connection, as data.

use std::time::Duration;

/// What happens to packets for one port. TCP follows all of them; UDP understands [`Self::Silent`],
/// [`Self::AnswerLate`], [`Self::Icmp`], [`Self::Udp`], takes [`Self::Reset`] as a closed port, and
/// is echoed by every other.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Nothing ever comes back.
    Silent,
    /// The SYN-ACK comes this late; after that, [`Self::Accept`].
    AnswerLate(Duration),
    /// The first SYNs are lost; after that, [`Self::Accept`].
    IgnoreSyns(usize),
    /// RST,ACK in answer to the SYN. A `ttl` unlike the host's own gives a middlebox away.
    Reset {
        /// TTL or hop limit of the RST when it is sent.
        ttl: u8,
    },
    /// An ICMP error in answer to the first packet.
    Icmp {
        /// Which error.
        kind: IcmpKind,
        /// Who says so.
        from: Sender,
    },
    /// The SYN is answered by a bare ACK of another connection, as by a host that still has the old
    /// one (RFC 9293 §3.5.1).
    ChallengeAck,
    /// The SYN-ACK acknowledges what was never sent, far beyond the window; after that, [`Self::Accept`].
    AcknowledgesTooMuch,
    /// A well-behaved host: acknowledges, echoes, closes when the other end does.
    Accept,
    /// Like [`Self::Accept`], but the answer to the first data is this, followed by FIN.
    Respond(Vec<u8>),
    /// Acknowledges so much data, then is gone without a word.
    HandshakeThenVanish {
        /// Bytes of data that are still acknowledged.
        ack_data_bytes: usize,
    },
    /// RST once so much data arrived (0: 50 ms after the handshake).
    HandshakeThenReset {
        /// Bytes of data before the RST.
        after_data: usize,
        /// TTL of the RST where it is not the host's own, as if a middlebox had sent it.
        ttl: Option<u8>,
    },
    /// FIN once so much data arrived (0: 50 ms after the handshake); data after that is answered
    /// by RST, as by a process that closed its socket.
    HandshakeThenFin {
        /// Bytes of data before the FIN.
        after_data: usize,
    },
    /// [`Self::Accept`] until nothing was heard for this long; from then on the connection is
    /// forgotten, as by a NAT or a stateful firewall.
    ForgetsIdle {
        /// The idle time allowed.
        after: Duration,
        /// RST for what comes later, instead of silence.
        reset: bool,
    },
    /// Acknowledges so much data and then shuts its window and never opens it.
    ZeroWindow {
        /// Bytes of data that are taken, at most 65,535.
        after_data: u16,
    },
    /// [`Self::Accept`], but packets larger than this many bytes (IP header included) are lost.
    MtuBlackhole {
        /// The largest packet that passes.
        mtu: usize,
    },
    /// [`Self::Accept`], but larger packets bring an ICMP error with the MTU from a router.
    PacketTooBig {
        /// The largest packet that passes.
        mtu: u16,
    },
    /// [`Self::Accept`], but every n-th segment with data is lost when first sent.
    Lossy {
        /// One lost in so many.
        every: usize,
    },
    /// UDP only: the answer to a datagram, or none.
    Udp(fn(&[u8]) -> Option<Vec<u8>>),
}

/// Who sends an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The host that the packet was for.
    Peer,
    /// A router before it: [`crate::net::REMOTE_ROUTER_V4`] or its IPv6 twin.
    Router,
}

/// ICMP errors by meaning; each has a type and code in ICMP (RFC 792, RFC 1812) and in ICMPv6 (RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpKind {
    /// 3/0; v6 1/0, no route to destination.
    NetUnreachable,
    /// 3/1; v6 1/3, address unreachable.
    HostUnreachable,
    /// 3/2; v6 4/1, unrecognised next header.
    ProtocolUnreachable,
    /// 3/3; v6 1/4.
    PortUnreachable,
    /// 3/9; v6 1/1.
    NetProhibited,
    /// 3/10; v6 1/1.
    HostProhibited,
    /// 3/13; v6 1/1.
    AdminProhibited,
    /// 3/13; v6 1/5, source address failed ingress/egress policy.
    PolicyFailed,
    /// 3/0; v6 1/6.
    RejectRoute,
    /// 11/0; v6 3/0.
    TimeExceeded,
    /// 3/4 with the next hop's MTU; v6 2/0.
    TooBig(u16),
}

impl IcmpKind {
    /// Type and code of ICMP for IPv4.
    pub fn v4(self) -> (u8, u8) {
        match self {
            Self::NetUnreachable | Self::RejectRoute => (3, 0),
            Self::HostUnreachable => (3, 1),
            Self::ProtocolUnreachable => (3, 2),
            Self::PortUnreachable => (3, 3),
            Self::TooBig(_) => (3, 4),
            Self::NetProhibited => (3, 9),
            Self::HostProhibited => (3, 10),
            Self::AdminProhibited | Self::PolicyFailed => (3, 13),
            Self::TimeExceeded => (11, 0),
        }
    }

    /// Type and code of ICMPv6.
    pub fn v6(self) -> (u8, u8) {
        match self {
            Self::NetUnreachable => (1, 0),
            Self::NetProhibited | Self::HostProhibited | Self::AdminProhibited => (1, 1),
            Self::HostUnreachable => (1, 3),
            Self::PortUnreachable => (1, 4),
            Self::PolicyFailed => (1, 5),
            Self::RejectRoute => (1, 6),
            Self::TooBig(_) => (2, 0),
            Self::TimeExceeded => (3, 0),
            Self::ProtocolUnreachable => (4, 1),
        }
    }
}
