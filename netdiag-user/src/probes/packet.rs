use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netdiag_ebpf::records::{self, PacketInfo, direction};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{DecodeError, text};

/// IP protocol numbers (IANA).
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// Two ends and a protocol. IPv4-mapped IPv6 addresses are shown as the IPv4 that is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Tuple {
    /// The same flow seen from the other end.
    pub fn reversed(&self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// An address of a record; one that IPv6 maps from IPv4 is given as IPv4.
pub fn ip(family: u16, bytes: &[u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical()),
        _ => None,
    }
}

pub(super) fn tuple(raw: &records::Tuple) -> Result<Tuple, DecodeError> {
    let unknown = DecodeError::Value { what: "address family", value: raw.family.into() };
    let (Some(source), Some(destination)) = (ip(raw.family, &raw.saddr), ip(raw.family, &raw.daddr)) else {
        return Err(unknown);
    };
    // An unbound dual-stack socket has an IPv6 wildcard on one side and a mapped IPv4 on the other.
    let source = match (source, destination) {
        (IpAddr::V6(any), IpAddr::V4(_)) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => source,
    };
    let protocol = u8::try_from(raw.protocol)
        .map_err(|_| DecodeError::Value { what: "IP protocol", value: raw.protocol.into() })?;
    Ok(Tuple {
        protocol,
        source: SocketAddr::new(source, raw.sport),
        destination: SocketAddr::new(destination, raw.dport),
    })
}

/// Which way a packet went through this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Unknown,
    Ingress,
    Egress,
}

/// Headers of one packet, and where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    pub tuple: Tuple,
    /// TCP flags, or the ICMP type.
    pub flags: u8,
    /// ICMP code.
    pub code: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    pub direction: Direction,
    pub seq: u32,
    /// `skb->dev`; 0 where unknown.
    pub ifindex: u32,
    /// Where it came in; 0 for a packet that this host made.
    pub iif: u32,
    /// Name of `skb->dev`, empty where unknown.
    pub interface: SmolStr,
    /// Inode number of the network namespace; 0 where unknown.
    pub netns: u32,
}

impl Packet {
    // Of `flags` in TCP's header (RFC 9293, 3.1).
    const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;

    /// A SYN of which no more is known.
    pub fn syn(tuple: Tuple, netns: u32) -> Self {
        Self {
            tuple,
            flags: Self::SYN,
            code: 0,
            ttl: 0,
            direction: Direction::Unknown,
            seq: 0,
            ifindex: 0,
            iif: 0,
            interface: SmolStr::default(),
            netns,
        }
    }

    fn has(&self, set: u8, clear: u8) -> bool {
        self.tuple.protocol == protocol::TCP && self.flags & set == set && self.flags & clear == 0
    }

    pub fn is_syn(&self) -> bool {
        self.has(Self::SYN, Self::ACK | Self::RST)
    }

    pub fn is_syn_ack(&self) -> bool {
        self.has(Self::SYN | Self::ACK, Self::RST)
    }

    pub fn is_rst(&self) -> bool {
        self.has(Self::RST, 0)
    }

    pub fn is_fin(&self) -> bool {
        self.has(Self::FIN, Self::RST)
    }

    /// A segment within a connection, as far as its flags tell.
    pub fn is_late(&self) -> bool {
        self.has(Self::ACK, Self::SYN)
    }

    /// "SYN", "SYN-ACK", "RST", "segment", "UDP datagram", "ICMP type 3 code 1".
    pub fn name(&self) -> String {
        match self.tuple.protocol {
            protocol::TCP if self.is_syn() => "SYN".into(),
            protocol::TCP if self.is_syn_ack() => "SYN-ACK".into(),
            protocol::TCP if self.is_rst() => "RST".into(),
            protocol::TCP if self.is_fin() => "FIN".into(),
            protocol::TCP => "segment".into(),
            protocol::UDP => "UDP datagram".into(),
            protocol::ICMP => format!("ICMP type {} code {}", self.flags, self.code),
            protocol::ICMPV6 => format!("ICMPv6 type {} code {}", self.flags, self.code),
            other => format!("packet of IP protocol {other}"),
        }
    }
}

pub(super) fn packet(raw: &PacketInfo) -> Result<Packet, DecodeError> {
    let direction = match raw.direction {
        direction::UNKNOWN => Direction::Unknown,
        direction::INGRESS => Direction::Ingress,
        direction::EGRESS => Direction::Egress,
        other => return Err(DecodeError::Value { what: "direction", value: other.into() }),
    };
    Ok(Packet {
        tuple: tuple(&raw.tuple)?,
        flags: raw.flags,
        code: raw.code,
        ttl: raw.ttl,
        direction,
        seq: raw.seq,
        ifindex: raw.ifindex,
        iif: raw.iif,
        interface: text(&raw.ifname),
        netns: raw.netns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(family: i32, saddr: [u8; 16], daddr: [u8; 16]) -> records::Tuple {
        records::Tuple { family: family as u16, protocol: 6, sport: 1, dport: 2, saddr, daddr }
    }

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        let mut mapped = [0u8; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        let tuple = tuple(&raw(libc::AF_INET6, [0; 16], mapped)).unwrap();
        assert_eq!(tuple.destination.to_string(), "10.0.0.1:2");
        assert_eq!(tuple.source.to_string(), "0.0.0.0:1");
    }

    #[test]
    fn an_unknown_family_is_an_error() {
        assert!(tuple(&raw(1, [0; 16], [0; 16])).is_err());
    }
}
