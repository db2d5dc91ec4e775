//! Connection tracking had no room for a new connection; net/netfilter/nf_conntrack_core.c,
//! `__nf_conntrack_alloc`.

use super::super::FirewallFact;
use super::super::words::how_it_ended;
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::firewall::hook_phrase;
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};
use crate::enrich::facts::ConntrackFact;
use crate::track::Hook;

/// The table of the namespace in which this drop may have been for lack of room.
///
/// Entries are made at two hooks only, before any rule but those of raw tables. `nft_do_chain` reports its own
/// drops on newer kernels (6.7, recent 6.1); on others, and of iptables-legacy on all, they look like these.
fn table_at<'a>(evidence: &'a Evidence, drop: &Drop) -> Option<&'a ConntrackFact> {
    let at_hook = matches!(drop.hook, None | Some(Hook::Prerouting | Hook::Output));
    let by_hook_function = drop.symbol.is_some_and(|symbol| symbol.starts_with("nf_hook_slow"));
    if !drop.by_netfilter() || !at_hook || !by_hook_function {
        return None;
    }
    let of_place = |fact: &&ConntrackFact| fact.netns == u64::from(drop.place.netns);
    let table = evidence.facts.conntrack.iter().rfind(of_place)?;
    // The kernel counts each packet that it drops for lack of room.
    (table.max != 0 && table.dropped != Some(0)).then_some(table)
}

/// The full table that explains this drop, if one does.
pub(super) fn full_table<'a>(evidence: &'a Evidence, drop: &Drop) -> Option<&'a ConntrackFact> {
    table_at(evidence, drop).filter(|table| table.is_full())
}

/// Whether a table that has room now may have been full when it happened.
pub(super) fn may_have_been_full(evidence: &Evidence, drop: &Drop) -> bool {
    table_at(evidence, drop).is_some()
}

