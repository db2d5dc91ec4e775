use std::collections::{BTreeMap, BTreeSet};

use super::reasons::{Class, REASONS, class, of_reason};
use super::testing::{by_rule, dropped, process};
use super::{By, Dropped, Groups, ReasonTotal, Whose};
use crate::diagnoses;
use crate::filter::Filter;
use crate::kernel::drops::Total;
use crate::kernel::reasons::NO_LOSS;
use crate::probes::{Basis, Engine, Packet, Tuple};
use crate::track::Hook;

fn code(reason: &str, symbol: &str) -> Option<&'static str> {
    dropped(reason, symbol).class.code()
}

#[test]
fn the_table_and_the_catalogue_agree() {
    let mut seen = BTreeSet::new();
    for reason in REASONS {
        assert!(seen.insert(reason.name), "{} is there twice", reason.name);
        assert!(!reason.meaning.is_empty(), "{}", reason.name);
        if let Class::Loss(code) = reason.class {
            assert!(diagnoses::find(code).is_some(), "{}: there is no {code}", reason.name);
        }
    }
}

#[test]
fn what_the_programs_ignore_is_normal() {
    for name in NO_LOSS {
        assert!(of_reason(name).0.is_normal(), "{name} is ignored by all but `drops`, which calls it a loss");
    }
}

#[test]
fn each_cause_has_its_reason_and_not_its_neighbours() {
    let expected = [
        ("drop.firewall", "NETFILTER_DROP", "TC_INGRESS"),
        ("drop.reverse-path-filter", "IP_RPFILTER", "IP_LOCAL_SOURCE"),
        ("drop.no-socket", "NO_SOCKET", "SOCKET_RCVBUFF"),
        ("drop.martian", "IP_INVALID_SOURCE", "IP_RPFILTER"),
        ("drop.forwarding-disabled", "IP_INADDRERRORS", "IP_INNOROUTES"),
        ("drop.no-route", "IP_INNOROUTES", "IP_INADDRERRORS"),
        ("drop.too-big", "PKT_TOO_BIG", "PKT_TOO_SMALL"),
        ("drop.checksum", "UDP_CSUM", "SKB_GSO_SEG"),
        ("drop.receive-buffer", "SOCKET_RCVBUFF", "SOCKET_FILTER"),
        ("drop.bpf", "TC_EGRESS", "QDISC_DROP"),
        ("drop.qdisc", "QDISC_DROP", "TC_EGRESS"),
        ("drop.other", "NEIGH_FAILED", "NO_SOCKET"),
    ];
    let all: BTreeSet<&str> = diagnoses::drop::ALL.iter().map(|entry| entry.code).collect();
    assert_eq!(all, expected.iter().map(|(code, ..)| *code).collect());
    for (wanted, hit, near_miss) in expected {
        assert_eq!(code(hit, "f"), Some(wanted));
        assert_ne!(code(near_miss, "f"), Some(wanted));
    }
    assert_eq!(code("A_REASON_OF_TOMORROW", "f"), Some("drop.other"));
    assert_eq!(code("QDISC_FLOW_LIMIT", "f"), Some("drop.qdisc"), "an enum of its own in Linux 7");
    assert_eq!(code("TCP_OLD_DATA", "tcp_data_queue"), None);
}

#[test]
fn a_place_tells_what_a_reason_does_not() {
    assert_eq!(code("NOT_SPECIFIED", "ip_error"), Some("drop.no-route"));
    assert_eq!(code("NOT_SPECIFIED", "ip6_mc_input"), None);
    // A place adds nothing to a reason that says it all.
    assert_eq!(code("IP_INADDRERRORS", "ip_error"), Some("drop.forwarding-disabled"));
}

