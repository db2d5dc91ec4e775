//! ICMP errors: somebody on the way said no.

mod told;

use super::failure::{self, Failure};
use crate::diagnoses::rule::{self, Allow};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::track::{Place, What};
use told::{Class, Rejected, Told, own_reject, told};

pub(super) fn unreachable(evidence: &Evidence) -> Verdict {
    check(evidence, Class::Unreachable)
}

pub(super) fn prohibited(evidence: &Evidence) -> Verdict {
    check(evidence, Class::Prohibited)
}

fn check(evidence: &Evidence, class: Class) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    if matches!(failure, Failure::Call { connect: true, .. }) {
        return Verdict::Healthy;
    }
    match told(evidence) {
        Some(told) if told.class == class => describe(evidence, failure, &told).found(),
        Some(_) => Verdict::Healthy,
        None => match own_reject(evidence, failure) {
            Some((given, rejected, place)) if given == class => {
                by_own_firewall(evidence, failure, rejected, place).found()
            }
            Some(_) => Verdict::Healthy,
            None => by_errno(evidence, failure, class),
        },
    }
}

fn by_own_firewall(evidence: &Evidence, failure: Failure, rejected: Rejected, place: &Place) -> Finding {
    let family = if failure::peer(evidence).is_ipv4() { "an ICMP error" } else { "an ICMPv6 error" };
    let headline = failure::headline(evidence, failure);
    by_firewall(evidence, rejected, place, Confidence::Certain, headline, family)
}

fn describe(evidence: &Evidence, failure: Failure, told: &Told) -> Finding {
    let peer = failure::peer(evidence);
    let family = if peer.is_ipv4() { "ICMP" } else { "ICMPv6" };
    let packet = format!("{family} type {} code {}", told.icmp_type, told.code);
    // For an established connection TCP goes on, and reports the error only if the retransmits run out.
    let confidence = match failure {
        Failure::Established(_) if failure.late_errno(evidence).is_none() => Confidence::Likely,
        _ => Confidence::Certain,
    };
    let headline = failure::headline(evidence, failure);
    match told.made {
        Some(place) => on_this_machine(evidence, told, place, confidence, headline, &packet),
        None => from_outside(evidence, told, confidence, headline, &packet),
    }
}

fn from_outside(
    evidence: &Evidence,
    told: &Told,
    confidence: Confidence,
    headline: String,
    packet: &str,
) -> Finding {
    let peer = failure::peer(evidence);
    let port = evidence.connection.peer.port();
    let sender = told.sender.map_or_else(|| "somebody".to_owned(), |sender| sender.to_string());
    let by_peer = told.sender == Some(peer);
    let who = if by_peer { format!("the peer {sender} itself") } else { format!("router {sender}") };
    let verb = if told.class == Class::Prohibited { "prohibited" } else { "unreachable" };
    let mut at = Where::new(if by_peer { WhereSide::Peer } else { WhereSide::Path }, Stage::Remote);
    at.interface = (told.arrived.filter(|place| !failure::elsewhere(evidence, place)))
        .and_then(|place| place.interface.clone());
    let cause = format!("{who} answered \"{verb}\" ({packet}): {}", told.meaning);
    let finding = Finding::new(confidence, at, headline, cause).explain(format!(
        "A packet to {peer} left this machine, and {who} sent back {packet}, which quotes it: {}. The fault is there and \
         not in this machine's routing.",
        told.meaning
    ));
    let prefix = failure::own_prefix(evidence);
    let trace = format!("{prefix}traceroute {} -n -T -p {port} {peer}", words::family_flag(peer));
    let finding = finding.next("see how far packets come, and who refuses", trace);
    match told.class {
        Class::Prohibited => finding.advise(format!(
            "allow port {port} on {sender}, or ask who runs it; the message is a firewall's, not a route's"
        )),
        Class::Unreachable => finding
            .next("is it the right router?", format!("{prefix}ip route get {peer}"))
            .advise(format!("is {peer} on, and the address right? If so, tell who runs {sender}")),
    }
}

