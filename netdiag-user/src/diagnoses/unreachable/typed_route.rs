//! Routes and rules that say no: blackhole, unreachable, prohibit.

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::routes::{Route, RouteAnswer, RouteKind};
use crate::enrich::rules::{Rule, RuleAction};
use crate::track::What;

/// A kind of route that refuses.
struct Kind {
    name: &'static str,
    route: RouteKind,
    /// Unreachable rules give ENETUNREACH, and belong to `no-route`.
    rule: Option<RuleAction>,
    errno: i32,
    alternatives: &'static [&'static str],
    remedy: &'static str,
}

const BLACKHOLE: Kind = Kind {
    name: "blackhole",
    route: RouteKind::Blackhole,
    rule: Some(RuleAction::Blackhole),
    errno: libc::EINVAL,
    alternatives: &["unreachable.martian-source"],
    remedy: "The kernel calls it \"invalid argument\", though the program did nothing wrong.",
};
const UNREACHABLE: Kind = Kind {
    name: "unreachable",
    route: RouteKind::Unreachable,
    rule: None,
    errno: libc::EHOSTUNREACH,
    alternatives: &["unreachable.neighbour-unresolved", "unreachable.icmp-unreachable"],
    remedy: "VPN clients and routing daemons add such routes so that traffic does not leak elsewhere.",
};
const PROHIBIT: Kind = Kind {
    name: "prohibit",
    route: RouteKind::Prohibit,
    rule: Some(RuleAction::Prohibit),
    errno: libc::EACCES,
    alternatives: &["local.not-permitted"],
    remedy: "The error says \"permission denied\", but it has nothing to do with users or file permissions.",
};

pub(super) fn blackhole(evidence: &Evidence) -> Verdict {
    match blackhole_in_router(evidence) {
        Some(verdict) => verdict,
        None => check(evidence, &BLACKHOLE),
    }
}

pub(super) fn unreachable(evidence: &Evidence) -> Verdict {
    check(evidence, &UNREACHABLE)
}

pub(super) fn prohibit(evidence: &Evidence) -> Verdict {
    check(evidence, &PROHIBIT)
}

/// What refuses, as it is now.
#[derive(Clone, Copy)]
enum Culprit<'a> {
    Route(&'a Route),
    Rule(&'a Rule),
    Unknown,
}

fn check(evidence: &Evidence, kind: &Kind) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    let after_nat = evidence.unroutable_after_nat() == Some(kind.errno);
    let stuck = failure::stuck(evidence, failure).is_some();
    if !failure.is_call(&[kind.errno]) && !after_nat && !stuck {
        return Verdict::Healthy;
    }
    // Only such a route makes a table lookup end with this error; a rule ends the search before any.
    let seen = failure::lookup_failed(evidence, &[kind.errno], false);
    let (confidence, culprit) = match &evidence.facts.route {
        Some(RouteAnswer::Failed { errno, route: Some(route), .. })
            if *errno == kind.errno && route.kind == kind.route =>
        {
            (Confidence::Certain, Culprit::Route(route))
        }
        Some(RouteAnswer::Failed { errno, rule: Some(rule), .. })
            if *errno == kind.errno && kind.rule == Some(rule.action) =>
        {
            (Confidence::Certain, Culprit::Rule(rule))
        }
        _ if seen => (Confidence::Certain, Culprit::Unknown),
        Some(RouteAnswer::Failed { errno, foreign_source: false, .. }) if *errno == kind.errno => {
            // EINVAL has more causes than a blackhole.
            match kind.errno {
                libc::EINVAL => (Confidence::Possible, Culprit::Unknown),
                _ => (Confidence::Certain, Culprit::Unknown),
            }
        }
        // Another cause of the same error, which its own diagnosis names.
        Some(_) => return Verdict::Healthy,
        None if kind.errno == libc::EINVAL => {
            return Verdict::NotEnough("which route the destination has".into());
        }
        None => (Confidence::Possible, Culprit::Unknown),
    };
    // It may have come after what made the peer silent.
    let confidence = if stuck && !seen { confidence.max(Confidence::Likely) } else { confidence };
    describe(evidence, failure, kind, confidence, culprit).found()
}

