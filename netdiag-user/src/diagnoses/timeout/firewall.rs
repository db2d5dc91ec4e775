//! netfilter dropped what this machine sent.

use super::super::rule::{self, Allow};
use super::super::words::how_it_ended;
use super::conntrack::{full_table, may_have_been_full};
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};

/// What the drop's symbol says about the engine, for JSON and for sentences.
pub(super) fn engine(drop: &Drop) -> (Option<String>, &'static str) {
    match drop.symbol {
        Some(symbol) if symbol.starts_with("nft_do_chain") => (
            Some("nftables".into()),
            "It is a rule or a chain's policy of nftables (or iptables-nft, which runs there too).",
        ),
        Some(_) if !drop.has_reason() => {
            (None, "Whether nftables, iptables or connection tracking did it, this kernel does not tell.")
        }
        _ => (None, "It is iptables (legacy) or connection tracking; the place does not tell which."),
    }
}

pub(super) fn hook_phrase(drop: &Drop) -> String {
    drop.hook.map_or_else(|| " (hook not known)".to_owned(), |hook| format!(" (hook {hook})"))
}

/// What to do about the rule; where it is not known, how to find it, and then to accept what `allow` and `advice` say.
pub(super) fn mend(
    finding: Finding,
    evidence: &Evidence,
    drop: &Drop,
    allow: Allow<'_>,
    advice: String,
) -> Finding {
    match drop.rule {
        Some(rule) => rule::steps(finding, &enter(evidence, drop.place), rule, allow),
        None => show_rules(finding, evidence, drop).advise(advice),
    }
}

/// Commands that show the rules of the namespace where it happened.
fn show_rules(finding: Finding, evidence: &Evidence, drop: &Drop) -> Finding {
    let ns = enter(evidence, drop.place);
    let v6 = if evidence.connection.peer.is_ipv4() { "" } else { "6" };
    let pattern = match drop.hook {
        Some(hook) => format!("hook {hook}|drop|reject"),
        None => "hook|drop|reject".to_owned(),
    };
    let nft = |finding: Finding| {
        finding.next(
            "find the rule: chains and rules that drop, with handles",
            format!("{ns}nft -a list ruleset | grep -nE '{pattern}'"),
        )
    };
    let iptables = |finding: Finding| {
        finding.next(
            "iptables: the counter that grows names the rule",
            format!("{ns}ip{v6}tables-save -c | grep -E 'DROP|^:'"),
        )
    };
    let by_nft = drop.symbol.is_some_and(|symbol| symbol.starts_with("nft_do_chain"));
    let finding = if by_nft { iptables(nft(finding)) } else { nft(iptables(finding)) };
    if by_nft {
        return finding;
    }
    finding.next(
        "is the connection tracking table full?",
        format!("{ns}sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"),
    )
}

