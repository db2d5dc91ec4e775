//! Interfaces that are down or without a carrier.

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use crate::enrich::links::Link;
use crate::track::What;

pub(super) fn interface_down(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    let Some(links) = &evidence.facts.links else {
        let network = [libc::ENETUNREACH, libc::ENETDOWN];
        return match failure.is_call(&network) {
            true => Verdict::NotEnough("which interfaces are up".into()),
            false => Verdict::Healthy,
        };
    };
    let found = match failure {
        Failure::Call { errno, .. } => at_once(evidence, links, errno),
        Failure::Datagram(_) => None,
        Failure::Connecting(_) | Failure::Established(_) => on_the_way(evidence, failure),
    };
    match found {
        Some((confidence, link)) => describe(evidence, failure, confidence, link).found(),
        None => Verdict::Healthy,
    }
}

/// The interface is down: its routes are gone.
fn at_once<'a>(evidence: &'a Evidence, links: &'a [Link], errno: i32) -> Option<(Confidence, &'a Link)> {
    let loopback = failure::peer(evidence).is_loopback();
    let down_loopback = || links.iter().find(|link| loopback && link.name == "lo" && !link.up);
    match errno {
        libc::ENETUNREACH | libc::ENETDOWN => {
            let bound = evidence.connection.bound_interface.and_then(|index| failure::link(evidence, index));
            if let Some(link) = bound.filter(|link| !link.up) {
                return Some((Confidence::Certain, link));
            }
            failure::down_link_of_destination(evidence)
                .or_else(down_loopback)
                .map(|link| (Confidence::Likely, link))
        }
        libc::EADDRNOTAVAIL => down_loopback().map(|link| (Confidence::Likely, link)),
        _ => None,
    }
}

/// The routes are there, and lead to a dead interface.
fn on_the_way(evidence: &Evidence, failure: Failure) -> Option<(Confidence, &Link)> {
    let errno = failure.late_errno(evidence);
    let answered = matches!(failure, Failure::Connecting(_)) && evidence.answers_on_wire().next().is_some();
    let told = evidence.timeline.iter().any(|m| matches!(m.what, What::IcmpReceived { .. }));
    if !failure.waited(evidence) || answered || told || errno.is_some_and(|e| e != libc::EHOSTUNREACH) {
        return None;
    }
    let link = failure::route_link(evidence).filter(|link| !failure::usable(link))?;
    let died_there = evidence.timeline.iter().any(|moment| match &moment.what {
        What::Dropped { reason, place, outgoing: true, .. } if reason == "NEIGH_FAILED" => {
            place.interface.as_ref() == Some(&link.name) && !failure::elsewhere(evidence, place)
        }
        What::NeighbourFailed { address, place } => {
            Some(*address) == failure::next_hop(evidence) && !failure::elsewhere(evidence, place)
        }
        _ => false,
    });
    Some((if died_there { Confidence::Certain } else { Confidence::Likely }, link))
}

fn describe(evidence: &Evidence, failure: Failure, confidence: Confidence, link: &Link) -> Finding {
    let name = &link.name;
    let peer = failure::peer(evidence);
    let prefix = failure::own_prefix(evidence);
    let state = if link.up { "has no carrier" } else { "is down" };
    let at =
        Where::new(WhereSide::Local, Stage::Device).at(&failure::own_place(evidence, Some(name.clone())));
    let cause = format!("{name}, the interface that leads to {peer}, {state}");
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause);
    if link.up {
        finding
            .explain(format!(
                "The route to {peer} leads through {name}, which is switched on but has no link: no cable, no Wi-Fi \
                 association, or the other end of a virtual link is down. The kernel keeps such routes, so packets go \
                 there and get lost."
            ))
            .next("see the link's state and what lies below it", format!("{prefix}ip -d link show dev {name}"))
            .next("ask the driver", format!("{prefix}ethtool {name}"))
            .advise("check cable, switch port or Wi-Fi; for a veth bring up the peer in its namespace, for a VLAN, bond or bridge the lower device")
    } else {
        finding
            .explain(format!(
                "{name} belongs to the network of {peer}, and it is switched off. The kernel takes the routes away with the \
                 interface, so nothing leads to {peer}."
            ))
            .next("bring it up", format!("{prefix}ip link set {name} up"))
            .next("see the interfaces", format!("{prefix}ip -br link"))
            .advise("routes that were added by hand went with the interface and must be added again")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop};

    const CODE: &str = "unreachable.interface-down";

    #[test]
    fn down_with_its_routes() {
        let case = |up| {
            call(libc::ENETUNREACH).answer(failed(libc::ENETUNREACH, None)).default_route(false).link(eth0(
                up,
                None,
                &[("10.0.2.1", 24)],
            ))
        };
        let (code, finding) = case(false).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        assert_eq!(finding.place.interface.as_deref(), Some("eth0"));
        miss(case(true), CODE);
        miss(call(libc::ENETUNREACH).link(eth0(false, None, &[("10.0.3.1", 24)])), CODE);
    }

    #[test]
    fn bound_to_an_interface_that_is_down() {
        let case = call(libc::ENETUNREACH)
            .link(eth0(false, None, &[]))
            .with(|e| e.connection.bound_interface = Some(2));
        hit(case, CODE, Confidence::Certain);
    }

    #[test]
    fn no_carrier() {
        let case = || connecting(libc::EHOSTUNREACH).answer(via(Some("10.0.1.1")));
        let dead = || case().link(eth0(true, Some(false), &[("10.0.1.2", 24)]));
        hit(dead(), CODE, Confidence::Likely);
        let (code, finding) = dead().dropped(3000, Drop::syn("NEIGH_FAILED", "neigh_invalidate")).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        miss(case().link(eth0(true, Some(true), &[("10.0.1.2", 24)])), CODE);
        miss(dead().icmp(10, 3, 1), CODE);
    }

    #[test]
    fn loopback_down() {
        let case = |up| call(libc::EADDRNOTAVAIL).ends("[::]:0", "[::1]:80").link(lo(up, &[]));
        hit(case(false), CODE, Confidence::Likely);
        miss(case(true), CODE);
        miss(Case::connecting().lasted(10).link(lo(false, &[])), CODE);
    }
}