#[test]
fn addresses_tell_what_a_reason_does_not() {
    let code = |reason: &str, from: &str, to: &str| {
        let tuple = Tuple { protocol: 17, source: from.parse().unwrap(), destination: to.parse().unwrap() };
        let packet = Packet { tuple, ..dropped(reason, "f").packet };
        class(reason, None, &packet).0.code()
    };
    // Nobody here joined the group: that is no loss. Its source may be wrong all the same.
    assert_eq!(code("IP_INVALID_DEST", "10.0.0.1:1", "239.1.1.1:1"), None);
    assert_eq!(code("IP_INVALID_DEST", "127.0.0.1:1", "239.1.1.1:1"), Some("drop.martian"));
    assert_eq!(code("IP_INVALID_SOURCE", "10.0.0.1:1", "239.1.1.1:1"), Some("drop.martian"));
    assert_eq!(code("IP_INVALID_DEST", "10.0.0.1:1", "0.0.0.1:1"), Some("drop.martian"));
    // ip6_forward() says the same of a source that nobody can have.
    assert_eq!(code("IP_INADDRERRORS", "[fd77::1]:1", "[fd78::1]:1"), Some("drop.forwarding-disabled"));
    assert_eq!(code("IP_INADDRERRORS", "[ff02::1]:1", "[fd78::1]:1"), Some("drop.martian"));
    assert_eq!(code("IP_INADDRERRORS", "[fd77::1]:1", "[::]:1"), Some("drop.martian"));
}

#[test]
fn flags_tell_what_a_reason_does_not() {
    let code = |reason: &str, flags: u8| {
        let packet = Packet { flags, ..dropped(reason, "f").packet };
        class(reason, Some("f"), &packet).0.code()
    };
    let (syn, ack, fin_ack, fin) = (0x02, 0x10, 0x11, 0x01);
    for reason in ["TCP_FLAGS", "TCP_RFC7323_TW_PAWS"] {
        let codes = [syn, ack, fin_ack, fin].map(|flags| code(reason, flags));
        assert_eq!(codes, [Some("drop.other"), None, None, Some("drop.other")], "{reason}");
    }
    assert_eq!(code("TCP_RFC7323_PAWS", ack), Some("drop.other"));
}

fn totals(groups: &Groups, all: u64, unparsed: u64) -> Vec<ReasonTotal> {
    groups.totals(&[Total { reason: 12, all, unparsed }], |_| "NETFILTER_DROP".to_owned())
}

fn counts(groups: &mut Groups) -> Vec<u64> {
    groups.all().iter().map(|group| group.count).collect()
}

#[test]
fn counts_add_up_to_what_the_kernel_counted() {
    let mut groups = Groups::new(By::Rule);
    assert!(groups.add(by_rule(3)).is_some());
    assert!(groups.add(Dropped { suppressed: 40, ..by_rule(3) }).is_none());
    assert!(groups.add(Dropped { limit_key: 8, ..by_rule(4) }).is_some());
    // 7 more of the first flow after its last record, and 2 of one that is not known.
    groups.settle(|key| if key == 7 { 7 } else { 0 });
    assert_eq!(counts(&mut groups), [49, 1]);
    let totals = totals(&groups, 55, 3);
    assert_eq!((totals[0].accounted, totals[0].not_sampled()), (50, 2));
    groups.settle(|_| 7);
    assert_eq!(counts(&mut groups), [49, 1], "told once");
}

#[test]
fn what_a_filter_leaves_out_is_accounted_for_and_not_shown() {
    let mut groups = Groups::new(By::Rule);
    groups.leave_out(&Dropped { suppressed: 9, ..by_rule(3) });
    groups.settle(|_| 5);
    assert!(counts(&mut groups).is_empty());
    assert_eq!(totals(&groups, 15, 0)[0].not_sampled(), 0);
}

#[test]
fn a_record_without_frames_has_the_rule_of_its_flow() {
    let bare = |limit_key, rule_looked_up| Dropped {
        rule: None,
        limit_key,
        rule_looked_up,
        hook: by_rule(3).hook,
        ..by_rule(3)
    };
    let mut groups = Groups::new(By::Rule);
    groups.add(by_rule(3));
    groups.add(bare(7, false));
    assert_eq!(counts(&mut groups), [2]);
    // Another flow may have met another rule; and a rule that could not be confirmed is unknown.
    groups.add(bare(8, false));
    groups.add(bare(7, true));
    assert_eq!(counts(&mut groups), [2, 2]);
}

