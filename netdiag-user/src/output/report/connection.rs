//! A connection as reports tell it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::probes::{Call, protocol};
use crate::track::{Connection, End, Side};

/// An address and a port; port 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip(), port: address.port() }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Both ends after NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    pub local: Endpoint,
    pub peer: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPart {
    /// `tcp`, `udp`, `icmp`, or the IP protocol number as text.
    pub protocol: String,
    /// `outbound`, `inbound` or `forwarded`.
    pub direction: String,
    pub local: Endpoint,
    pub peer: Endpoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated: Option<Translated>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Interface that packets to the peer leave through, where it was seen or the route tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub netns: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    pub cookie: Option<u64>,
    /// The system call, where it failed at once: `connect`, `bind`, `sendto`, `sendmsg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
}

impl ConnectionPart {
    pub fn new(connection: &Connection) -> Self {
        let asked = connection.asked();
        Self {
            protocol: match connection.protocol {
                protocol::TCP => "tcp".into(),
                protocol::UDP => "udp".into(),
                protocol::ICMP | protocol::ICMPV6 => "icmp".into(),
                other => other.to_string(),
            },
            direction: match connection.side {
                Side::Outbound => "outbound".into(),
                Side::Inbound => "inbound".into(),
            },
            local: asked.local.into(),
            peer: asked.peer.into(),
            translated: connection
                .before_nat
                .is_some()
                .then_some(Translated { local: connection.local.into(), peer: connection.peer.into() }),
            hostname: None,
            interface: None,
            netns: connection.netns,
            netns_name: None,
            cookie: connection.cookie,
            call: match connection.end {
                End::CallFailed { call } => Some(call),
                End::State { .. } | End::SocketError => None,
            },
        }
    }

    /// The IP protocol number (IANA).
    pub fn protocol_number(&self) -> u8 {
        match self.protocol.as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "icmp" if self.peer.address.is_ipv6() => protocol::ICMPV6,
            "icmp" => protocol::ICMP,
            other => other.parse().unwrap_or(0),
        }
    }

    /// The peer that packets go to.
    pub(in crate::output) fn reached_peer(&self) -> Endpoint {
        self.translated.map_or(self.peer, |translated| translated.peer)
    }

    pub(in crate::output) fn is_inbound(&self) -> bool {
        self.direction == "inbound"
    }

    /// A socket that was to be bound has no peer.
    pub(in crate::output) fn has_peer(&self) -> bool {
        self.call != Some(Call::Bind) && !(self.peer.address.is_unspecified() && self.peer.port == 0)
    }

    /// `10.1.2.3:8080`, `10.0.0.53:53/udp`; of ICMP without a port.
    pub(in crate::output) fn end_text(&self, end: Endpoint) -> String {
        match self.protocol.as_str() {
            "tcp" => end.to_string(),
            "icmp" => format!("{}/icmp", end.address),
            other => format!("{end}/{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use crate::track::Ends;

    #[test]
    fn a_translated_connection_is_told_as_it_was_asked_for() {
        let mut connection = testing::outbound().connection;
        let plain = ConnectionPart::new(&connection);
        assert_eq!((plain.translated, plain.reached_peer()), (None, plain.peer));
        let asked = Ends { local: connection.local, peer: "10.96.0.10:80".parse().unwrap() };
        connection.before_nat = Some(asked);
        let part = ConnectionPart::new(&connection);
        assert_eq!(part.peer.to_string(), "10.96.0.10:80");
        assert_eq!(part.translated, Some(Translated { local: plain.local, peer: plain.peer }));
        assert_eq!(part.reached_peer(), plain.peer);
    }
}
