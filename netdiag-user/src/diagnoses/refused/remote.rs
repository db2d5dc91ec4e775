//! A firewall on the way, or the peer's, said no: with an ICMP error, or with a RST in the peer's place.

use super::super::words::{family_flag, host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::peer::{PORT_UNREACHABLE, PORT_UNREACHABLE_V6, hops};
use super::{is_udp, refused_by_an_end, request, was_reset};
use crate::enrich::facts::PeerBefore;
use crate::probes::{Packet, protocol};
use crate::track::{Place, What};

/// A route that changes makes the way longer or shorter by one; a box in between is mostly nearer than that.
const FEWEST_HOPS: u8 = 2;
/// A RST is too fast if it took less than a third of the fastest handshake, and that by so much.
const FASTER_US: u64 = 1_000;

/// ICMP "port unreachable" in answer to a SYN, or to a datagram from somebody who is not the peer.
pub fn reject(evidence: &Evidence) -> Verdict {
    if !refused_by_an_end(evidence) || evidence.peer_is_local() == Some(true) || was_reset(evidence) {
        return Verdict::Healthy;
    }
    if evidence.timeline.iter().any(|moment| matches!(moment.what, What::IcmpSent { outgoing: true, .. })) {
        return Verdict::Healthy;
    }
    let peer = evidence.connection.peer;
    let udp = is_udp(evidence);
    let told = evidence.find(|what| match what {
        What::IcmpReceived { packet, place } if is_port_unreachable(packet) => Some((packet, place)),
        _ => None,
    });
    let sender = |packet: &Packet| packet.tuple.source.ip().to_canonical();
    // A host says so of a datagram that no socket takes.
    let is_firewalls = |packet: &Packet| !udp || sender(packet) != peer.ip().to_canonical();
    let Some((packet, place)) = told.map(|(_, told)| told).filter(|(packet, _)| is_firewalls(packet)).last()
    else {
        return Verdict::Healthy;
    };
    let sender = sender(packet);
    let by_peer = sender == peer.ip().to_canonical();
    let (side, who) = match by_peer {
        true => (WhereSide::Peer, format!("the peer {sender} itself")),
        false => (WhereSide::Path, format!("router {sender}")),
    };
    let icmp = match packet.tuple.protocol {
        protocol::ICMPV6 => format!("ICMPv6 type {} code {}", packet.flags, packet.code),
        _ => format!("ICMP type {} code {}", packet.flags, packet.code),
    };
    let what = request(evidence);
    let why = match udp {
        false => {
            "A host without a listener answers a SYN with RST; \"port unreachable\" is what a firewall sends that rejects"
        }
        true => {
            "A host that no socket takes the datagram on says so from the address that it was sent to; this came from another"
        }
    };
    let own = in_netns(evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref()));
    let transport = if udp { "-U" } else { "-T" };
    // The peer may have several addresses, and answer from another.
    let confidence = if udp { Confidence::Likely } else { Confidence::Certain };
    Finding::new(
        confidence,
        Where::new(side, Stage::Remote).at(&Place { netns: 0, netns_name: None, ..place.clone() }),
        "refused",
        format!("a firewall of {who} rejects the {what} ({icmp}, port unreachable)"),
    )
    .explain(format!(
        "The {what} for {peer} left this machine, and {who} answered it with {icmp}, which quotes it. {why}. The service \
         behind it may be running and well."
    ))
    .next(
        "see how far packets come, and who refuses",
        format!("{own}traceroute {} -n {transport} -p {} {}", family_flag(peer.ip()), peer.port(), peer.ip()),
    )
    .next(
        "watch the answer, its sender and its TTL",
        format!("{own}tcpdump -nvi any 'icmp or icmp6 or host {}'", peer.ip()),
    )
    .advise(match by_peer {
        true => format!("on the peer, look for a rule that rejects {} (nft list ruleset, iptables-save), and accept it", peer.port()),
        false => format!("allow {} on {sender}, or ask who runs it", host_port(peer)),
    })
    .found()
}

fn is_port_unreachable(packet: &Packet) -> bool {
    let expected =
        if packet.tuple.protocol == protocol::ICMPV6 { PORT_UNREACHABLE_V6 } else { PORT_UNREACHABLE };
    (packet.flags, packet.code) == expected
}

