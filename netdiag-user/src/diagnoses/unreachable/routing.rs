//! No route at all.

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::routes::{RouteAnswer, RouteKind};
use crate::enrich::rules::{Rule, RuleAction};
use crate::track::{Place, What};

/// What the routing tables say to a packet that found no route.
enum Missing<'a> {
    No,
    /// Asking again gives the same.
    Still,
    /// By a policy rule.
    Rule(&'a Rule),
    /// TCP does not connect to such an address, though there is a route (net/ipv4/tcp_ipv4.c tcp_v4_connect).
    NotUnicast,
    /// Now there is a route.
    NoLonger,
    /// The route of an established or connecting socket went away.
    Dropped,
    /// So it seems: an established one is stuck, and there is none now.
    Gone,
    NotAsked,
}

fn missing(evidence: &Evidence, failure: Failure) -> Missing<'_> {
    if evidence.drop_of(&["IP_OUTNOROUTES"], true).is_some_and(|(_, what)| is_own(evidence, what)) {
        return Missing::Dropped;
    }
    if let Some(RouteAnswer::Failed { errno: libc::ENETUNREACH, foreign_source: false, .. }) =
        failure::stuck(evidence, failure)
    {
        return Missing::Gone;
    }
    let after_nat = evidence.unroutable_after_nat() == Some(libc::ENETUNREACH);
    let failed = failure.is_call(&[libc::ENETUNREACH]) || after_nat;
    if !failed || failure::down_link_of_destination(evidence).is_some() {
        return Missing::No;
    }
    match &evidence.facts.route {
        Some(RouteAnswer::Failed { foreign_source: true, .. }) if failure::peer(evidence).is_ipv4() => {
            Missing::No
        }
        Some(RouteAnswer::Failed { errno: libc::ENETUNREACH, rule: Some(rule), .. })
            if rule.action == RuleAction::Unreachable =>
        {
            Missing::Rule(rule)
        }
        Some(RouteAnswer::Failed { errno: libc::ENETUNREACH, .. }) => Missing::Still,
        Some(RouteAnswer::Failed { .. }) => Missing::NoLonger,
        Some(RouteAnswer::Route(route))
            if matches!(route.kind, RouteKind::Broadcast | RouteKind::Multicast) =>
        {
            Missing::NotUnicast
        }
        Some(RouteAnswer::Route(_)) => Missing::NoLonger,
        None => Missing::NotAsked,
    }
}

fn is_own(evidence: &Evidence, what: &What) -> bool {
    matches!(what, What::Dropped { place, .. } if !failure::elsewhere(evidence, place))
}

pub(super) fn no_route(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    if let Some(verdict) = no_way_back(evidence, failure) {
        return verdict;
    }
    let peer = failure::peer(evidence);
    let no_default = evidence.facts.has_default_route == Some(false);
    let sure = |confidence, cause: String| Some((confidence, cause));
    let found = match missing(evidence, failure) {
        Missing::No => None,
        Missing::Still | Missing::Dropped | Missing::Gone if no_default => None,
        Missing::NotAsked if no_default => None,
        Missing::Still => sure(Confidence::Certain, format!("the routing tables have no route to {peer}")),
        Missing::Dropped => sure(Confidence::Certain, format!("the route to {peer} went away")),
        Missing::Gone => sure(Confidence::Likely, format!("the route to {peer} went away")),
        Missing::Rule(rule) => {
            sure(Confidence::Certain, format!("policy rule {} says unreachable for {peer}", rule.priority))
        }
        Missing::NotUnicast => return not_unicast(evidence, failure).found(),
        Missing::NoLonger | Missing::NotAsked => {
            sure(Confidence::Possible, format!("there was no route to {peer}"))
        }
    };
    let Some((confidence, cause)) = found else { return Verdict::Healthy };
    let mut finding = describe(evidence, failure, confidence, cause).explain(match failure {
        Failure::Established(_) => {
            "The connection was up, and then the route that it used was taken away. TCP does not give up for that: it \
             tries again and again, and the application can only wait."
        }
        _ => {
            "The kernel looked for a route to that address in the tables that the policy rules name for this packet, \
             and found none that may be used. No packet left this machine. Another destination may well work: this one \
             is not covered."
        }
    });
    if confidence == Confidence::Possible {
        finding = finding.or(&["unreachable.interface-down"]);
        if evidence.facts.route.is_none() {
            finding = finding.or(&["unreachable.no-default-route", "unreachable.martian-source"]);
        }
    }
    steps(evidence, finding)
        .advise(
            "start what should supply the route: the VPN, DHCP, the routing daemon, the container network",
        )
        .found()
}

