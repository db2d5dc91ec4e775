//! What was changed before a connection failed, where that may be why.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::Engine;
use crate::diagnoses::{Evidence, Finding, Stage};
use crate::enrich::changes::{Change, ChangeKind, Seen};
use crate::enrich::netns::Names;
use crate::enrich::routes::{RouteAnswer, contains};
use crate::probes::DropRule;
use crate::track::{Moment, Place, What};

/// How long before the connection began a change is still told.
const RECENT_NS: u64 = 3_600_000_000_000;
/// Changes that are told of one connection; the latest.
const MAX_TOLD: usize = 6;
/// Rules whose words are looked up of them.
const MAX_WORDS: usize = 3;

/// Readable when the ring buffer is. `None` where that cannot be had: then the ring buffer alone is waited for.
pub(super) fn epoll(ring: RawFd) -> Option<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
    // SAFETY: the engine keeps the ring buffer open for as long as the epoll.
    let ring = unsafe { BorrowedFd::borrow_raw(ring) };
    epoll.add(ring, EpollEvent::new(EpollFlags::EPOLLIN, 0)).ok()?;
    Some(epoll)
}

/// What kind of change may have led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Ruleset,
    Network,
}

fn wanted(stage: Stage) -> Option<Wanted> {
    match stage {
        Stage::Netfilter => Some(Wanted::Ruleset),
        Stage::Route | Stage::Neighbour | Stage::Device | Stage::Remote => Some(Wanted::Network),
        Stage::Socket
        | Stage::Tc
        | Stage::Xdp
        | Stage::CgroupBpf
        | Stage::Qdisc
        | Stage::Tcp
        | Stage::Application => None,
    }
}

impl Engine {
    /// Adds the changes that may have led to this finding to the timeline, and watches the namespace of the failure from
    /// now on.
    pub(super) fn add_changes(&mut self, evidence: &mut Evidence, finding: &Finding) {
        let Some(wanted) = wanted(finding.place.stage) else { return };
        let netns = finding.place.netns.unwrap_or(evidence.connection.netns);
        self.changes.watch(netns.into(), evidence.connection.end_ns);
        // What leads there begins at the connection's own end.
        let own = (wanted == Wanted::Network).then_some(u64::from(evidence.connection.netns));
        let rule = finding.firewall.as_ref().and_then(|firewall| firewall.rule.as_ref());
        let mut told: Vec<Seen> = {
            let matter = |seen: &&Seen| {
                (seen.netns == u64::from(netns) || Some(seen.netns) == own)
                    && seen.time_ns <= evidence.connection.end_ns
                    && seen.time_ns.saturating_add(RECENT_NS) >= evidence.connection.start_ns
                    && matters(&seen.change, wanted, evidence, finding)
            };
            let of_rule = |seen: &&Seen| is_of_rule(&seen.change, rule);
            // That of the very rule before all others.
            let (own, others): (Vec<_>, Vec<_>) = self.changes.seen().rev().filter(matter).partition(of_rule);
            own.into_iter().chain(others).take(MAX_TOLD).cloned().collect()
        };
        told.reverse();
        self.add_words(&mut told, netns, rule);
        let names = Names::default();
        evidence.timeline.extend(told.into_iter().map(|Seen { time_ns, netns, change }| {
            let place = Place {
                netns: u32::try_from(netns).unwrap_or(0),
                netns_name: names.of(netns),
                interface: change.interface.clone(),
            };
            Moment { time_ns, what: What::Changed { change: Box::new(change), place } }
        }));
        evidence.timeline.sort_by_key(|moment| moment.time_ns);
    }

    /// The kernel tells which rules were added, and not what they say.
    fn add_words(&mut self, told: &mut [Seen], netns: u32, rule: Option<&DropRule>) {
        let mut looked_up = 0;
        for seen in told.iter_mut().filter(|seen| seen.change.kind == ChangeKind::RuleAdded) {
            let words = match rule.filter(|_| is_of_rule(&seen.change, rule)) {
                Some(rule) => rule.text.clone(),
                None if looked_up == MAX_WORDS => None,
                None => {
                    looked_up += 1;
                    let name = seen.change.rule.as_ref();
                    name.and_then(|name| self.firewall.words(netns, name))
                }
            };
            if let Some(words) = words {
                seen.change.subject = format!("{}: {words}", seen.change.subject);
            }
        }
    }
}

fn is_of_rule(change: &Change, rule: Option<&DropRule>) -> bool {
    change.rule.as_ref().zip(rule).is_some_and(|(changed, rule)| changed.is(rule))
}

