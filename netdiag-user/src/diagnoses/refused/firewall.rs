//! A firewall of this machine said no.

use super::super::rule::{self, Allow, that_rejects};
use super::super::words::{enter, netns_phrase};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::listener::would_take;
use super::{refused_by_an_end, rejected, request};
use crate::probes::{DropRule, Packet};
use crate::track::{Hook, Place, Side, What};

/// The answer of a rule comes at once, also through some namespaces of this machine.
const AT_ONCE_NS: u64 = 100_000_000;

/// What was rejected, and where.
pub(super) struct Rejected<'a> {
    pub(super) packet: &'a Packet,
    pub(super) symbol: Option<&'a str>,
    pub(super) hook: Option<Hook>,
    pub(super) place: &'a Place,
    /// One that rejects.
    pub(super) rule: Option<DropRule>,
}

/// The last request that the packet filter dropped, right before the refusal; `None` if that was another's.
pub(super) fn last(evidence: &Evidence) -> Option<Rejected<'_>> {
    let connection = &evidence.connection;
    let refused = connection.errno == Some(libc::ECONNREFUSED) && connection.side == Side::Outbound;
    if !refused || !rejected(evidence) {
        return None;
    }
    let What::Dropped { packet, symbol, hook, place, rule, .. } =
        evidence.filtered_at_end(AT_ONCE_NS).last()?
    else {
        return None;
    };
    Some(Rejected {
        packet,
        symbol: symbol.as_deref(),
        hook: *hook,
        place,
        rule: rule.as_deref().and_then(that_rejects),
    })
}

/// ECONNREFUSED right after netfilter of this machine dropped the request: whoever drops in silence does not answer.
pub fn reject(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let Some(drop) = last(evidence) else { return in_place_of_listener(evidence) };
    let netns = Some(drop.place.netns).filter(|inode| *inode != 0);
    let there = netns_phrase(evidence, netns, drop.place.netns_name.as_deref());
    let hook = drop.hook.map(|hook| format!(" (hook {hook})")).unwrap_or_default();
    let what = request(evidence);
    let peer = connection.peer;
    let sentence = drop.rule.as_ref().map(|rule| format!(" {}", rule::sentence(rule))).unwrap_or_default();
    let engine = rule::engine_at(drop.symbol);
    let finding = Finding::new(
        if drop.rule.is_some() { Confidence::Certain } else { Confidence::Likely },
        Where::new(WhereSide::Local, Stage::Netfilter).at(drop.place).symbol(drop.symbol),
        "refused",
        format!("a local firewall rejects the {what}{there}{hook}"),
    )
    .firewall(rule::fact(engine, drop.hook, drop.rule.as_ref()))
    .explain(format!(
        "The firewall of this machine{there} threw the {what} for {peer} away and answered in the peer's place, so that \
         the application is told at once. To the application it looks as if nothing listened there.{sentence} The \
         network and the service may be fine."
    ));
    let ns = enter(evidence, drop.place);
    match &drop.rule {
        Some(rule) => rule::steps(finding, &ns, rule, Allow::Packet(&drop.packet.tuple)),
        None => find_rule(finding, &ns)
            .advise(format!("accept {peer} before the rule that rejects, as narrowly as you can")),
    }
    .found()
}

/// An address of this machine answered with RST, where a socket would have taken the request, and what became of that was
/// not seen.
fn in_place_of_listener(evidence: &Evidence) -> Verdict {
    let unseen = refused_by_an_end(evidence) && evidence.drops().next().is_none();
    let Some(listener) = would_take(evidence).filter(|_| unseen) else { return Verdict::Healthy };
    let netns = u32::try_from(listener.netns).unwrap_or(0);
    let place = Place { netns, netns_name: listener.netns_name.clone(), interface: None };
    let there = netns_phrase(evidence, Some(netns), place.netns_name.as_deref());
    let what = request(evidence);
    let finding = Finding::new(
        Confidence::Possible,
        Where::new(WhereSide::Local, Stage::Netfilter).at(&place),
        "refused",
        format!("something listens there{there}, so perhaps a local firewall rejects the {what}"),
    )
    .explain(format!(
        "The address belongs to this machine, the {what} was refused, and yet a socket takes such requests now: a rule that \
         rejects may have answered in its place, or the service was started only after this attempt. What became of the \
         {what} was not seen, as it happens where very many are refused at once."
    ))
    .listener(listener.clone());
    find_rule(finding, &enter(evidence, &place))
        .advise("if it is refused again, it was not the start of the service")
        .or(&["refused.no-listener"])
        .found()
}

fn find_rule(finding: Finding, ns: &str) -> Finding {
    finding
        .next(
            "find the rule: those of nftables that reject",
            format!("{ns}nft -a list ruleset | grep -n reject"),
        )
        .next("and those of iptables", format!("{ns}iptables-save -c | grep REJECT"))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, Case, there};
    use super::*;
    use crate::probes::Engine;

    fn rule(rejects: bool) -> DropRule {
        DropRule {
            family: "inet".into(),
            table: "fw".into(),
            chain: "c".into(),
            handle: Some(4),
            rejects,
            text: Some("reject".into()),
            engine: Engine::Nftables,
            ..DropRule::default()
        }
    }

    fn dropped() -> testing::Drop {
        testing::Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Input).place(there())
    }

    fn refused() -> Case {
        Case::connecting().errno(libc::ECONNREFUSED).lasted(1)
    }

    #[test]
    fn a_rule_that_rejects_is_certain() {
        let (code, finding) = refused().dropped(0, dropped().rule(rule(true))).diagnosed();
        assert_eq!((code, finding.confidence), ("refused.firewall-reject", Confidence::Certain));
        assert_eq!(finding.cause, "a local firewall rejects the SYN in network namespace srv (hook input)");
        assert_eq!(finding.firewall.unwrap().rule, Some(rule(true)));
        let command = finding.next_steps[0].command.as_deref().unwrap();
        assert_eq!(command, "ip netns exec srv nft delete rule inet fw c handle 4");
    }

    #[test]
    fn a_rule_that_is_not_known_is_likely() {
        let (code, finding) = refused().dropped(0, dropped()).diagnosed();
        assert_eq!((code, finding.confidence), ("refused.firewall-reject", Confidence::Likely));
    }

    #[test]
    fn a_silent_rule_and_an_earlier_drop_are_not_it() {
        let silent = refused().dropped(0, dropped().rule(rule(false)));
        assert_eq!(silent.asked("refused.firewall-reject"), Verdict::Healthy);
        let earlier = refused().lasted(1050).syn_again(&[1000]).dropped(0, dropped());
        assert_eq!(earlier.asked("refused.firewall-reject"), Verdict::Healthy);
        let in_time = Case::connecting().dropped(0, dropped().rule(rule(true)));
        assert_eq!(in_time.asked("refused.firewall-reject"), Verdict::Healthy);
    }
}