fn not_unicast(evidence: &Evidence, failure: Failure) -> Finding {
    let peer = failure::peer(evidence);
    let cause = format!("{peer} is a broadcast or multicast address, and TCP connects to single hosts only");
    let prefix = failure::own_prefix(evidence);
    describe(evidence, failure, Confidence::Certain, cause)
        .explain(
            "There is a route to that address, but it stands for many hosts, and a TCP connection has one peer. The kernel \
             says \"network is unreachable\", though routing is fine. No packet left this machine.",
        )
        .next("see what kind of address it is here", format!("{prefix}ip route get {peer}"))
        .next("of IPv4, are the netmasks right?", format!("{prefix}ip -br addr"))
        .advise("correct the address in the client; what is meant for many takes UDP")
}

/// A router on this machine, or the peer's namespace, has no route for the answer.
fn no_way_back(evidence: &Evidence, failure: Failure) -> Option<Verdict> {
    if !failure.waited(evidence) {
        return None;
    }
    let reasons = ["IP_INNOROUTES", "IP_OUTNOROUTES"];
    let (_, What::Dropped { place, symbol, .. }) = evidence.drop_of(&reasons, false)? else { return None };
    let local = evidence.connection.local.ip();
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let prefix = words::in_netns(place.netns_name.as_deref());
    let at = Where::new(WhereSide::Local, Stage::Route).at(place).symbol(symbol.as_deref());
    let cause = format!("the answer was dropped{there}: no route back to {local}");
    let finding = Finding::new(Confidence::Certain, at, failure::headline(evidence, failure), cause)
        .explain(format!(
            "The peer answered, and the answer reached a routing table on this machine{there} that has no route to \
             {local}. Packets find their way there, but not back."
        ))
        .next("ask for the way back", format!("{prefix}ip route get {local}"))
        .next("see what routes there are", format!("{prefix}ip {} route", words::family_flag(local)));
    Some(finding.found())
}

pub(super) fn no_default_route(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    let confidence = match missing(evidence, failure) {
        Missing::Still | Missing::Dropped => Confidence::Certain,
        Missing::NotAsked | Missing::Gone => Confidence::Likely,
        _ => return Verdict::Healthy,
    };
    match evidence.facts.has_default_route {
        Some(false) => {}
        Some(true) => return Verdict::Healthy,
        None => return Verdict::NotEnough("whether there is a default route".into()),
    }
    let peer = failure::peer(evidence);
    let down: Vec<&str> = (evidence.facts.links.iter().flatten())
        .filter(|link| !failure::usable(link))
        .map(|link| link.name.as_str())
        .collect();
    let mut explanation = format!(
        "{peer} is on none of the networks that this network namespace is attached to, and there is no default route \
         to send everything else to.{}",
        match failure {
            Failure::Established(_) => {
                " It was there when the connection came up; now nothing of it can leave, and TCP tries again and again."
            }
            _ => " No packet left.",
        }
    );
    if !down.is_empty() {
        explanation += &format!(
            " Not in service: {}. A default route goes away together with its interface.",
            down.join(", ")
        );
    }
    let family = words::family_flag(peer);
    let prefix = failure::own_prefix(evidence);
    let cause =
        format!("no {} default route in this namespace, and no route to {peer}", ip_version(evidence));
    let mut finding = describe(evidence, failure, confidence, cause).explain(explanation);
    for name in down {
        finding = finding.next(
            format!("if {name} leads to the gateway, bring it up"),
            format!("{prefix}ip link set {name} up"),
        );
    }
    finding
        .next("see the default routes of all tables", format!("{prefix}ip {family} route show table all default"))
        .next("see the interfaces and their addresses", format!("{prefix}ip -br addr"))
        .advise("renew what supplies it: DHCP, router advertisements, the container network or the static configuration")
        .found()
}

fn ip_version(evidence: &Evidence) -> &'static str {
    if failure::peer(evidence).is_ipv4() { "IPv4" } else { "IPv6" }
}

fn describe(evidence: &Evidence, failure: Failure, confidence: Confidence, cause: String) -> Finding {
    let place: Place = failure::own_place(evidence, None);
    let at = Where::new(WhereSide::Local, Stage::Route).at(&place);
    Finding::new(confidence, at, failure::headline(evidence, failure), cause)
}