fn on_this_machine(
    evidence: &Evidence,
    told: &Told,
    place: &Place,
    confidence: Confidence,
    headline: String,
    packet: &str,
) -> Finding {
    let peer = failure::peer(evidence);
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let prefix = prefix_there(evidence, place);
    if let Some(rejected) = told.firewall {
        return by_firewall(evidence, rejected, place, confidence, headline, packet);
    }
    let family = words::family_flag(peer);
    let routing = failure::lookup_failed(
        evidence,
        &[libc::EAGAIN, libc::EHOSTUNREACH, libc::EACCES, libc::ENETUNREACH],
        true,
    );
    let cause = match (told.class, routing) {
        (Class::Prohibited, true) => format!("a prohibit route or rule{there} forbids {peer}"),
        (Class::Prohibited, false) => format!("this machine{there} answered \"prohibited\" ({packet})"),
        (Class::Unreachable, true) => format!("the routing tables{there} have no way to {peer} ({packet})"),
        (Class::Unreachable, false) => {
            format!("this machine{there} answered \"unreachable\" ({packet}): {}", told.meaning)
        }
    };
    let at = Where::new(WhereSide::Local, Stage::Route).at(place);
    Finding::new(confidence, at, headline, cause)
        .explain(format!(
            "The packet to {peer} was to be forwarded{there} on this machine, and was answered there with {packet}: {}. The \
             connection's own routing is fine; that of the forwarding namespace is not.",
            told.meaning
        ))
        .next("ask for the route there", format!("{prefix}ip route get {peer}"))
        .next("see its rules and routes", format!("{prefix}ip {family} rule; {prefix}ip {family} route show table all"))
}

fn prefix_there(evidence: &Evidence, place: &Place) -> String {
    match failure::elsewhere(evidence, place) {
        true => words::in_netns(place.netns_name.as_deref()),
        false => failure::own_prefix(evidence),
    }
}

fn by_firewall(
    evidence: &Evidence,
    Rejected { hook, packet: rejected, rule }: Rejected,
    place: &Place,
    confidence: Confidence,
    headline: String,
    answer: &str,
) -> Finding {
    let peer = failure::peer(evidence);
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let prefix = prefix_there(evidence, place);
    let hook_text = hook.map(|hook| format!(" (hook {hook})")).unwrap_or_default();
    let at = Where::new(WhereSide::Local, Stage::Netfilter).at(place);
    let cause = format!("a firewall{there} on this machine rejects it with {answer}{hook_text}");
    let sentence = rule.map(|rule| format!(" {}", rule::sentence(rule))).unwrap_or_default();
    let finding = Finding::new(confidence, at, headline, cause)
        .explain(format!(
            "A firewall rule{there} on this machine rejected the packet to {peer} and answered with {answer}. The \
             message speaks of routes, but routing is fine.{sentence}"
        ))
        .firewall(rule::fact(None, hook, rule));
    match rule {
        Some(rule) => rule::steps(finding, &prefix, rule, Allow::Packet(&rejected.tuple)),
        None => finding.next("find the rule", format!("{prefix}nft -a list ruleset")),
    }
}