/// What does not fit the peer.
struct Misfit {
    ttl: Option<String>,
    time: Option<String>,
}

/// A RST in answer to the SYN that is not like what the peer sent before.
pub fn middlebox(evidence: &Evidence) -> Verdict {
    let died = evidence.connection.died_connecting();
    if !died || is_udp(evidence) || !refused_by_an_end(evidence) || evidence.peer_is_local() == Some(true) {
        return Verdict::Healthy;
    }
    let reset = evidence.find(|what| match what {
        What::Wire { packet, outgoing: false, place } if packet.is_rst() => Some((packet, place)),
        _ => None,
    });
    let Some((time_ns, (packet, place))) = reset.last() else { return Verdict::Healthy };
    let Some(before) = &evidence.facts.peer_before else { return Verdict::Healthy };
    let Misfit { ttl, time } = misfit(evidence, before, packet, time_ns);
    // Time alone may be a queue that was empty for once.
    let confidence = if ttl.is_some() { Confidence::Likely } else { Confidence::Possible };
    let reasons: Vec<String> = ttl.into_iter().chain(time).collect();
    if reasons.is_empty() {
        return Verdict::Healthy;
    }
    let peer = evidence.connection.peer;
    let own = in_netns(evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref()));
    let interface = place.interface.as_deref().filter(|name| !name.is_empty()).unwrap_or("any");
    let finding = Finding::new(
        confidence,
        Where::new(WhereSide::Path, Stage::Remote),
        "refused",
        format!("the RST does not look like the peer's: {}", reasons.join(", and ")),
    )
    .explain(format!(
        "The SYN for {peer} was answered with RST, as a host answers that has no listener on that port. But {}. So probably \
         a firewall, a load balancer or an inspection box on the way sent it in the peer's name, and the peer never saw \
         the SYN.",
        reasons.join(", and ")
    ))
    .next(
        "compare the TTL of the RST with that of other answers",
        format!("{own}tcpdump -nvi {interface} 'src host {} and tcp'", peer.ip()),
    )
    .next(
        "see where the way of this port ends, and that of one that works",
        format!("{own}traceroute {} -n -T -p {} {}", family_flag(peer.ip()), peer.port(), peer.ip()),
    )
    .advise(format!("on the peer, watch whether a SYN for port {} arrives; if none does, ask who runs the firewalls between", peer.port()));
    let finding =
        if confidence == Confidence::Possible { finding.or(&["refused.peer-no-listener"]) } else { finding };
    finding.found()
}

