use super::ALL;
use super::finding;
use crate::diagnoses::{Confidence, Finding, Stage, WhereSide};
use crate::drops::testing::{by_rule, dropped, process};
use crate::drops::{Dropped, Way};

fn of(drop: &Dropped) -> Finding {
    finding(drop).unwrap().1
}

#[test]
fn each_cause_is_told_where_it_was_with_a_next_step() {
    let reasons = [
        "NETFILTER_DROP",
        "IP_RPFILTER",
        "NO_SOCKET",
        "IP_LOCALNET",
        "IP_INADDRERRORS",
        "IP_OUTNOROUTES",
        "PKT_TOO_BIG",
        "TCP_CSUM",
        "SOCKET_RCVBUFF",
        "XDP",
        "QDISC_DROP",
        "NEIGH_FAILED",
    ];
    for (reason, entry) in reasons.iter().zip(ALL) {
        let (diagnosis, finding) = finding(&dropped(reason, "f")).unwrap();
        assert_eq!(diagnosis.code, entry.code, "{reason}");
        assert_eq!((finding.confidence, finding.place.side), (Confidence::Certain, WhereSide::Local));
        assert_eq!(finding.place.netns_name.as_deref(), Some("web"));
        assert!(!finding.next_steps.is_empty() && !finding.cause.is_empty(), "{finding:?}");
        assert_eq!(finding.firewall.is_some(), reason == &"NETFILTER_DROP");
    }
    assert!(finding(&dropped("QUEUE_PURGE", "skb_queue_purge_reason")).is_none());
}

#[test]
fn a_rule_is_named_with_what_takes_it_away() {
    let finding = of(&by_rule(12));
    assert_eq!(finding.place.stage, Stage::Netfilter);
    assert_eq!(finding.cause, "rule inet fw c handle 12");
    let command = finding.next_steps[0].command.as_deref();
    assert_eq!(command, Some("ip netns exec web nft delete rule inet fw c handle 12"));
    assert!(finding.explanation.contains("no process here asked for it"), "{}", finding.explanation);
    let firewall = finding.firewall.unwrap();
    assert_eq!(firewall.engine.as_deref(), Some("nftables"));
    assert_eq!(firewall.rule.and_then(|rule| rule.handle), Some(12));
}

#[test]
fn without_a_rule_nothing_is_to_be_deleted() {
    let unknown = Dropped { rule: None, symbol: Some("nf_hook_slow".into()), ..by_rule(12) };
    let finding = of(&unknown);
    assert_eq!(finding.firewall.as_ref().unwrap().engine, None, "it may be any");
    assert!(finding.next_steps.iter().flat_map(|step| &step.command).all(|step| !step.contains("delete")));
}

#[test]
fn a_process_is_named() {
    let drop = Dropped { whose: process(9, "nginx"), way: Way::Inbound, ..dropped("SOCKET_RCVBUFF", "f") };
    assert!(of(&drop).explanation.contains("nginx[9]"));
}
