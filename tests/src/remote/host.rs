//! The remote host's reaction to one packet; pure, so that it is tested without a device.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::REMOTE_TTL;
use super::behaviour::{Behaviour, IcmpKind, Sender};
use super::packet::{Packet, Transport, udp};
use super::tcp::{Connection, Incoming};
use super::{icmp, packet};
use crate::net::{REMOTE_ROUTER_V4, REMOTE_ROUTER_V6};

/// A packet to send.
#[derive(Debug)]
pub(super) struct Reply {
    pub after: Duration,
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn now(bytes: Vec<u8>) -> Self {
        Self { after: Duration::ZERO, bytes }
    }
}

#[derive(Debug)]
pub(super) struct Host {
    ports: HashMap<u16, Behaviour>,
    /// By client and our own address.
    connections: HashMap<(SocketAddr, SocketAddr), Connection>,
}

impl Host {
    pub fn new(ports: impl Iterator<Item = (u16, Behaviour)>) -> Self {
        Self { ports: ports.collect(), connections: HashMap::new() }
    }

    pub fn receive(&mut self, now: Instant, bytes: &[u8]) -> Vec<Reply> {
        let Some(packet) = Packet::parse(bytes) else { return Vec::new() };
        if is_multicast(packet.destination) {
            return Vec::new();
        }
        match &packet.transport {
            Transport::Tcp { .. } => self.receive_tcp(now, bytes, &packet),
            Transport::Udp { source, destination, payload } => {
                let (client, own) = (
                    SocketAddr::new(packet.source, *source),
                    SocketAddr::new(packet.destination, *destination),
                );
                self.receive_udp(bytes, client, own, payload).into_iter().collect()
            }
            _ => icmp::echo_reply(&packet, REMOTE_TTL).map(Reply::now).into_iter().collect(),
        }
    }

    fn receive_tcp(&mut self, now: Instant, bytes: &[u8], packet: &Packet) -> Vec<Reply> {
        let Some(incoming) = Incoming::new(packet) else { return Vec::new() };
        let behaviour = self.ports.get(&incoming.own.port());
        match behaviour.unwrap_or(&Behaviour::Reset { ttl: REMOTE_TTL }) {
            Behaviour::Silent => Vec::new(),
            Behaviour::Icmp { kind, from } => icmp_error(bytes, packet, *kind, *from).into_iter().collect(),
            Behaviour::PacketTooBig { mtu } if packet.length > usize::from(*mtu) => {
                icmp_error(bytes, packet, IcmpKind::TooBig(*mtu), Sender::Router).into_iter().collect()
            }
            Behaviour::MtuBlackhole { mtu } if packet.length > *mtu => Vec::new(),
            behaviour => {
                let connection = self.connections.entry((incoming.client, incoming.own));
                connection.or_insert_with(|| Connection::new(now)).receive(now, behaviour, &incoming)
            }
        }
    }

    fn receive_udp(
        &self,
        bytes: &[u8],
        client: SocketAddr,
        own: SocketAddr,
        payload: &[u8],
    ) -> Option<Reply> {
        let answer = |payload: &[u8]| packet::udp(own, client, REMOTE_TTL, payload);
        let closed = || icmp::error(own.ip(), bytes, IcmpKind::PortUnreachable);
        match self.ports.get(&own.port()) {
            None | Some(Behaviour::Reset { .. }) => closed().map(Reply::now),
            Some(Behaviour::Silent) => None,
            Some(Behaviour::Icmp { kind, from }) => icmp_error(bytes, &Packet::parse(bytes)?, *kind, *from),
            Some(Behaviour::AnswerLate(after)) => Some(Reply { after: *after, bytes: answer(payload)? }),
            Some(Behaviour::Udp(respond)) => respond(payload).and_then(|data| answer(&data)).map(Reply::now),
            Some(_) => udp(own, client, REMOTE_TTL, payload).map(Reply::now),
        }
    }
}

fn icmp_error(bytes: &[u8], packet: &Packet, kind: IcmpKind, from: Sender) -> Option<Reply> {
    let from = match (from, packet.source) {
        (Sender::Peer, _) => packet.destination,
        (Sender::Router, IpAddr::V4(_)) => REMOTE_ROUTER_V4.into(),
        (Sender::Router, IpAddr::V6(_)) => REMOTE_ROUTER_V6.into(),
    };
    icmp::error(from, bytes, kind).map(Reply::now)
}

fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