fn misfit(evidence: &Evidence, before: &PeerBefore, reset: &Packet, time_ns: u64) -> Misfit {
    let name = if reset.tuple.destination.is_ipv4() { "TTL" } else { "hop limit" };
    let ttl = match (hops(before.ttl), hops(reset.ttl)) {
        (Some(usual), Some(now)) if usual.abs_diff(now) >= FEWEST_HOPS => Some(format!(
            "it has {name} {} where the peer's own answers have {} ({} {} away, not {usual})",
            reset.ttl,
            before.ttl,
            now,
            if now == 1 { "router" } else { "routers" },
        )),
        _ => None,
    };
    let sent =
        evidence.syns_on_wire().map(|(sent_ns, _)| sent_ns).filter(|sent_ns| *sent_ns <= time_ns).last();
    let took = sent.map(|sent_ns| (time_ns - sent_ns) / 1000);
    let time = match (took, before.fastest_us) {
        (Some(took), Some(fastest)) if took * 3 < fastest && fastest - took >= FASTER_US => Some(format!(
            "it came after {:.1} ms where the peer never answered in less than {:.1} ms",
            took as f64 / 1000.0,
            fastest as f64 / 1000.0
        )),
        _ => None,
    };
    Misfit { ttl, time }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, Case, RST, SYN, address, here};
    use super::*;
    use crate::track::End;

    const REMOTE: &str = "refused.remote-firewall-reject";
    const MIDDLEBOX: &str = "refused.middlebox-reset";

    fn refused() -> Case {
        Case::connecting().errno(libc::ECONNREFUSED).lasted(1)
    }

    fn from(sender: &str) -> impl FnOnce(&mut Evidence) {
        let sender = address(sender);
        move |evidence| {
            for moment in &mut evidence.timeline {
                if let What::IcmpReceived { packet, .. } = &mut moment.what {
                    packet.tuple.source = sender;
                }
            }
        }
    }

    fn udp(evidence: &mut Evidence) {
        evidence.connection.protocol = protocol::UDP;
        evidence.connection.end = End::SocketError;
    }

    #[test]
    fn port_unreachable_for_a_syn_is_a_firewalls() {
        let (code, finding) = refused().icmp(1, 3, 3).diagnosed();
        assert_eq!((code, finding.confidence), (REMOTE, Confidence::Certain));
        assert!(finding.cause.contains("router 10.0.1.1"), "{}", finding.cause);
        assert_eq!(finding.place.side, WhereSide::Path);
        let (code, finding) = refused().icmp(1, 3, 3).with(from("10.0.2.2:0")).diagnosed();
        assert_eq!((code, finding.place.side), (REMOTE, WhereSide::Peer));
    }

    #[test]
    fn a_datagram_is_rejected_by_others_only() {
        let (code, finding) = refused().icmp(1, 3, 3).with(udp).diagnosed();
        assert_eq!((code, finding.confidence), (REMOTE, Confidence::Likely));
        let (code, _) = refused().icmp(1, 3, 3).with(udp).with(from("10.0.2.2:0")).diagnosed();
        assert_eq!(code, "refused.peer-no-listener");
    }

    #[test]
    fn other_answers_are_not_a_remote_reject() {
        let healthy = |case: Case| assert_eq!(case.asked(REMOTE), Verdict::Healthy);
        healthy(refused().at(0, What::ResetReceived));
        healthy(refused().icmp(1, 3, 1));
        healthy(refused());
        healthy(refused().icmp(1, 3, 3).peer_on_this_machine());
        healthy(Case::connecting().icmp(1, 3, 3));
        let here = What::IcmpSent { icmp_type: 3, icmp_code: 3, outgoing: true, place: testing::there() };
        healthy(refused().icmp(1, 3, 3).at(0, here));
        healthy(refused().icmp(1, 3, 3).dropped(0, testing::Drop::syn("NETFILTER_DROP", "nft_do_chain")));
    }

    /// A RST with this TTL after so many milliseconds, from a peer that answers with TTL 57 after 20 ms.
    fn reset(ttl: u8, after_ms: u64) -> Case {
        let case = refused().at(after_ms, What::ResetReceived).sent(0, SYN);
        let mut packet = case.packet(RST, false);
        packet.ttl = ttl;
        case.at(after_ms, What::Wire { packet, outgoing: false, place: here() }).with(|e| {
            e.facts.peer_before = Some(PeerBefore { ttl: 57, fastest_us: Some(20_000) });
        })
    }

    #[test]
    fn a_reset_from_nearer_is_not_the_peers() {
        let (code, finding) = reset(63, 20).diagnosed();
        assert_eq!((code, finding.confidence), (MIDDLEBOX, Confidence::Likely));
        assert!(finding.cause.contains("TTL 63 where the peer's own answers have 57"), "{}", finding.cause);
        let (code, finding) = reset(63, 1).diagnosed();
        assert_eq!((code, finding.confidence), (MIDDLEBOX, Confidence::Likely));
        assert!(finding.cause.contains("after 1.0 ms"), "{}", finding.cause);
    }

    #[test]
    fn time_alone_is_a_hint() {
        let (code, finding) = reset(57, 1).diagnosed();
        assert_eq!((code, finding.confidence), ("refused.peer-no-listener", Confidence::Likely));
        assert!(finding.alternatives.is_empty());
        assert_eq!(reset(57, 1).found(MIDDLEBOX).confidence, Confidence::Possible);
    }

    #[test]
    fn a_reset_like_the_peers_own_is_the_peers() {
        let healthy = |case: Case| assert_eq!(case.asked(MIDDLEBOX), Verdict::Healthy);
        healthy(reset(57, 20));
        // A changed route; another initial value over as many routers (248 = 255 - 7).
        healthy(reset(56, 20));
        healthy(reset(248, 20));
        healthy(reset(121, 20));
        healthy(reset(63, 20).with(|e| e.facts.peer_before = None));
        healthy(reset(63, 20).peer_on_this_machine());
        healthy(reset(63, 20).with(|e| e.connection.errno = Some(libc::ETIMEDOUT)));
    }
}
