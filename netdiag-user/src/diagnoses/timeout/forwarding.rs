//! A namespace of this machine got packets that are not its own, and does not forward.

use super::super::words::how_it_ended;
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};

/// net/ipv4/route.c `ip_error`, net/ipv6/ip6_output.c `ip6_forward`
fn is_misled(drop: &Drop) -> bool {
    let symbol = drop.symbol.unwrap_or_default();
    drop.reason == "IP_INADDRERRORS" && (symbol.starts_with("ip_error") || symbol.starts_with("ip6_forward"))
}

pub(super) fn forwarding_disabled(evidence: &Evidence) -> Verdict {
    let sent = last_drop(evidence, true, is_misled).filter(|_| !accepted_answer(evidence));
    let Some(drop) = sent.or_else(|| last_drop(evidence, false, is_misled)) else { return Verdict::Healthy };
    let setting = evidence.facts.forwarding.iter().rfind(|fact| fact.netns == u64::from(drop.place.netns));
    let confidence = match setting {
        Some(fact) if fact.enabled => return Verdict::Healthy,
        _ if !ended_it(evidence, &drop) => Confidence::Possible,
        Some(_) => Confidence::Certain,
        None => Confidence::Likely,
    };
    let there = where_phrase(evidence, drop.place);
    let interface = drop.place.interface.as_deref().filter(|name| !name.is_empty());
    let on = interface.map_or_else(String::new, |name| format!(" on {name}"));
    let ns = enter(evidence, drop.place);
    let destination = drop.packet.tuple.destination.ip();
    let all = if destination.is_ipv4() { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
    let name = setting.map_or(all, |fact| fact.setting.as_str());
    let finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Route).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("{} came in{on}{there}, which does not forward packets", drop.what()),
    )
    .explain(format!(
        "On its way {} came in{on}{there}. {destination} is no address there, and IP forwarding is off, so the \
         kernel dropped it in silence. That namespace acts as a router for this connection (a gateway, a container \
         host, a VPN end) and has not been told to be one.",
        drop.what()
    ));
    let finding = match evidence.connection.died_connecting() {
        true => finding,
        false => finding.next(
            format!("the connection was up: if {destination} was an address there until then, give it back; see what is there"),
            format!("{ns}ip address show"),
        ),
    };
    let finding = finding
        .next("is it 0?", format!("{ns}sysctl {name}"))
        .next("if it is meant to be a router, let it forward", format!("{ns}sysctl -w {all}=1"))
        .next("where it would send the packet then", format!("{ns}ip route get {destination}"))
        .advise("if it is not, correct the route that leads there");
    if confidence == Confidence::Possible { finding.or(&["timeout.no-reply"]) } else { finding }.found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, Case, PEER_NETNS, there};
    use super::*;
    use crate::enrich::facts::ForwardingFact;
    use crate::probes::TcpState;

    const CODE: &str = "timeout.forwarding-disabled";

    fn case(enabled: Option<bool>) -> Case {
        let drop = || testing::Drop::syn("IP_INADDRERRORS", "ip_error").place(there());
        Case::connecting().syn_again(&[1000]).dropped(0, drop()).dropped(1000, drop()).with(|e| {
            let setting = "net.ipv4.conf.eth0.forwarding".to_owned();
            let fact =
                |enabled| ForwardingFact { netns: PEER_NETNS.into(), setting: setting.clone(), enabled };
            e.facts.forwarding.extend(enabled.map(fact));
        })
    }

    #[test]
    fn off_is_certain_and_unread_is_likely() {
        let (code, finding) = case(Some(false)).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert_eq!(
            finding.cause,
            "the SYN came in on eth0 in network namespace srv, which does not forward packets"
        );
        assert_eq!(
            finding.next_steps[0].command.as_deref(),
            Some("ip netns exec srv sysctl net.ipv4.conf.eth0.forwarding")
        );
        assert_eq!(case(None).diagnosed().1.confidence, Confidence::Likely);
    }

    #[test]
    fn of_a_connection_that_was_up_the_address_may_be_gone() {
        let drop = testing::Drop::syn("IP_INADDRERRORS", "ip_error").flags(ACK).place(there());
        let case = Case::ending(TcpState::Established, TcpState::FinWait1).data_again(&[200, 600]);
        let finding = case.dropped(600, drop).found(CODE);
        assert!(finding.next_steps[0].text.contains("until then, give it back"), "{:?}", finding.next_steps);
    }

    #[test]
    fn on_it_is_another_cause() {
        assert_eq!(case(Some(true)).asked(CODE), Verdict::Healthy);
        let elsewhere = testing::Drop::syn("IP_INADDRERRORS", "ip_route_input_slow");
        assert_eq!(Case::connecting().dropped(0, elsewhere).asked(CODE), Verdict::Healthy);
    }
}
