//! What hosts answered like before, as seen on the wire: a RST that is unlike it may be somebody else's.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::enrich::facts::PeerBefore;
use crate::probes::{Direction, Tuple, Wire};

/// Hosts that are remembered, and SYNs that wait for an answer.
const MAX_HOSTS: usize = 1024;
const MAX_WAITING: usize = 256;

/// In the namespace of this inode number.
type Host = (u32, IpAddr);

/// See the module's documentation. Bounded; the oldest goes.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: HashMap<Host, PeerBefore>,
    order: VecDeque<Host>,
    /// SYNs that were sent, with their time.
    sent: VecDeque<(u32, Tuple, u64)>,
}

impl Hosts {
    /// Takes a packet of the wire, seen in this namespace.
    pub(super) fn add(&mut self, netns: u32, wire: &Wire) {
        let Wire { time_ns, packet, quoted: None, .. } = wire else { return };
        if packet.is_syn() && packet.direction == Direction::Egress {
            // What is sent again would be answered too fast.
            self.sent.retain(|(place, tuple, _)| (*place, *tuple) != (netns, packet.tuple));
            if self.sent.len() >= MAX_WAITING {
                self.sent.pop_front();
            }
            self.sent.push_back((netns, packet.tuple, *time_ns));
        } else if packet.is_syn_ack() && packet.direction == Direction::Ingress {
            let question = packet.tuple.reversed();
            let asked = self.sent.iter().find(|(place, tuple, _)| (*place, *tuple) == (netns, question));
            let took_us =
                asked.and_then(|(_, _, sent_ns)| time_ns.checked_sub(*sent_ns)).map(|took| took / 1000);
            self.answered((netns, packet.tuple.source.ip()), packet.ttl, took_us);
        }
    }

    fn answered(&mut self, host: Host, ttl: u8, took_us: Option<u64>) {
        if let Some(known) = self.known.get_mut(&host) {
            known.ttl = ttl;
            known.fastest_us = known.fastest_us.into_iter().chain(took_us).min();
            return;
        }
        if self.order.len() >= MAX_HOSTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(host);
        self.known.insert(host, PeerBefore { ttl, fastest_us: took_us });
    }

    /// What a host answered like, seen in this namespace.
    pub(super) fn get(&self, netns: u32, host: IpAddr) -> Option<PeerBefore> {
        self.known.get(&(netns, host)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Packet, protocol};

    fn packet(flags: u8, ttl: u8, direction: Direction) -> Packet {
        let tuple = Tuple {
            protocol: protocol::TCP,
            source: "10.0.1.2:40000".parse().unwrap(),
            destination: "10.0.2.2:80".parse().unwrap(),
        };
        let tuple = if direction == Direction::Egress { tuple } else { tuple.reversed() };
        Packet {
            tuple,
            flags,
            code: 0,
            ttl,
            direction,
            seq: 1,
            ifindex: 2,
            iif: 0,
            interface: "eth0".into(),
            netns: 0,
        }
    }

    #[test]
    fn answers_are_remembered_by_host() {
        let mut hosts = Hosts::default();
        let mut seen = |ms: u64, packet: Packet| {
            hosts.add(7, &Wire { time_ns: ms * 1_000_000, packet, quoted: None, asked: None })
        };
        seen(1, packet(0x02, 64, Direction::Egress));
        seen(21, packet(0x12, 57, Direction::Ingress));
        seen(30, packet(0x02, 64, Direction::Egress));
        seen(80, packet(0x12, 56, Direction::Ingress));
        // Neither is a SYN-ACK of the peer.
        seen(90, packet(0x14, 63, Direction::Ingress));
        seen(91, packet(0x12, 64, Direction::Egress));
        let host = "10.0.2.2".parse().unwrap();
        assert_eq!(hosts.get(7, host), Some(PeerBefore { ttl: 56, fastest_us: Some(20_000) }));
        assert_eq!(hosts.get(8, host), None);
        assert_eq!(hosts.get(7, "10.0.1.2".parse().unwrap()), None);
    }
}
