//! The remote end said no.

use super::super::words::{host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::nat::{self, sent_on};
use super::{has_icmp, is_udp, refused_by_an_end, was_reset};
use crate::enrich::facts::{LISTENERS, NAT};
use crate::probes::{Packet, protocol};
use crate::track::{Place, What};

/// ICMP "port unreachable" (RFC 792) and its ICMPv6 twin (RFC 4443): type and code.
pub(super) const PORT_UNREACHABLE: (u8, u8) = (3, 3);
pub(super) const PORT_UNREACHABLE_V6: (u8, u8) = (1, 4);

/// ECONNREFUSED from an address that is not on this machine.
pub fn no_listener(evidence: &Evidence) -> Verdict {
    if !refused_by_an_end(evidence)
        || evidence.drop_of(&["NO_SOCKET"], true).is_some()
        || evidence.peer_is_local() == Some(true) && sent_on(evidence).is_none()
    {
        return Verdict::Healthy;
    }
    if is_udp(evidence) { by_icmp(evidence) } else { by_reset(evidence) }
}

fn by_reset(evidence: &Evidence) -> Verdict {
    let reset = was_reset(evidence);
    if !reset && has_icmp(evidence) {
        return Verdict::Healthy;
    }
    if let Some(rule) = sent_on(evidence) {
        return nat::behind(evidence, rule).found();
    }
    let seen = evidence.find(|what| match what {
        What::Wire { packet, outgoing: false, place } if packet.is_rst() => Some((packet, place)),
        _ => None,
    });
    let seen = seen.map(|(_, packet)| packet).last();
    let known = evidence.peer_is_local().is_some();
    let mut explanation = match known {
        true => "The SYN left this machine and the other end answered with RST, as a host does that has no listener on \
                 that port."
            .to_owned(),
        false => format!(
            "The SYN was answered with RST, as by a host that has no listener on that port. Whether {} is an address of \
             this machine {}.",
            evidence.connection.peer.ip(),
            match evidence.facts.is_not_looked_up(LISTENERS) {
                true => "was not looked up, as so many connections failed at once",
                false => "is not known",
            }
        ),
    };
    if let Some((packet, place)) = seen {
        explanation += &arrived(packet, place);
    }
    explanation += " A firewall or load balancer on the way that rejects with RST looks the same from here.";
    let surely_there = known && !evidence.facts.is_not_looked_up(NAT);
    let confidence = if reset && surely_there { Confidence::Likely } else { Confidence::Possible };
    finding(evidence, confidence, seen.map(|(_, place)| place), explanation, "RST").found()
}

fn by_icmp(evidence: &Evidence) -> Verdict {
    let mut others = false;
    let mut from_peer = None;
    for moment in &evidence.timeline {
        let What::IcmpReceived { packet, place } = &moment.what else { continue };
        let expected = match packet.tuple.protocol {
            protocol::ICMPV6 => PORT_UNREACHABLE_V6,
            _ => PORT_UNREACHABLE,
        };
        let said_by_peer =
            packet.tuple.source.ip().to_canonical() == evidence.connection.peer.ip().to_canonical();
        match said_by_peer && (packet.flags, packet.code) == expected {
            true => from_peer = Some((packet, place)),
            false => others = true,
        }
    }
    let explanation =
        "The datagram was answered with ICMP \"port unreachable\": no socket of the peer takes it.";
    match from_peer {
        Some((packet, place)) => {
            let text = format!(
                "{explanation}{} A firewall of the peer that rejects looks the same from here.",
                arrived(packet, place)
            );
            finding(evidence, Confidence::Likely, Some(place), text, "ICMP").found()
        }
        None if others => Verdict::Healthy,
        None => {
            let text =
                format!("{explanation} Who sent it was not seen: it may have been a firewall on the way.");
            finding(evidence, Confidence::Possible, None, text, "ICMP").found()
        }
    }
}

fn finding(
    evidence: &Evidence,
    confidence: Confidence,
    place: Option<&Place>,
    explanation: String,
    answer: &str,
) -> Finding {
    let peer = evidence.connection.peer;
    let side = if evidence.peer_is_local().is_none() { WhereSide::Unknown } else { WhereSide::Peer };
    let whereabouts = Where::new(side, Stage::Remote);
    let (listing, filter) = match is_udp(evidence) {
        true => ("ss -lunp", format!("host {} and (udp port {} or icmp or icmp6)", peer.ip(), peer.port())),
        false => ("ss -ltnp", format!("host {} and tcp port {}", peer.ip(), peer.port())),
    };
    let interface = place.and_then(|place| place.interface.as_deref()).filter(|name| !name.is_empty());
    let netns = evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref());
    let mut finding = Finding::new(
        confidence,
        whereabouts,
        "refused",
        format!("the peer answered with {answer}: it says that nothing listens on {}", host_port(peer)),
    )
    .explain(explanation)
    .next("on the peer, see what listens", format!("{listing} 'sport = :{}'", peer.port()))
    .next(
        "watch the answer and its TTL",
        format!("{}tcpdump -nvi {} '{filter}'", in_netns(netns), interface.unwrap_or("any")),
    )
    .advise("start the service on the peer, or correct the address or port in the client");
    if evidence.peer_is_local().is_none() || evidence.facts.is_not_looked_up(NAT) {
        finding = finding.or(&["refused.no-listener", "refused.firewall-reject"]);
    }
    finding
}

/// " It came in by eth0 with TTL 61."
fn arrived(packet: &Packet, place: &Place) -> String {
    let by = place.interface.as_deref().filter(|name| !name.is_empty());
    let by = by.map(|name| format!(" by {name}")).unwrap_or_default();
    let name = if packet.tuple.destination.is_ipv4() { "TTL" } else { "hop limit" };
    match hops(packet.ttl) {
        Some(0) => format!(" The answer came in{by} with {name} {}: no router is in between.", packet.ttl),
        Some(hops) => format!(
            " The answer came in{by} with {name} {}: its sender is probably {hops} {} away.",
            packet.ttl,
            if hops == 1 { "router" } else { "routers" },
        ),
        None => String::new(),
    }
}

/// Routers in between, from the usual initial values; `None` for a TTL that is not known.
pub(super) fn hops(ttl: u8) -> Option<u8> {
    match ttl {
        0 => None,
        1..=64 => Some(64 - ttl),
        65..=128 => Some(128 - ttl),
        _ => Some(255 - ttl),
    }
}