fn describe(
    evidence: &Evidence,
    failure: Failure,
    kind: &Kind,
    confidence: Confidence,
    culprit: Culprit,
) -> Finding {
    let peer = failure::peer(evidence);
    let name = kind.name;
    let prefix = failure::own_prefix(evidence);
    let family = words::family_flag(peer);
    let cause = match culprit {
        Culprit::Route(route) => format!("{} covers {peer}", route_text(evidence, name, route)),
        Culprit::Rule(rule) => format!("policy rule {} says {name} for {peer}", rule.priority),
        Culprit::Unknown => format!("a {name} route or rule covers {peer}"),
    };
    let at = Where::new(WhereSide::Local, Stage::Route).at(&failure::own_place(evidence, None));
    let outcome = match failure {
        Failure::Call { .. } => format!("The call failed at once and no packet left. {}", kind.remedy),
        Failure::Established(_) => "The connection was up, and then nothing of it could leave: TCP tries again and again, \
                                    and the application can only wait."
            .to_owned(),
        _ => "That destination comes from NAT in hook output, where the SYN is lost without an error: the application \
              could only wait."
            .to_owned(),
    };
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause).explain(format!(
        "The routing decision of this network namespace for {peer} is \"{name}\": somebody, or a program, forbids that \
         destination by routing. {outcome}"
    ));
    let finding = match culprit {
        Culprit::Rule(rule) => finding.next("see the rule", format!("{prefix}ip {family} rule show")).next(
            "if it is wrong, delete it",
            format!("{prefix}ip {family} rule del pref {}", rule.priority),
        ),
        Culprit::Route(Route { destination: (network, bits), table, .. }) if *bits < host_bits(*network) => {
            finding
                .next(
                    "see who made it (proto)",
                    format!("{prefix}ip {family} route show table all type {name}"),
                )
                .next(
                    "if it is a leftover, delete it",
                    format!("{prefix}ip route del {name} {network}/{bits} table {table}"),
                )
        }
        _ => finding
            .next(
                "see such routes and who made them (proto)",
                format!("{prefix}ip {family} route show table all type {name}"),
            )
            .next("see the policy rules", format!("{prefix}ip {family} rule show")),
    };
    let finding = finding
        .advise("bring up what should supply the better route: the VPN, the tunnel, the routing session");
    match confidence {
        Confidence::Possible => finding.or(kind.alternatives),
        _ => finding,
    }
}

fn host_bits(address: std::net::IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// As `ip route` prints it, where that was asked for.
fn route_text(evidence: &Evidence, name: &str, route: &Route) -> String {
    match &evidence.facts.route_text {
        Some(text) => format!("the route \"{}\"", text.trim()),
        None => format!(
            "the {name} route {}/{} (table {})",
            route.destination.0, route.destination.1, route.table
        ),
    }
}

/// A router on this machine drops without a word.
fn blackhole_in_router(evidence: &Evidence) -> Option<Verdict> {
    let failure = Failure::of(evidence)?;
    let silent = failure.late_errno(evidence).is_none();
    let sent = !matches!(failure, Failure::Call { connect: true, .. });
    if !sent || !silent || !failure::lookup_failed(evidence, &[libc::EINVAL], true) {
        return None;
    }
    let dropped = evidence.timeline.iter().find_map(|moment| match &moment.what {
        What::Dropped { outgoing: true, place, .. } if failure::elsewhere(evidence, place) => Some(place),
        _ => None,
    });
    let looked_up = evidence.timeline.iter().find_map(|moment| match &moment.what {
        What::RouteFailed { forwarded: true, errno: libc::EINVAL, place, .. }
            if failure::elsewhere(evidence, place) =>
        {
            Some(place)
        }
        _ => None,
    });
    // A forwarded lookup names addresses only: another pair of hosts in other namespaces may use the same.
    let confidence = match (dropped, looked_up) {
        (Some(_), _) => Confidence::Certain,
        (None, Some(_)) => Confidence::Likely,
        (None, None) => Confidence::Possible,
    };
    if confidence == Confidence::Possible && !failure.waited(evidence) {
        return None;
    }
    let seen = dropped.or(looked_up);
    let peer = failure::peer(evidence);
    let family = words::family_flag(peer);
    let at = Where::new(WhereSide::Local, Stage::Route);
    let (at, there, prefix) = match seen {
        Some(place) => (
            at.at(place),
            words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref()),
            words::in_netns(place.netns_name.as_deref()),
        ),
        None => (at, " in another network namespace of this machine".to_owned(), String::new()),
    };
    let cause = format!("a blackhole route{there} swallows packets to {peer}");
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause)
        .or(if confidence == Confidence::Possible { &["timeout.no-reply"] } else { &[] })
        .explain(format!(
            "The SYN was forwarded{there}, where the best route to {peer} is a blackhole. Such a route drops forwarded \
             packets without an answer, so the program waited in vain."
        ))
        .next("see such routes and who made them (proto)", format!("{prefix}ip {family} route show table all type blackhole"))
        .next("ask for the route there", format!("{prefix}ip route get {peer}"))
        .advise("delete it if it is a leftover, or bring up what should supply the better route");
    Some(finding.found())
}

