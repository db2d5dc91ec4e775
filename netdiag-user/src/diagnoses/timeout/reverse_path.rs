//! Reverse path filtering, RFC 3704; net/ipv4/fib_frontend.c fib_validate_source().

use super::super::words::how_it_ended;
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};
use crate::enrich::facts::ReverseRoute;

/// The source of the packet would not be reached through the interface that it came in on.
pub(super) fn reverse_path_filter(evidence: &Evidence) -> Verdict {
    let found =
        [true, false].into_iter().find_map(|outgoing| last_drop(evidence, outgoing, Drop::by_reverse_path));
    let Some(drop) = found else { return Verdict::Healthy };
    if drop.outgoing && accepted_answer(evidence) {
        return Verdict::Healthy;
    }
    let there = where_phrase(evidence, drop.place);
    let interface = drop.place.interface.as_deref().filter(|name| !name.is_empty());
    let on = interface.map_or_else(String::new, |name| format!(" on {name}"));
    let confidence = match (drop.has_reason(), ended_it(evidence, &drop)) {
        (true, true) => Confidence::Certain,
        (false, true) => Confidence::Likely,
        (_, false) => Confidence::Possible,
    };
    let source = drop.packet.tuple.source.ip();
    let ns = enter(evidence, drop.place);
    let name = interface.unwrap_or("all");
    let settings = if name == "all" {
        "net.ipv4.conf.all.rp_filter".to_owned()
    } else {
        format!("net.ipv4.conf.all.rp_filter net.ipv4.conf.{}.rp_filter", sysctl_name(name))
    };
    let would_take = evidence
        .facts
        .reverse_routes
        .iter()
        .rfind(|route| route.netns == u64::from(drop.place.netns) && route.address == source);
    let would_take = match would_take {
        Some(ReverseRoute { text: Some(text), interface, .. }) => match interface {
            Some(other) if Some(other.as_str()) != drop.place.interface.as_deref() => {
                format!(" The answer would leave by {other}: `{text}`.")
            }
            _ => format!(" The route to {source} is now `{text}`."),
        },
        Some(ReverseRoute { text: None, .. }) => format!(" There is no route to {source} at all."),
        None => String::new(),
    };
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Route).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("the reverse path filter drops {}{on}{there}", drop.what()),
    )
    .explain(format!(
        "A packet from {source} came in{on}{there}, but the routing table would not send an answer for \
         {source} out there. Reverse path filtering (rp_filter) takes such a packet for forged and drops it \
         in silence.{would_take} Usual causes are two uplinks, a VPN or policy routing, or a route that is \
         missing."
    ))
    .next("which interface would the answer take?", format!("{ns}ip route get {source}"))
    .next("the setting in force is the greater one (1 strict, 2 loose)", format!("{ns}sysctl {settings}"))
    .advise("correct the routing if it is a mistake");
    if name != "all" {
        finding = finding.next(
            "if packets are meant to come that way, loose mode lets them in",
            format!("{ns}sysctl -w net.ipv4.conf.{}.rp_filter=2", sysctl_name(name)),
        );
    }
    if confidence == Confidence::Possible { finding.or(&["timeout.no-reply"]) } else { finding }.found()
}

/// sysctl writes the dot of `eth0.100` as a slash.
fn sysctl_name(interface: &str) -> String {
    interface.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, Case, there};
    use super::*;
    use crate::probes::TcpState;

    #[test]
    fn the_syn_on_its_way_in_is_certain() {
        let drop = || testing::Drop::syn("IP_RPFILTER", "ip_rcv_finish_core").place(there());
        let (code, finding) = Case::connecting()
            .syn_again(&[1000])
            .wire(&[0, 1000])
            .dropped(0, drop())
            .dropped(1000, drop())
            .diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.reverse-path-filter", Confidence::Certain));
        assert_eq!(finding.cause, "the reverse path filter drops the SYN on eth0 in network namespace srv");
        let commands: Vec<_> = finding.next_steps.iter().filter_map(|step| step.command.as_deref()).collect();
        assert_eq!(commands[0], "ip netns exec srv ip route get 10.0.1.2");
        assert_eq!(
            commands[1],
            "ip netns exec srv sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.eth0.rp_filter"
        );
    }

    #[test]
    fn the_way_that_the_answer_would_take_is_told() {
        let told = |interface: Option<&str>, text: Option<&str>| {
            let drop = testing::Drop::syn("IP_RPFILTER", "ip_rcv_finish_core").place(there());
            let route = ReverseRoute {
                netns: testing::PEER_NETNS.into(),
                address: testing::address("10.0.1.2:0").ip(),
                interface: interface.map(str::to_owned),
                text: text.map(str::to_owned),
            };
            let case = Case::connecting().dropped(0, drop).with(|e| e.facts.reverse_routes.push(route));
            case.found("timeout.reverse-path-filter").explanation
        };
        let other = told(Some("eth1"), Some("default via 10.9.9.1 dev eth1"));
        assert!(
            other.contains("The answer would leave by eth1: `default via 10.9.9.1 dev eth1`."),
            "{other}"
        );
        assert!(told(None, None).contains("There is no route to 10.0.1.2 at all."));
    }

    #[test]
    fn the_answer_on_its_way_back_is_certain() {
        let drop = testing::Drop::syn_ack("IP_RPFILTER", "ip_rcv_finish_core");
        let (code, finding) = Case::connecting().syn_again(&[1000]).dropped(1002, drop).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.reverse-path-filter", Confidence::Certain));
        assert_eq!(finding.next_steps[0].command.as_deref(), Some("ip route get 10.0.2.2"));
    }

    #[test]
    fn without_a_reason_the_place_makes_it_likely() {
        let drop = testing::Drop::syn("NOT_SPECIFIED", "ip_rcv_finish_core");
        let finding = Case::connecting().dropped(0, drop).found("timeout.reverse-path-filter");
        assert_eq!(finding.confidence, Confidence::Likely);
    }

    #[test]
    fn other_reasons_and_healthy_connections_are_not_it() {
        let other = testing::Drop::syn("IP_INNOROUTES", "ip_rcv_finish_core");
        let case = Case::connecting().dropped(0, other);
        assert_eq!(case.asked("timeout.reverse-path-filter"), Verdict::Healthy);
        let stray = testing::Drop::syn("IP_RPFILTER", "ip_rcv_finish_core");
        let healthy = Case::ending(TcpState::LastAck, TcpState::Close).dropped(0, stray);
        assert_eq!(healthy.asked("timeout.reverse-path-filter"), Verdict::Healthy);
    }
}
