//! ICMP errors that quote the packet they are about, and echo replies.

use std::net::IpAddr;

use super::behaviour::IcmpKind;
use super::packet::{Packet, Transport, ip};

/// RFC 1812 §4.3.2.3: as much of the packet as fits in 576 bytes.
const QUOTE_V4: usize = 576 - 20 - 8;
/// RFC 4443 §2.4 (c): as much as fits in the minimum MTU.
const QUOTE_V6: usize = 1280 - 40 - 8;
/// What a router close to here sends with: it is nearer than the remote host.
const ROUTER_TTL: u8 = 62;

/// An ICMP error from `from` to the sender of `original`.
pub(super) fn error(from: IpAddr, original: &[u8], kind: IcmpKind) -> Option<Vec<u8>> {
    let about = Packet::parse(original)?;
    let builder = ip(from, about.source, ROUTER_TTL)?;
    let mut bytes = Vec::new();
    if from.is_ipv4() {
        let (icmp_type, code) = kind.v4();
        // RFC 1191: the MTU is in the low half of the otherwise unused word.
        let rest = if let IcmpKind::TooBig(mtu) = kind { u32::from(mtu) } else { 0 };
        let quote = &original[..original.len().min(QUOTE_V4)];
        builder.icmpv4_raw(icmp_type, code, rest.to_be_bytes()).write(&mut bytes, quote).ok()?;
    } else {
        let (icmp_type, code) = kind.v6();
        // Parameter problem: a pointer to the next-header field (RFC 4443 §3.4).
        let rest = match kind {
            IcmpKind::TooBig(mtu) => u32::from(mtu),
            IcmpKind::ProtocolUnreachable => 6,
            _ => 0,
        };
        let quote = &original[..original.len().min(QUOTE_V6)];
        builder.icmpv6_raw(icmp_type, code, rest.to_be_bytes()).write(&mut bytes, quote).ok()?;
    }
    Some(bytes)
}

/// The answer to a ping; `None` for any other packet.
pub(super) fn echo_reply(request: &Packet, ttl: u8) -> Option<Vec<u8>> {
    let Transport::Icmp { kind, code: 0, payload } = &request.transport else { return None };
    let ([a, b, c, d], data) = payload.split_first_chunk::<4>()?;
    let builder = ip(request.destination, request.source, ttl)?;
    let mut bytes = Vec::new();
    match (request.source, kind) {
        (IpAddr::V4(_), 8) => builder.icmpv4_raw(0, 0, [*a, *b, *c, *d]).write(&mut bytes, data).ok()?,
        (IpAddr::V6(_), 128) => builder.icmpv6_raw(129, 0, [*a, *b, *c, *d]).write(&mut bytes, data).ok()?,
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Segment, tcp};
    use super::*;

    #[test]
    fn an_error_quotes_the_packet() {
        let syn =
            tcp("10.0.0.1:4000".parse().unwrap(), "192.0.2.9:80".parse().unwrap(), 64, Segment::default())
                .unwrap();
        let error = error("198.51.100.1".parse().unwrap(), &syn, IcmpKind::TooBig(1400)).unwrap();
        let packet = Packet::parse(&error).unwrap();
        assert_eq!(packet.destination, "10.0.0.1".parse::<IpAddr>().unwrap());
        let Transport::Icmp { kind, code, payload } = packet.transport else { panic!("not ICMP") };
        assert_eq!((kind, code), (3, 4));
        assert_eq!(payload[..4], 1400_u32.to_be_bytes());
        assert_eq!(payload[4..], syn);
    }

    #[test]
    fn a_ping_is_answered_in_both_families() {
        for (from, to, request, reply) in [("10.0.0.1", "192.0.2.9", 8, 0), ("fd00::1", "fd00::2", 128, 129)]
        {
            let ping = Packet {
                source: from.parse().unwrap(),
                destination: to.parse().unwrap(),
                ttl: 64,
                length: 0,
                transport: Transport::Icmp { kind: request, code: 0, payload: vec![0, 0, 1, 2, 3, 4, 5] },
            };
            let answer = Packet::parse(&echo_reply(&ping, 57).unwrap()).unwrap();
            assert_eq!((answer.source, answer.destination), (ping.destination, ping.source));
            let Transport::Icmp { kind, payload, .. } = answer.transport else { panic!("not ICMP") };
            assert_eq!(kind, reply);
            assert_eq!(payload[payload.len() - 3..], [3, 4, 5]);
        }
    }
}