/// No ICMP was seen: tc did not watch, or the kernel does not tell.
fn by_errno(evidence: &Evidence, failure: Failure, class: Class) -> Verdict {
    let own_neighbour = evidence.timeline.iter().any(|moment| match &moment.what {
        What::Dropped { reason, .. } => reason == "NEIGH_FAILED",
        What::NeighbourFailed { .. } => true,
        _ => false,
    });
    if own_neighbour || failure::stuck(evidence, failure).is_some() {
        return Verdict::Healthy;
    }
    let v6 = failure::peer(evidence).is_ipv6();
    let found = match (class, failure.late_errno(evidence)) {
        (
            Class::Unreachable,
            Some(libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENONET | libc::ENOPROTOOPT),
        ) => (Confidence::Likely, "unreachable", &[][..]),
        (Class::Unreachable, Some(libc::EHOSTUNREACH)) => {
            let neighbour_known = evidence.facts.neighbour.is_some();
            let alternatives: &[_] = match neighbour_known {
                true => &["unreachable.icmp-prohibited"],
                false => &["unreachable.icmp-prohibited", "unreachable.neighbour-unresolved"],
            };
            (Confidence::Possible, "unreachable", alternatives)
        }
        (Class::Prohibited, Some(libc::EACCES)) if v6 => (Confidence::Likely, "prohibited", &[][..]),
        _ => return Verdict::Healthy,
    };
    let (confidence, verb, alternatives) = found;
    let peer = failure::peer(evidence);
    let prefix = failure::own_prefix(evidence);
    let perhaps = if confidence == Confidence::Possible { "perhaps " } else { "" };
    let cause = format!("{perhaps}a router answered \"{verb}\"; its packet was not seen");
    let at = Where::new(WhereSide::Path, Stage::Remote);
    Finding::new(confidence, at, failure::headline(evidence, failure), cause)
        .or(alternatives)
        .explain(format!(
            "The error came after a packet to {peer} had left. The kernel gives it when an ICMP error comes back that \
             quotes the packet. Who sent it was not seen."
        ))
        .next("watch for it and try again", format!("{prefix}tcpdump -nvi any 'icmp or icmp6'"))
        .next(
            "see how far packets come, and who refuses",
            format!("{prefix}traceroute {} -n -T -p {} {peer}", words::family_flag(peer), evidence.connection.peer.port()),
        )
        .found()
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop, here};
    use crate::probes::{DropRule, TcpState, protocol};
    use crate::track::Hook;

    const UNREACHABLE: &str = "unreachable.icmp-unreachable";
    const PROHIBITED: &str = "unreachable.icmp-prohibited";

    #[test]
    fn an_own_rule_answers_and_nobody_tells() {
        let rule = |rejects| DropRule { rejects, handle: Some(5), ..DropRule::default() };
        let case = |errno, rejects| {
            let drop = Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Output).rule(rule(rejects));
            let ends = connecting(errno).ends("[2001:db8::2]:40000", "[2001:db8:2::2]:80");
            ends.dropped(0, drop.clone()).dropped(3100, drop)
        };
        let (code, finding) = case(libc::ENETUNREACH, true).diagnosed();
        assert_eq!((code, finding.confidence), (UNREACHABLE, Confidence::Certain));
        assert_eq!(finding.place.stage, Stage::Netfilter);
        assert_eq!(case(libc::EACCES, true).diagnosed().0, PROHIBITED);
        miss(case(libc::EACCES, true), UNREACHABLE);
        assert_eq!(case(libc::ENETUNREACH, false).found(UNREACHABLE).place.stage, Stage::Remote);
    }

    #[test]
    fn a_router_says_no() {
        let (code, finding) = connecting(libc::EHOSTUNREACH).icmp(30, 3, 1).diagnosed();
        assert_eq!((code, finding.confidence), (UNREACHABLE, Confidence::Certain));
        assert!(finding.cause.contains("router 10.0.1.1"), "{}", finding.cause);
        miss(connecting(libc::EHOSTUNREACH).icmp(30, 3, 1), PROHIBITED);
        let (code, _) = connecting(libc::EHOSTUNREACH).icmp(30, 3, 13).diagnosed();
        assert_eq!(code, PROHIBITED);
        miss(connecting(libc::EHOSTUNREACH).icmp(30, 3, 10), UNREACHABLE);
        hit(Case::connecting().icmp(30, 11, 0), UNREACHABLE, Confidence::Certain);
        miss(connecting(libc::ECONNREFUSED).icmp(30, 3, 3), UNREACHABLE);
    }

    #[test]
    fn icmpv6_codes() {
        let v6 = |code| {
            connecting(libc::EACCES).ends("[2001:db8::2]:40000", "[2001:db8:2::2]:80").icmp(30, 1, code).with(
                |e| {
                    if let What::IcmpReceived { packet, .. } = &mut e.timeline[0].what {
                        packet.tuple.protocol = protocol::ICMPV6;
                    }
                },
            )
        };
        hit(v6(1), PROHIBITED, Confidence::Certain);
        hit(v6(5), PROHIBITED, Confidence::Certain);
        hit(v6(3), UNREACHABLE, Confidence::Certain);
        miss(v6(4), UNREACHABLE);
    }

    #[test]
    fn a_router_of_this_machine() {
        let sent = |code, place| What::IcmpSent { icmp_type: 3, icmp_code: code, outgoing: true, place };
        let case = connecting(libc::ENETUNREACH).route_failed(libc::EAGAIN, true).at(1, sent(0, in_router()));
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.place.netns_name.as_deref()), (UNREACHABLE, Some("router")));
        assert_eq!(
            finding.next_steps[0].command.as_deref(),
            Some("ip netns exec router ip route get 10.0.2.2")
        );
        hit(connecting(libc::EHOSTUNREACH).at(1, sent(13, in_router())), PROHIBITED, Confidence::Certain);
        let neighbour = connecting(libc::EHOSTUNREACH)
            .dropped(3000, Drop::syn("NEIGH_FAILED", "neigh_invalidate"))
            .at(3000, sent(1, here()));
        miss(neighbour, UNREACHABLE);
    }

    #[test]
    fn icmpv6_of_a_router_of_this_machine() {
        let case = |reason, after_ms: u64| {
            let mut case = connecting(libc::EACCES).ends("[2001:db8::2]:40000", "[2001:db8:2::2]:80");
            case = case.icmp(30 + after_ms, 1, 1).with(|e| {
                if let What::IcmpReceived { packet, .. } = &mut e.timeline[0].what {
                    packet.tuple.protocol = protocol::ICMPV6;
                }
            });
            case.dropped(30, Drop::syn(reason, "ip6_pkt_prohibit").place(in_router()))
        };
        let named = |case| hit(case, PROHIBITED, Confidence::Certain).place.netns_name;
        assert_eq!(named(case("IP_INNOROUTES", 1)).as_deref(), Some("router"));
        assert_eq!(named(case("NETFILTER_DROP", 1)).as_deref(), Some("router"));
        assert_eq!(named(case("IP_INNOROUTES", 500)), None);
        assert_eq!(named(case("TCP_CSUM", 1)), None);
    }

    #[test]
    fn a_reject_rule_is_a_firewalls() {
        let sent = What::IcmpSent { icmp_type: 3, icmp_code: 13, outgoing: true, place: in_router() };
        let drop = Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Forward).place(in_router());
        let (code, finding) = connecting(libc::EHOSTUNREACH).dropped(1, drop).at(1, sent).diagnosed();
        assert_eq!((code, finding.confidence), (PROHIBITED, Confidence::Certain));
        assert_eq!(finding.firewall.unwrap().hook, Some(Hook::Forward));
    }

    #[test]
    fn without_the_packet() {
        hit(connecting(libc::ENETUNREACH), UNREACHABLE, Confidence::Likely);
        hit(connecting(libc::EHOSTUNREACH), UNREACHABLE, Confidence::Possible);
        hit(established(libc::EHOSTUNREACH), UNREACHABLE, Confidence::Possible);
        miss(call(libc::ENETUNREACH), UNREACHABLE);
        miss(Case::ending(TcpState::FinWait2, TcpState::Close).icmp(3, 3, 1), UNREACHABLE);
        let v6 = connecting(libc::EACCES).ends("[2001:db8::2]:40000", "[2001:db8:2::2]:80");
        hit(v6, PROHIBITED, Confidence::Likely);
        miss(connecting(libc::EACCES), PROHIBITED);
    }

    #[test]
    fn healthy_connections() {
        for from in [TcpState::FinWait2, TcpState::LastAck, TcpState::Closing] {
            Case::ending(from, TcpState::Close).healthy("unreachable");
        }
    }
}