fn matters(change: &Change, wanted: Wanted, evidence: &Evidence, finding: &Finding) -> bool {
    if change.kind == ChangeKind::ChangesLost {
        return true;
    }
    if change.kind.is_of_ruleset() {
        return wanted == Wanted::Ruleset && is_near_rule(change, finding);
    }
    if wanted != Wanted::Network {
        return false;
    }
    match change.about {
        Some(prefix) => addresses(evidence).any(|address| contains(prefix, address)),
        None => is_on_the_way(change, evidence, finding),
    }
}

/// Where the rule is known: what happened in its table. Other tables had no say.
fn is_near_rule(change: &Change, finding: &Finding) -> bool {
    let rule = finding.firewall.as_ref().and_then(|firewall| firewall.rule.as_ref());
    match (rule, &change.rule) {
        (Some(rule), Some(changed)) => (&changed.family, &changed.table) == (&rule.family, &rule.table),
        _ => true,
    }
}

/// Those that routing was about: both ends and the gateway.
fn addresses(evidence: &Evidence) -> impl Iterator<Item = IpAddr> {
    let connection = &evidence.connection;
    let gateway = evidence.facts.route.as_ref().and_then(RouteAnswer::route).and_then(|route| route.gateway);
    let asked = connection.before_nat.map(|ends| ends.peer.ip());
    let local = Some(connection.local.ip()).filter(|local| !local.is_unspecified());
    [Some(connection.peer.ip()), asked, local, gateway]
        .into_iter()
        .flatten()
        .map(|address| address.to_canonical())
}

/// A link, or a routing rule, which may be about anything. A link matters that is the one of the failure, or where none
/// is known.
fn is_on_the_way(change: &Change, evidence: &Evidence, finding: &Finding) -> bool {
    let Some(changed) = &change.interface else { return true };
    let route = evidence.facts.route.as_ref().and_then(RouteAnswer::route).and_then(|route| route.oif);
    let links = evidence.facts.links.as_deref().unwrap_or_default();
    let of_route = links.iter().find(|link| Some(link.ifindex) == route).map(|link| &link.name);
    match finding.place.interface.as_ref().or(of_route) {
        Some(interface) => interface == changed,
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnoses::{Confidence, FirewallFact, Where, WhereSide};
    use crate::enrich::changes::RuleName;
    use crate::output::testing;

    fn change(kind: ChangeKind) -> Change {
        Change { kind, subject: "x".into(), by: None, interface: None, about: None, rule: None }
    }

    fn finding(stage: Stage) -> Finding {
        Finding::new(Confidence::Certain, Where::new(WhereSide::Local, stage), "", "")
    }

    fn told(change: &Change, finding: &Finding) -> bool {
        let evidence = testing::outbound();
        wanted(finding.place.stage).is_some_and(|wanted| matters(change, wanted, &evidence, finding))
    }

    #[test]
    fn rules_are_for_the_firewall_and_routes_for_the_network() {
        let (added, down) = (change(ChangeKind::RuleAdded), change(ChangeKind::LinkDown));
        assert!(told(&added, &finding(Stage::Netfilter)) && !told(&added, &finding(Stage::Route)));
        assert!(told(&down, &finding(Stage::Remote)) && !told(&down, &finding(Stage::Netfilter)));
        assert!(!told(&added, &finding(Stage::Tcp)) && !told(&down, &finding(Stage::Socket)));
        assert!(told(&change(ChangeKind::ChangesLost), &finding(Stage::Netfilter)));
    }

    #[test]
    fn another_table_had_no_say() {
        let name = |table: &str| RuleName {
            family: "inet".into(),
            table: table.into(),
            chain: "c".into(),
            handle: Some(3),
        };
        let rule =
            DropRule { family: "inet".into(), table: "fw".into(), chain: "c".into(), ..DropRule::default() };
        let finding =
            finding(Stage::Netfilter).firewall(FirewallFact { rule: Some(rule), ..Default::default() });
        let of = |table| Change { rule: Some(name(table)), ..change(ChangeKind::RuleAdded) };
        assert!(told(&of("fw"), &finding) && !told(&of("nat"), &finding));
    }

    #[test]
    fn a_route_matters_if_an_end_is_in_it() {
        let of = |text: &str, length| {
            let about = Some((text.parse().unwrap(), length));
            told(&Change { about, ..change(ChangeKind::RouteRemoved) }, &finding(Stage::Route))
        };
        assert!(of("10.0.2.0", 24) && of("0.0.0.0", 0) && !of("10.0.3.0", 24) && !of("::", 0));
    }

    #[test]
    fn another_link_is_no_matter() {
        let mut finding = finding(Stage::Neighbour);
        finding.place.interface = Some("eth0".into());
        let of = |name: &str| {
            told(&Change { interface: Some(name.into()), ..change(ChangeKind::LinkDown) }, &finding)
        };
        assert!(of("eth0") && !of("eth1"));
    }
}
