//! What is known of a packet at the hook where it was dropped.

use std::net::IpAddr;

use super::Fits;
use crate::probes::{Packet, protocol};
use crate::track::Hook;

/// A dropped packet.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Subject<'a> {
    pub(in super::super) packet: &'a Packet,
    pub(in super::super) hook: Hook,
}

/// TCP flags that matter to rules (RFC 9293, 3.1).
const FLAGS: [(&str, u8); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ecn", 0x40),
    ("cwr", 0x80),
];

impl Subject<'_> {
    pub(super) fn source(&self) -> IpAddr {
        self.packet.tuple.source.ip()
    }

    pub(super) fn destination(&self) -> IpAddr {
        self.packet.tuple.destination.ip()
    }

    pub(super) fn is_v4(&self) -> bool {
        self.destination().is_ipv4()
    }

    pub(super) fn protocol(&self) -> u8 {
        self.packet.tuple.protocol
    }

    /// Whether packets like this meet tables of a family.
    pub(super) fn meets(&self, family: &str) -> bool {
        let at_device = matches!(self.hook, Hook::Ingress | Hook::Egress);
        match family {
            "inet" => true,
            "ip" => !at_device && self.is_v4(),
            "ip6" => !at_device && !self.is_v4(),
            "netdev" => at_device,
            _ => false,
        }
    }

    /// `None` for a packet without ports.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let tuple = &self.packet.tuple;
        let has_ports = matches!(tuple.protocol, protocol::TCP | protocol::UDP);
        has_ports.then(|| (tuple.source.port(), tuple.destination.port()))
    }

    /// `None` unless it is TCP.
    pub(super) fn tcp_flags(&self) -> Option<u8> {
        (self.protocol() == protocol::TCP).then_some(self.packet.flags)
    }

    /// The packet has its device from where it came until it is routed, and from `ip_output` on that by which it leaves:
    /// in between the other one is not known. `matches` is asked for a name.
    pub(super) fn came_by(&self, matches: impl FnOnce(&str) -> bool) -> Fits {
        match self.hook {
            Hook::Prerouting | Hook::Input | Hook::Forward | Hook::Ingress => self.interface(matches),
            Hook::Output | Hook::Egress => Fits::No,
            Hook::Postrouting => Fits::Maybe,
        }
    }

    /// As [`Self::came_by`], for where it leaves.
    pub(super) fn leaves_by(&self, matches: impl FnOnce(&str) -> bool) -> Fits {
        match self.hook {
            Hook::Prerouting | Hook::Input | Hook::Ingress => Fits::No,
            Hook::Output | Hook::Postrouting | Hook::Egress => self.interface(matches),
            Hook::Forward => Fits::Maybe,
        }
    }

    fn interface(&self, matches: impl FnOnce(&str) -> bool) -> Fits {
        let name = self.packet.interface.as_str();
        if name.is_empty() { Fits::Maybe } else { matches(name).into() }
    }

    /// Whether connection tracking has it in one of these states. A SYN begins a connection, unless nothing tracks it; of
    /// other packets the connection's past decides.
    pub(super) fn state<'s>(&self, states: impl IntoIterator<Item = &'s str>) -> Fits {
        let begins = self.packet.is_syn();
        states.into_iter().fold(Fits::No, |fits, state| {
            fits.or(match state.to_ascii_lowercase().as_str() {
                "new" if begins => Fits::Yes,
                "established" if begins => Fits::No,
                _ => Fits::Maybe,
            })
        })
    }
}

/// The bit of a TCP flag; `None` for another word.
pub(super) fn flag(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    let name = if name == "ece" { "ecn" } else { &name };
    FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// A protocol by name or number.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    Some(match name.to_ascii_lowercase().as_str() {
        "icmp" => protocol::ICMP,
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "ipv6-icmp" | "icmpv6" | "icmp6" => protocol::ICMPV6,
        "igmp" => 2,
        "ipencap" => 4,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "comp" => 108,
        "sctp" => 132,
        "udplite" => 136,
        other => return other.parse().ok(),
    })
}

/// Whether an address lies in a network; `None` if the text is none.
pub(super) fn in_network(address: IpAddr, network: IpAddr, length: u32) -> Option<bool> {
    let cut = |bits: u128, width: u32| if length >= width { bits } else { bits >> (width - length) };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if length <= 32 => {
            let cut4 = |bits: u32| if length == 0 { 0 } else { bits >> (32 - length) };
            Some(cut4(a.to_bits()) == cut4(n.to_bits()))
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if length <= 128 => {
            Some(length == 0 || cut(a.to_bits(), 128) == cut(n.to_bits(), 128))
        }
        _ => None,
    }
}