#[cfg(test)]
mod tests {

    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop, address};
    use crate::track::{Ends, Hook};

    #[test]
    fn an_established_connection_is_cut_off() {
        let case = || stuck().answer(failed(libc::EACCES, Some(RouteKind::Prohibit)));
        let (code, finding) = case().diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.prohibit-route", Confidence::Likely));
        hit(case().route_failed(libc::EACCES, false), "unreachable.prohibit-route", Confidence::Certain);
        let told = case().with(|e| e.connection.soft_errno = Some(libc::EHOSTUNREACH));
        miss(told, "unreachable.prohibit-route");
    }

    #[test]
    fn blackhole_is_named() {
        let answer = failed(libc::EINVAL, Some(RouteKind::Blackhole));
        let (code, finding) = call(libc::EINVAL).answer(answer).diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.blackhole-route", Confidence::Certain));
        assert!(finding.cause.contains("10.0.0.0/8"), "{}", finding.cause);
        hit(
            call(libc::EINVAL).route_failed(libc::EINVAL, false),
            "unreachable.blackhole-route",
            Confidence::Certain,
        );
        miss(call(libc::EINVAL).answer(via(None)), "unreachable.blackhole-route");
        assert!(matches!(call(libc::EINVAL).asked("unreachable.blackhole-route"), Verdict::NotEnough(_)));
    }

    #[test]
    fn blackhole_in_a_router() {
        let drop = Drop::syn("NOT_SPECIFIED", "ip_error").place(in_router());
        let case = || Case::connecting().route_failed(libc::EINVAL, true);
        let (code, finding) = case().dropped(1, drop).diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.blackhole-route", Confidence::Certain));
        assert_eq!(finding.place.netns, Some(ROUTER));
        assert!(finding.headline.starts_with("gave up after"));
        let looked_up = case().with(|e| {
            for moment in &mut e.timeline {
                if let What::RouteFailed { place, .. } = &mut moment.what {
                    *place = in_router();
                }
            }
        });
        let finding = hit(looked_up, "unreachable.blackhole-route", Confidence::Likely);
        assert_eq!(finding.place.netns_name.as_deref(), Some("router"));
        assert_eq!(hit(case(), "unreachable.blackhole-route", Confidence::Possible).place.netns, None);
        miss(case().lasted(10), "unreachable.blackhole-route");
    }

    /// What NAT makes of the destination is not what the application asked for.
    #[test]
    fn blackhole_behind_nat() {
        let drop = Drop::syn("NETFILTER_DROP", "nf_hook_slow").hook(Hook::Output);
        let case = |nat: bool| {
            let case = Case::connecting().syn_again(&[1000]).route_failed(libc::EINVAL, false);
            case.dropped(0, drop.clone()).with(|e| {
                let asked = Ends { local: e.connection.local, peer: address("10.96.0.10:80") };
                e.connection.before_nat = nat.then_some(asked);
            })
        };
        let answer = failed(libc::EINVAL, Some(RouteKind::Blackhole));
        let (code, finding) = case(true).answer(answer.clone()).diagnosed();
        assert_eq!((code, finding.confidence), ("unreachable.blackhole-route", Confidence::Certain));
        assert!(finding.explanation.contains("NAT in hook output"), "{}", finding.explanation);
        assert_eq!(case(false).answer(answer).diagnosed().0, "timeout.firewall-drop");
    }

    #[test]
    fn unreachable_and_prohibit() {
        let answer = failed(libc::EHOSTUNREACH, Some(RouteKind::Unreachable));
        let (code, _) = call(libc::EHOSTUNREACH).answer(answer.clone()).diagnosed();
        assert_eq!(code, "unreachable.unreachable-route");
        miss(connecting(libc::EHOSTUNREACH).answer(answer), "unreachable.unreachable-route");
        hit(call(libc::EHOSTUNREACH), "unreachable.unreachable-route", Confidence::Possible);
        let answer = failed(libc::EACCES, Some(RouteKind::Prohibit));
        let (code, _) = call(libc::EACCES).answer(answer).diagnosed();
        assert_eq!(code, "unreachable.prohibit-route");
        miss(call(libc::EACCES).answer(via(None)), "unreachable.prohibit-route");
        miss(call(libc::EPERM), "unreachable.prohibit-route");
    }
}