pub(super) fn conntrack_full(evidence: &Evidence) -> Verdict {
    let Some(drop) = last_drop(evidence, true, Drop::by_netfilter) else { return Verdict::Healthy };
    if accepted_answer(evidence) {
        return Verdict::Healthy;
    }
    let Some(table) = full_table(evidence, &drop) else { return Verdict::Healthy };
    let whole = ended_it(evidence, &drop);
    let there = where_phrase(evidence, drop.place);
    let ns = enter(evidence, drop.place);
    let ConntrackFact { count, max, .. } = table;
    let counted = match table.dropped {
        Some(dropped) => format!(" It has dropped {dropped} packets there so far."),
        None => String::new(),
    };
    let finding = Finding::new(
        if whole { Confidence::Likely } else { Confidence::Possible },
        Where::new(WhereSide::Local, Stage::Netfilter).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!(
            "the connection tracking table{there} is full ({count} of {max}), so the kernel drops {}{}",
            drop.what(),
            hook_phrase(&drop)
        ),
    )
    .firewall(FirewallFact { engine: None, hook: drop.hook, rule: None })
    .explain(format!(
        "For stateful firewall rules and NAT the kernel remembers every connection in a table. The table{there} \
         has {count} entries of at most {max}, and without room for another the kernel drops {} in silence: no \
         rule is to blame.{counted} Connections that are in the table go on working.{}",
        drop.what(),
        if whole { "" } else { " A later copy was not seen to be dropped, so there may be a second cause." },
    ))
    .next("is it still full?", format!("{ns}sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"))
    .next("which connections fill it?", format!("{ns}conntrack -L 2>/dev/null | awk '{{print $1, $4}}' | sort | uniq -c | sort -rn | head"))
    .next("the kernel says so too", "dmesg | grep 'nf_conntrack: table full'")
    .next(
        "make room: an entry costs about 300 bytes of kernel memory (set it outside of containers)",
        format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)),
    )
    .advise(
        "find out what opens so many connections; a rule in a raw table that drops would look the same, but is \
         rare",
    );
    let also: &[&str] = if whole { &[] } else { &["timeout.firewall-drop", "timeout.no-reply"] };
    finding.or(also).found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, CLIENT_NETNS, Case, PEER_NETNS, SYN, there};
    use super::*;

    const CODE: &str = "timeout.conntrack-full";

    fn refused() -> testing::Drop {
        testing::Drop::syn("NETFILTER_DROP", "nf_hook_slow").hook(Hook::Output)
    }

    fn table(netns: u32, count: u64, dropped: Option<u64>) -> ConntrackFact {
        ConntrackFact { netns: netns.into(), count, max: 1000, dropped }
    }

    fn case(drop: testing::Drop, table: ConntrackFact) -> Case {
        Case::connecting()
            .syn_again(&[1000])
            .dropped(0, drop.clone())
            .dropped(1000, drop)
            .with(|e| e.facts.conntrack.push(table))
    }

    #[test]
    fn a_drop_with_a_full_table_is_likely() {
        let full = || case(refused(), table(CLIENT_NETNS, 1001, Some(2)));
        let (code, finding) = full().diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        assert_eq!(
            finding.cause,
            "the connection tracking table is full (1001 of 1000), so the kernel drops the SYN (hook output)"
        );
        assert!(finding.explanation.contains("dropped 2 packets"), "{}", finding.explanation);
        assert_eq!(full().asked("timeout.firewall-drop"), Verdict::Healthy);
        assert_eq!(
            full().asked("timeout.no-reply"),
            Case::connecting().syn_again(&[1000]).dropped(0, refused()).asked("timeout.no-reply")
        );
    }

    #[test]
    fn another_namespace_is_named() {
        let drop = refused().hook(Hook::Prerouting).place(there());
        let (code, finding) = case(drop, table(PEER_NETNS, 995, None)).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        assert!(finding.cause.contains("table in network namespace srv is full (995 of 1000)"));
        let command = finding.next_steps[0].command.as_deref().unwrap();
        assert!(command.starts_with("ip netns exec srv sysctl "), "{command}");
    }

    #[test]
    fn kernels_without_reasons_and_hooks() {
        let drop = testing::Drop::syn("NOT_SPECIFIED", "nf_hook_slow");
        assert_eq!(case(drop, table(CLIENT_NETNS, 1000, None)).diagnosed().0, CODE);
    }

    #[test]
    fn a_firewall_remains_a_firewall() {
        let firewall = |drop: testing::Drop, table: ConntrackFact| {
            assert_eq!(case(drop.clone(), table.clone()).asked(CODE), Verdict::Healthy);
            let (code, finding) = case(drop, table).diagnosed();
            assert_eq!((code, finding.confidence), ("timeout.firewall-drop", Confidence::Certain));
        };
        let doubtful = case(refused(), table(CLIENT_NETNS, 700, Some(2)));
        let (code, finding) = doubtful.diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.firewall-drop", Confidence::Likely));
        assert_eq!(case(refused(), table(CLIENT_NETNS, 949, Some(2))).diagnosed().0, CODE);
        firewall(refused(), table(PEER_NETNS, 1001, Some(2)));
        firewall(refused(), table(CLIENT_NETNS, 1001, Some(0)));
        firewall(refused().hook(Hook::Input), table(CLIENT_NETNS, 1001, Some(2)));
        firewall(refused(), ConntrackFact { max: 0, ..table(CLIENT_NETNS, 1001, Some(2)) });
        let by_rule = testing::Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Output);
        firewall(by_rule, table(CLIENT_NETNS, 1001, Some(2)));
    }

    #[test]
    fn a_later_copy_that_passed_leaves_doubt() {
        let case = Case::connecting()
            .syn_again(&[1000, 2000])
            .dropped(0, refused())
            .with(|e| e.facts.conntrack.push(table(CLIENT_NETNS, 1000, Some(1))));
        let finding = case.found(CODE);
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives, ["timeout.firewall-drop", "timeout.no-reply"]);
    }

    #[test]
    fn answered_connections_are_healthy() {
        let answered = case(refused(), table(CLIENT_NETNS, 1001, Some(2))).came(1001, SYN | ACK);
        assert_eq!(answered.asked(CODE), Verdict::Healthy);
    }
}