/// netfilter dropped the SYN, or what was sent later.
pub(super) fn firewall_drop(evidence: &Evidence) -> Verdict {
    let Some(drop) = last_drop(evidence, true, Drop::by_netfilter) else { return Verdict::Healthy };
    // A new connection does not get as far as the rules while there is no room to track it.
    if accepted_answer(evidence) || full_table(evidence, &drop).is_some() {
        return Verdict::Healthy;
    }
    if evidence.unroutable_after_nat().is_some() {
        return Verdict::Healthy;
    }
    let peer = evidence.connection.peer;
    let there = where_phrase(evidence, drop.place);
    let whole = ended_it(evidence, &drop);
    let (engine, sentence) = engine(&drop);
    let sentence = drop.rule.map_or_else(|| sentence.to_owned(), rule::sentence);
    let finding = Finding::new(
        match whole {
            true if may_have_been_full(evidence, &drop) => Confidence::Likely,
            true => Confidence::Certain,
            false => Confidence::Possible,
        },
        Where::new(WhereSide::Local, Stage::Netfilter).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("a local firewall drops {}{there}{}", drop.what(), hook_phrase(&drop)),
    )
    .firewall(rule::fact(engine, drop.hook, drop.rule))
    .explain(format!(
        "The firewall of this machine{there} dropped {} for {peer} without an answer, so the application \
         could only wait. {sentence} The network and the service behind it may be fine.{}",
        drop.what(),
        if whole { "" } else { " A later copy was not seen to be dropped, so there may be a second cause." },
    ));
    let advice = format!(
        "accept TCP to {} port {} before the rule that drops, as narrowly as you can",
        peer.ip(),
        peer.port()
    );
    let finding = mend(finding, evidence, &drop, Allow::Packet(&drop.packet.tuple), advice);
    if whole { finding } else { finding.or(&["timeout.no-reply"]) }.found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, Case, SYN, there};
    use super::*;
    use crate::probes::{Basis, DropRule, Engine, TcpState};
    use crate::track::Hook;

    fn nft() -> testing::Drop {
        testing::Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Output)
    }

    #[test]
    fn an_established_connection_is_rejected() {
        let case = |code| {
            let drop = testing::Drop::syn("NETFILTER_DROP", "nft_do_chain")
                .flags(ACK)
                .hook(Hook::Forward)
                .place(there());
            let sent = crate::track::What::IcmpSent {
                icmp_type: 3,
                icmp_code: code,
                outgoing: true,
                place: there(),
            };
            Case::ending(TcpState::Established, TcpState::FinWait1)
                .data_again(&[200, 600])
                .dropped(200, drop.clone())
                .dropped(600, drop)
                .at(600, sent)
        };
        let noted = case(3).with(|e| e.connection.soft_errno = Some(libc::ECONNREFUSED));
        assert_eq!(noted.found("timeout.firewall-drop").confidence, Confidence::Certain);
        assert_eq!(case(1).asked("timeout.firewall-drop"), Verdict::Healthy);
    }

    #[test]
    fn a_syn_dropped_by_nftables_is_certain() {
        let (code, finding) =
            Case::connecting().syn_again(&[1000]).dropped(0, nft()).dropped(1000, nft()).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.firewall-drop", Confidence::Certain));
        assert_eq!(finding.cause, "a local firewall drops the SYN (hook output)");
        let firewall = finding.firewall.unwrap();
        assert_eq!((firewall.engine.as_deref(), firewall.hook), (Some("nftables"), Some(Hook::Output)));
        assert!(finding.explanation.contains("nftables (or iptables-nft"));
        assert_eq!((finding.place.side, finding.place.stage), (WhereSide::Local, Stage::Netfilter));
    }

    #[test]
    fn a_rule_that_the_kernel_named_is_told_with_what_to_do() {
        let named = DropRule {
            family: "inet".into(),
            table: "fw".into(),
            chain: "c".into(),
            handle: Some(12),
            text: Some("tcp dport 8080 drop".into()),
            ..DropRule::default()
        };
        let drop = nft().place(there()).rule(named.clone());
        let (_, finding) = Case::connecting().syn_again(&[1000]).dropped(1000, drop).diagnosed();
        assert_eq!(finding.firewall.unwrap().rule, Some(named));
        assert!(
            finding.explanation.contains("handle 12 in chain c of table inet fw"),
            "{}",
            finding.explanation
        );
        let first = finding.next_steps[0].command.as_deref().unwrap();
        assert_eq!(first, "ip netns exec srv nft delete rule inet fw c handle 12");
    }

    #[test]
    fn a_finding_is_no_surer_than_its_rule() {
        let rule = |number| DropRule {
            engine: Engine::IptablesLegacy,
            family: "ip".into(),
            table: "filter".into(),
            chain: "OUTPUT".into(),
            number: Some(number),
            text: Some("-A OUTPUT -j DROP".into()),
            basis: Basis::Matching,
            ..DropRule::default()
        };
        let told = |rule: DropRule| {
            let drop = testing::Drop::syn("NETFILTER_DROP", "nf_hook_slow").hook(Hook::Output).rule(rule);
            let (code, finding) = Case::connecting().syn_again(&[1000]).dropped(1000, drop).diagnosed();
            assert_eq!(code, "timeout.firewall-drop");
            finding
        };
        let one = told(rule(3));
        assert_eq!(one.confidence, Confidence::Likely);
        assert!(
            one.explanation.contains("probably rule 3 of chain OUTPUT of iptables-legacy's table filter")
        );
        assert_eq!(one.next_steps[0].command.as_deref(), Some("iptables-legacy -t filter -D OUTPUT -j DROP"));
        let several = told(DropRule { others: vec![rule(5)], ..rule(3) });
        assert_eq!(several.confidence, Confidence::Possible);
        assert!(several.explanation.contains("2 fit: rule 3 of"), "{}", several.explanation);
        let list = several.next_steps[0].command.as_deref();
        assert_eq!(list, Some("iptables-legacy -t filter -nvL --line-numbers"));
        let traced = told(DropRule { basis: Basis::Trace, ..rule(3) });
        assert_eq!(traced.confidence, Confidence::Certain);
    }

    #[test]
    fn it_explains_an_application_that_left_early_too() {
        let (code, _) = Case::connecting().lasted(300).dropped(0, nft()).diagnosed();
        assert_eq!(code, "timeout.firewall-drop");
    }

    #[test]
    fn another_namespace_is_named() {
        let drop = testing::Drop::syn("NETFILTER_DROP", "nf_hook_slow").place(there());
        let (_, finding) =
            Case::connecting().syn_again(&[1000]).wire(&[0, 1000]).dropped(1000, drop).diagnosed();
        assert_eq!(finding.cause, "a local firewall drops the SYN in network namespace srv (hook not known)");
        assert_eq!(finding.firewall.unwrap().engine, None);
        let command = finding.next_steps[0].command.as_deref().unwrap();
        assert_eq!(command, "ip netns exec srv iptables-save -c | grep -E 'DROP|^:'");
    }

    #[test]
    fn kernels_without_reasons_name_the_place_only() {
        let drop = testing::Drop::syn("NOT_SPECIFIED", "nf_hook_slow");
        let finding = Case::connecting().dropped(0, drop).found("timeout.firewall-drop");
        assert_eq!(finding.confidence, Confidence::Certain);
        assert!(finding.explanation.contains("this kernel does not tell"), "{}", finding.explanation);
    }

    #[test]
    fn a_later_copy_that_passed_leaves_doubt() {
        let case = Case::connecting().syn_again(&[1000, 2000]).wire(&[0, 1000, 2000]).dropped(0, nft());
        let finding = case.found("timeout.firewall-drop");
        assert_eq!(
            (finding.confidence, finding.alternatives),
            (Confidence::Possible, vec!["timeout.no-reply"])
        );
    }

    #[test]
    fn segments_of_a_silent_connection_count_as_well() {
        let drop = || nft().flags(ACK);
        let silent = Case::ending(TcpState::Established, TcpState::FinWait1)
            .data_again(&[4000, 4400])
            .dropped(4000, drop())
            .dropped(4400, drop());
        assert_eq!(silent.diagnosed().0, "timeout.firewall-drop");
        let healthy = Case::ending(TcpState::FinWait2, TcpState::Close).dropped(4000, drop());
        assert_eq!(healthy.asked("timeout.firewall-drop"), Verdict::Healthy);
    }

    #[test]
    fn other_packets_and_other_reasons_are_not_it() {
        let others = [
            nft().flags(testing::RST),
            testing::Drop::syn("QDISC_DROP", "__dev_queue_xmit"),
            testing::Drop::syn_ack("NETFILTER_DROP", "nft_do_chain"),
        ];
        for drop in others {
            let case = Case::connecting().syn_again(&[1000]).dropped(1000, drop);
            assert_eq!(case.asked("timeout.firewall-drop"), Verdict::Healthy);
        }
        let refused = Case::connecting().errno(libc::ECONNREFUSED).dropped(0, nft());
        assert_eq!(refused.asked("timeout.firewall-drop"), Verdict::Healthy);
        let answered = Case::connecting().syn_again(&[1000]).dropped(0, nft()).came(1001, SYN | ACK);
        assert_eq!(answered.asked("timeout.firewall-drop"), Verdict::Healthy);
    }
}