fn steps(evidence: &Evidence, finding: Finding) -> Finding {
    let prefix = failure::own_prefix(evidence);
    let peer = failure::peer(evidence);
    let family = words::family_flag(peer);
    finding.next("ask the kernel again", format!("{prefix}ip route get {peer}")).next(
        "see the rules and all routes",
        format!("{prefix}ip {family} rule; {prefix}ip {family} route show table all"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop, there};

    #[test]
    fn the_route_of_an_established_connection_goes_away() {
        let case = || stuck().answer(failed(libc::ENETUNREACH, None));
        let (code, finding) = case().default_route(true).diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.no-route", Confidence::Likely));
        let (code, finding) = case().default_route(false).diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.no-default-route", Confidence::Likely));
        assert!(finding.explanation.contains("tries again"), "{}", finding.explanation);
        let (code, _) = stuck().answer(via(None)).default_route(true).diagnosed();
        assert_eq!(code, "timeout.peer-vanished");
        // IPv6 notes why.
        let noted = case().default_route(true).with(|e| e.connection.soft_errno = Some(libc::ENETUNREACH));
        assert_eq!(noted.diagnosed().0, "unreachable.no-route");
        let done = case().default_route(true).tcp(|tcp| tcp.unacked = Some(0));
        miss(done, "unreachable.no-route");
    }

    #[test]
    fn no_route_with_a_default_that_the_rules_do_not_reach() {
        let case = || call(libc::ENETUNREACH).default_route(true);
        let finding =
            hit(case().answer(failed(libc::ENETUNREACH, None)), "unreachable.no-route", Confidence::Certain);
        assert_eq!(finding.headline, "network is unreachable (ENETUNREACH)");
        hit(case().answer(via(None)), "unreachable.no-route", Confidence::Possible);
        hit(call(libc::ENETUNREACH), "unreachable.no-route", Confidence::Possible);
        miss(call(libc::EHOSTUNREACH), "unreachable.no-route");
        miss(case().answer(foreign_source(libc::ENETUNREACH)), "unreachable.no-route");
        miss(case().answer(failed(libc::ENETUNREACH, None)), "unreachable.no-default-route");
    }

    #[test]
    fn the_default_route_is_missing() {
        let case = || call(libc::ENETUNREACH).default_route(false).answer(failed(libc::ENETUNREACH, None));
        let (code, finding) = case().diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.no-default-route", Confidence::Certain));
        let finding =
            hit(case().link(eth0(false, None, &[])), "unreachable.no-default-route", Confidence::Certain);
        assert!(finding.explanation.contains("eth0"));
        miss(case().link(eth0(false, None, &[("10.0.2.1", 24)])), "unreachable.no-default-route");
        miss(Case::connecting().default_route(false), "unreachable.no-default-route");
        let named = case().with(|e| {
            e.facts.netns = Some(crate::enrich::facts::NetnsFact { inode: 1, name: Some("web".into()) })
        });
        let finding = hit(named, "unreachable.no-default-route", Confidence::Certain);
        assert_eq!(finding.place.netns_name.as_deref(), Some("web"));
        assert!(
            finding
                .next_steps
                .iter()
                .filter_map(|s| s.command.as_deref())
                .all(|c| c.starts_with("ip netns exec web "))
        );
    }

    #[test]
    fn the_answer_has_no_way_back() {
        let drop = |place| Drop::syn_ack("IP_INNOROUTES", "ip_error").place(place);
        let finding = hit(
            Case::connecting().dropped(1, drop(in_router())),
            "unreachable.no-route",
            Confidence::Certain,
        );
        assert_eq!(finding.place.netns_name.as_deref(), Some("router"));
        let quick = Case::connecting().lasted(20).dropped(1, drop(there()));
        miss(quick, "unreachable.no-route");
    }

    #[test]
    fn a_rule_is_named() {
        let rule = Rule { priority: 100, action: RuleAction::Unreachable, ..Rule::default() };
        let answer = RouteAnswer::Failed {
            errno: libc::ENETUNREACH,
            foreign_source: false,
            route: None,
            rule: Some(rule),
        };
        let finding = hit(
            call(libc::ENETUNREACH).default_route(false).answer(answer),
            "unreachable.no-route",
            Confidence::Certain,
        );
        assert!(finding.cause.contains("rule 100"));
    }
}
