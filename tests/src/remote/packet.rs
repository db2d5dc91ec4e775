//! Reading and building packets of the remote's device.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};

/// TCP flags that scenarios look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, clippy::struct_excessive_bools, reason = "named as in RFC 9293")]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
}

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the RFCs")]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        flags: Flags,
        sequence: u32,
        acknowledgment: u32,
        window: u16,
        payload: Vec<u8>,
    },
    Udp {
        source: u16,
        destination: u16,
        payload: Vec<u8>,
    },
    Icmp {
        kind: u8,
        code: u8,
        payload: Vec<u8>,
    },
    Other,
}

/// One IP packet, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Length with the IP header, in bytes.
    pub length: usize,
    /// What it carries.
    pub transport: Transport,
}

impl Packet {
    /// Parses an IPv4 or IPv6 packet without link header; `None` if it is neither.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(bytes).ok()?;
        let (source, destination, ttl) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.ttl())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
            }
            NetSlice::Arp(_) => return None,
        };
        let transport = match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => Transport::Tcp {
                source: tcp.source_port(),
                destination: tcp.destination_port(),
                flags: Flags {
                    syn: tcp.syn(),
                    ack: tcp.ack(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                    psh: tcp.psh(),
                },
                sequence: tcp.sequence_number(),
                acknowledgment: tcp.acknowledgment_number(),
                window: tcp.window_size(),
                payload: tcp.payload().to_vec(),
            },
            Some(TransportSlice::Udp(udp)) => Transport::Udp {
                source: udp.source_port(),
                destination: udp.destination_port(),
                payload: udp.payload().to_vec(),
            },
            Some(TransportSlice::Icmpv4(icmp)) => icmp_transport(icmp.slice()),
            Some(TransportSlice::Icmpv6(icmp)) => icmp_transport(icmp.slice()),
            _ => Transport::Other,
        };
        Some(Self { source, destination, ttl, length: bytes.len(), transport })
    }

    /// The destination port of TCP and UDP.
    pub fn destination_port(&self) -> Option<u16> {
        match self.transport {
            Transport::Tcp { destination, .. } | Transport::Udp { destination, .. } => Some(destination),
            _ => None,
        }
    }

    /// The flags of a TCP segment; none set for anything else.
    pub fn flags(&self) -> Flags {
        match self.transport {
            Transport::Tcp { flags, .. } => flags,
            _ => Flags::default(),
        }
    }

    /// A TCP SYN without ACK.
    pub fn is_syn(&self) -> bool {
        self.flags().syn && !self.flags().ack
    }
}

fn icmp_transport(bytes: &[u8]) -> Transport {
    match bytes {
        [kind, code, _, _, payload @ ..] => {
            Transport::Icmp { kind: *kind, code: *code, payload: payload.to_vec() }
        }
        _ => Transport::Other,
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, ttl, length, .. } = self;
        match &self.transport {
            Transport::Tcp {
                source: from,
                destination: to,
                flags,
                sequence,
                acknowledgment,
                window,
                payload,
            } => {
                let (from, to) = (SocketAddr::new(*source, *from), SocketAddr::new(*destination, *to));
                let named = [
                    (flags.syn, "S"),
                    (flags.ack, "A"),
                    (flags.fin, "F"),
                    (flags.rst, "R"),
                    (flags.psh, "P"),
                ];
                let flags: String = named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                write!(
                    f,
                    "{from} > {to} tcp {flags} seq {sequence} ack {acknowledgment} win {window} data {}",
                    payload.len()
                )?;
            }
            Transport::Udp { source: from, destination: to, payload } => {
                let (from, to) = (SocketAddr::new(*source, *from), SocketAddr::new(*destination, *to));
                write!(f, "{from} > {to} udp data {}", payload.len())?;
            }
            Transport::Icmp { kind, code, .. } => write!(f, "{source} > {destination} icmp {kind}/{code}")?,
            Transport::Other => write!(f, "{source} > {destination} other")?,
        }
        write!(f, " ttl {ttl} len {length}")
    }
}

/// Starts a packet at its IP header; `None` where the two addresses are of different families.
pub(super) fn ip(
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
) -> Option<PacketBuilderStep<etherparse::IpHeaders>> {
    use etherparse::{IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header};
    let headers = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // The builder fills in length, protocol and checksum.
            let mut header =
                Ipv4Header::new(0, ttl, etherparse::ip_number::TCP, source.octets(), destination.octets())
                    .ok()?;
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::default(),
                payload_length: 0,
                next_header: etherparse::ip_number::TCP,
                hop_limit: ttl,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => return None,
    };
    Some(PacketBuilder::ip(headers))
}

/// A UDP datagram.
pub(super) fn udp(source: SocketAddr, destination: SocketAddr, ttl: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let builder = ip(source.ip(), destination.ip(), ttl)?.udp(source.port(), destination.port());
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).ok()?;
    Some(bytes)
}

/// What a TCP segment says besides its addresses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Segment<'a> {
    pub flags: Flags,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub window: u16,
    /// The MSS option, in a SYN-ACK.
    pub mss: Option<u16>,
    pub payload: &'a [u8],
}

/// A TCP segment.
pub(super) fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    segment: Segment<'_>,
) -> Option<Vec<u8>> {
    let mut header =
        etherparse::TcpHeader::new(source.port(), destination.port(), segment.sequence, segment.window);
    header.syn = segment.flags.syn;
    header.ack = segment.flags.ack;
    header.fin = segment.flags.fin;
    header.rst = segment.flags.rst;
    header.psh = segment.flags.psh;
    header.acknowledgment_number = segment.acknowledgment;
    if let Some(mss) = segment.mss {
        header.set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(mss)]).ok()?;
    }
    let mut bytes = Vec::new();
    ip(source.ip(), destination.ip(), ttl)?.tcp_header(header).write(&mut bytes, segment.payload).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_segment_parses_back_in_both_families() {
        for (from, to) in [("192.0.2.1:80", "10.0.0.1:4000"), ("[fd00::1]:80", "[fd00::2]:4000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let flags = Flags { syn: true, ack: true, ..Flags::default() };
            let segment =
                Segment { flags, sequence: 7, acknowledgment: 9, window: 500, mss: Some(1400), payload: &[] };
            let packet = Packet::parse(&tcp(from, to, 33, segment).unwrap()).unwrap();
            assert_eq!((packet.source, packet.destination, packet.ttl), (from.ip(), to.ip(), 33));
            assert_eq!(packet.flags(), flags);
            assert!(!packet.is_syn());
            assert_eq!(packet.destination_port(), Some(4000));
        }
    }

    #[test]
    fn anything_else_is_refused_without_panic() {
        assert!(Packet::parse(&[]).is_none());
        assert!(Packet::parse(&[0x45; 7]).is_none());
        assert!(
            tcp("1.1.1.1:1".parse().unwrap(), "[::1]:1".parse().unwrap(), 1, Segment::default()).is_none()
        );
    }
}
