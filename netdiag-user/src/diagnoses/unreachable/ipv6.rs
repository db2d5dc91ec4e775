//! Hosts without IPv6.

use std::net::{IpAddr, Ipv6Addr};

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use crate::enrich::routes::RouteAnswer;

pub(super) fn no_ipv6(evidence: &Evidence) -> Verdict {
    let (Some(failure), IpAddr::V6(peer)) = (Failure::of(evidence), failure::peer(evidence)) else {
        return Verdict::Healthy;
    };
    if is_link_local(peer) || peer.is_multicast() {
        return Verdict::Healthy;
    }
    if failure.is_call(&[libc::ENETUNREACH, libc::EADDRNOTAVAIL]) {
        return match peer.is_loopback() {
            true => loopback(evidence, failure),
            false => at_once(evidence, failure, peer),
        };
    }
    link_local_source(evidence, failure, peer)
}

fn at_once(evidence: &Evidence, failure: Failure, peer: Ipv6Addr) -> Verdict {
    let has_address = has_global_address(evidence);
    if disabled(evidence, "all") && has_address != Some(true) {
        return describe(
            evidence,
            failure,
            Confidence::Certain,
            "IPv6 is disabled here (net.ipv6.conf.all.disable_ipv6=1)",
        );
    }
    match has_address {
        Some(true) => Verdict::Healthy,
        None => Verdict::NotEnough("whether this namespace has a global IPv6 address".into()),
        Some(false) => {
            let no_way = matches!(evidence.facts.route, Some(RouteAnswer::Failed { .. }))
                || evidence.facts.has_default_route == Some(false);
            let confidence = if no_way { Confidence::Certain } else { Confidence::Likely };
            let cause = format!("this namespace has no global IPv6 address, and {peer} is IPv6");
            describe(evidence, failure, confidence, &cause)
        }
    }
}

fn loopback(evidence: &Evidence, failure: Failure) -> Verdict {
    for which in ["lo", "all"] {
        if disabled(evidence, which) {
            let cause = format!(
                "IPv6 is disabled here (net.ipv6.conf.{which}.disable_ipv6=1), so ::1 does not exist"
            );
            return describe(evidence, failure, Confidence::Certain, &cause);
        }
    }
    let Some(links) = &evidence.facts.links else {
        return Verdict::NotEnough("whether lo has the address ::1".into());
    };
    let lo = links.iter().find(|link| link.name == "lo");
    match lo {
        Some(lo) if lo.up && !lo.addresses.iter().any(|(address, _)| *address == Ipv6Addr::LOCALHOST) => {
            describe(evidence, failure, Confidence::Certain, "lo does not have the address ::1")
        }
        _ => Verdict::Healthy,
    }
}

/// There is an IPv6 route, but the SYN could only carry an address that nobody can answer.
fn link_local_source(evidence: &Evidence, failure: Failure, peer: Ipv6Addr) -> Verdict {
    let from = match evidence.connection.local.ip() {
        IpAddr::V6(local) => is_link_local(local),
        IpAddr::V4(_) => false,
    };
    if !from || peer.is_loopback() || !failure.waited(evidence) || has_global_address(evidence) != Some(false)
    {
        return Verdict::Healthy;
    }
    let cause = format!("no global IPv6 address here: {peer} cannot answer a link-local source");
    describe(evidence, failure, Confidence::Likely, &cause)
}

fn disabled(evidence: &Evidence, which: &str) -> bool {
    let name = format!("net.ipv6.conf.{which}.disable_ipv6");
    evidence.facts.sysctls.get(&name).is_some_and(|value| value.trim() == "1")
}

/// Unique local addresses count: they reach what the site routes.
fn has_global_address(evidence: &Evidence) -> Option<bool> {
    let links = evidence.facts.links.as_ref()?;
    Some(links.iter().flat_map(|link| &link.addresses).any(|(address, _)| match address {
        IpAddr::V6(address) => !is_link_local(*address) && !address.is_loopback(),
        IpAddr::V4(_) => false,
    }))
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}

fn describe(evidence: &Evidence, failure: Failure, confidence: Confidence, cause: &str) -> Verdict {
    let prefix = failure::own_prefix(evidence);
    let peer = failure::peer(evidence);
    let at = Where::new(WhereSide::Local, Stage::Route).at(&failure::own_place(evidence, None));
    let host = evidence.facts.hostname.as_deref();
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause).explain(
        "The program tried an IPv6 address, and this host, or this network namespace, has no working IPv6. Programs that \
         try all addresses of a name go on with IPv4 and succeed; then this is harmless.",
    );
    let finding = if peer.is_loopback() {
        finding
            .next(
                "is IPv6 switched off?",
                format!("{prefix}sysctl net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.lo.disable_ipv6"),
            )
            .advise("use 127.0.0.1 in place of localhost or ::1")
    } else {
        finding
            .next(
                "see the IPv6 addresses and default route",
                format!("{prefix}ip -6 addr show scope global; {prefix}ip -6 route show default"),
            )
            .next("is IPv6 switched off?", format!("{prefix}sysctl net.ipv6.conf.all.disable_ipv6"))
            .advise("tell the program to use IPv4, or let it try all addresses of the name")
    };
    match host {
        Some(host) => finding.next("which addresses does the name have?", format!("getent ahosts {host}")),
        None => finding,
    }
    .found()
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::Case;

    const CODE: &str = "unreachable.no-ipv6";

    fn to_v6() -> Case {
        call(libc::ENETUNREACH)
            .ends("[::]:0", "[2001:db8::1]:80")
            .answer(failed(libc::ENETUNREACH, None))
            .default_route(false)
    }

    fn set(case: Case, name: &str) -> Case {
        case.with(|e| drop(e.facts.sysctls.insert(name.into(), "1".into())))
    }

    #[test]
    fn an_ipv4_only_host() {
        let only_v4 = eth0(true, None, &[("10.0.1.2", 24), ("fe80::1", 64)]);
        let (code, finding) = to_v6().link(only_v4.clone()).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        miss(to_v6().link(eth0(true, None, &[("2001:db8:1::2", 64)])), CODE);
        miss(call(libc::ENETUNREACH).link(only_v4), CODE);
    }

    #[test]
    fn disabled_by_sysctl() {
        hit(set(to_v6(), "net.ipv6.conf.all.disable_ipv6"), CODE, Confidence::Certain);
        assert!(matches!(to_v6().asked(CODE), Verdict::NotEnough(_)));
    }

    #[test]
    fn localhost() {
        let case = || call(libc::EADDRNOTAVAIL).ends("[::]:0", "[::1]:80");
        let (code, finding) = set(case(), "net.ipv6.conf.lo.disable_ipv6").diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        hit(case().link(lo(true, &[("127.0.0.1", 8)])), CODE, Confidence::Certain);
        miss(case().link(lo(true, &[("127.0.0.1", 8), ("::1", 128)])), CODE);
    }

    #[test]
    fn a_link_local_source() {
        let case = |lasted| {
            Case::connecting().lasted(lasted).ends("[fe80::1]:40000", "[2001:db8::1]:80").link(eth0(
                true,
                None,
                &[("fe80::1", 64)],
            ))
        };
        hit(case(5000), CODE, Confidence::Likely);
        miss(case(30), CODE);
    }
}