/// Rules of iptables-legacy are found by comparing, for which there is not always time.
#[test]
fn a_rule_that_nobody_looked_for_is_that_of_a_drop_like_it_only() {
    let legacy = || {
        let mut drop = Dropped { symbol: Some("nf_hook_slow".into()), ..by_rule(3) };
        let rule = drop.rule.as_mut().unwrap();
        (rule.engine, rule.number, rule.handle) = (Engine::IptablesLegacy, Some(1), None);
        rule.basis = Basis::Counter;
        drop
    };
    let unnamed = || Dropped { rule: None, rule_looked_up: false, ..legacy() };
    let mut groups = Groups::new(By::Rule);
    groups.add(legacy());
    groups.add(unnamed());
    assert_eq!(counts(&mut groups), [2], "it joins the group of its cause");
    let of_packet = |change: fn(&mut Packet)| {
        let mut drop = unnamed();
        change(&mut drop.packet);
        drop
    };
    // Each has the same limiting key, and may have met another rule.
    let others = [
        Dropped { hook: Some(Hook::Input), ..unnamed() },
        Dropped { symbol: Some("nft_do_chain".into()), ..unnamed() },
        of_packet(|packet| packet.netns += 1),
        of_packet(|packet| packet.flags = 0x10),
        of_packet(|packet| packet.tuple.destination.set_port(22)),
        of_packet(|packet| packet.ifindex += 1),
    ];
    for other in others {
        groups.add(other);
    }
    let of_rule = |groups: &mut Groups| {
        let named = groups.all().into_iter().filter(|group| group.sample.rule.is_some());
        named.map(|group| group.count).collect::<Vec<_>>()
    };
    assert_eq!(of_rule(&mut groups), [2]);
    groups.add(unnamed());
    assert_eq!(of_rule(&mut groups), [3], "what came between is not forgotten over");
    groups.add(Dropped { rule_looked_up: true, ..unnamed() });
    groups.add(unnamed());
    assert_eq!(of_rule(&mut groups), [3], "nothing fitted the last one: the ruleset is another now");
}

#[test]
fn by_each_key() {
    let other_flow = {
        let mut drop = by_rule(3);
        drop.packet.tuple.destination.set_port(22);
        drop
    };
    let other_interface = {
        let mut drop = by_rule(3);
        drop.packet.interface = "eth1".into();
        drop
    };
    let drops = [
        by_rule(3),
        by_rule(4),
        other_flow,
        other_interface,
        Dropped { whose: process(9, "nginx"), ..by_rule(3) },
        Dropped { whose: Whose::Unknown, ..by_rule(3) },
        dropped("TCP_OLD_DATA", "tcp_data_queue"),
    ];
    let expected = BTreeMap::from([
        ("rule", vec![5, 1]),
        ("reason", vec![6]),
        ("flow", vec![5, 1]),
        ("process", vec![4, 1, 1]),
        ("interface", vec![5, 1]),
    ]);
    for by in [By::Rule, By::Reason, By::Flow, By::Process, By::Interface] {
        let mut groups = Groups::new(by);
        for drop in drops.clone() {
            groups.add(drop);
        }
        let losses = groups.all().into_iter().filter(|group| !group.sample.class.is_normal());
        let found: Vec<u64> = losses.map(|group| group.count).collect();
        assert_eq!(found, expected[by.as_str()], "by {}", by.as_str());
    }
}

#[test]
fn by_reason_the_count_is_exact() {
    let mut groups = Groups::new(By::Reason);
    groups.add(by_rule(3));
    let mut totals = totals(&groups, 1000, 10);
    groups.complete(&mut totals);
    assert_eq!(counts(&mut groups), [990]);
    assert_eq!(totals[0].not_sampled(), 0);
}

#[test]
fn groups_are_bounded_and_lose_no_count() {
    let mut groups = Groups::new(By::Rule);
    for handle in 0..10_000 {
        groups.add(by_rule(handle));
    }
    let counts = counts(&mut groups);
    assert!(counts.len() <= 4097);
    assert_eq!(counts.iter().sum::<u64>(), 10_000);
}

#[test]
fn filters_ask_about_the_packet() {
    let matches = |filter: &str, drop: &Dropped| filter.parse::<Filter>().unwrap().matches(drop);
    let drop = Dropped { whose: process(9, "nginx"), ..by_rule(3) };
    assert_eq!(matches("src host 10.0.1.2 and tcp dst port 8080", &drop), Some(true));
    assert_eq!(matches("comm nginx and pid 9 and netns web and code drop.firewall", &drop), Some(true));
    assert_eq!(matches("udp or port 22", &drop), Some(false));
    assert_eq!(matches("comm nginx", &Dropped { whose: Whose::Nobody, ..by_rule(3) }), None);
}
