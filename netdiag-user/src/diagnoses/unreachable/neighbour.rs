//! ARP or neighbour discovery without an answer.

use std::net::IpAddr;
use std::time::Duration;

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::neighbours::NeighbourState;
use crate::probes::protocol;
use crate::track::{Place, What};

/// Three requests a second apart (mcast_solicit, retrans_time_ms) fail after 3 s, less where others asked before.
const FIRST_FAILURE: Duration = Duration::from_millis(500);
/// The ICMP error that goes with a failure comes right with it (net/ipv4/arp.c arp_error_report).
const AT_ONCE_NS: u64 = 50_000_000;

/// What failed, and where.
struct Unresolved {
    confidence: Confidence,
    /// `None`: a router on this machine knows it, this program does not.
    address: Option<IpAddr>,
    place: Place,
    symbol: Option<String>,
    /// It was the answer that could not be delivered.
    answer: bool,
}

pub(super) fn unresolved(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    if !failure.waited(evidence) {
        return Verdict::Healthy;
    }
    let late = failure.late_errno(evidence);
    if late.is_some_and(|errno| errno != libc::EHOSTUNREACH) {
        return Verdict::Healthy;
    }
    match dropped(evidence).or_else(|| failed(evidence)).or_else(|| entry(evidence, late)) {
        Some(unresolved) => describe(evidence, failure, unresolved).found(),
        None => by_errno(evidence, failure, late),
    }
}

/// A packet of this connection waited for the answer, and was dropped.
fn dropped(evidence: &Evidence) -> Option<Unresolved> {
    evidence.drops().find_map(|(_, what)| match what {
        What::Dropped { reason, place, symbol, outgoing, .. } if reason == "NEIGH_FAILED" => {
            Some(Unresolved {
                confidence: Confidence::Certain,
                address: address_in(evidence, place, *outgoing),
                place: place.clone(),
                symbol: symbol.clone(),
                answer: !*outgoing,
            })
        }
        _ => None,
    })
}

/// The address that failed in the namespace of the drop.
fn address_in(evidence: &Evidence, place: &Place, outgoing: bool) -> Option<IpAddr> {
    let failed = evidence.timeline.iter().find_map(|moment| match &moment.what {
        What::NeighbourFailed { address, place: other } if other.netns == place.netns => Some(*address),
        _ => None,
    });
    let own =
        || (outgoing && !failure::elsewhere(evidence, place)).then(|| failure::next_hop(evidence)).flatten();
    failed.or_else(own)
}

/// The entry of the next hop failed while the connection waited. In another namespace that counts only if it
/// told this connection so: other hosts of this machine may ask for the same address.
fn failed(evidence: &Evidence) -> Option<Unresolved> {
    let next_hop = failure::next_hop(evidence);
    let peer = failure::peer(evidence);
    evidence.timeline.iter().find_map(|moment| match &moment.what {
        What::NeighbourFailed { address, place } => {
            let elsewhere = failure::elsewhere(evidence, place);
            let wanted = if elsewhere { peer } else { next_hop.unwrap_or(peer) };
            let own = *address == wanted && (!elsewhere || told_at(evidence, moment.time_ns, place));
            own.then(|| Unresolved {
                confidence: Confidence::Certain,
                address: Some(*address),
                place: place.clone(),
                symbol: None,
                answer: false,
            })
        }
        _ => None,
    })
}

/// Whether "host unreachable" (v6: "address unreachable") about this connection went with the failure.
fn told_at(evidence: &Evidence, failed_ns: u64, failed: &Place) -> bool {
    evidence.timeline.iter().filter(|moment| moment.time_ns.abs_diff(failed_ns) <= AT_ONCE_NS).any(|moment| {
        match &moment.what {
            What::IcmpSent { icmp_type: 3, icmp_code: 1, place, .. } => place.netns == failed.netns,
            What::IcmpReceived { packet, .. } => {
                let v4 = packet.tuple.protocol == protocol::ICMP;
                (packet.flags, packet.code) == if v4 { (3, 1) } else { (1, 3) }
            }
            _ => false,
        }
    })
}

/// The entry as it is now.
fn entry(evidence: &Evidence, late: Option<i32>) -> Option<Unresolved> {
    let state = evidence.facts.neighbour.as_ref()?.state;
    let bad = matches!(state, NeighbourState::Failed | NeighbourState::Incomplete);
    let answered = evidence.answers_on_wire().next().is_some();
    let foreign_icmp = evidence.timeline.iter().any(|m| matches!(m.what, What::IcmpReceived { .. }));
    let long = late.is_some() || evidence.connection.duration() >= FIRST_FAILURE;
    let address = failure::next_hop(evidence)?;
    if !bad || answered || foreign_icmp || !long {
        return None;
    }
    let interface = failure::route_link(evidence).map(|link| link.name.clone());
    Some(Unresolved {
        confidence: if told_here(evidence) { Confidence::Certain } else { Confidence::Likely },
        address: Some(address),
        place: failure::own_place(evidence, interface),
        symbol: None,
        answer: false,
    })
}

/// Whether this namespace itself told "host unreachable" about a packet of this connection that it had sent: of its own
/// packets it says so only when the next hop did not answer (net/ipv4/route.c ipv4_link_failure, net/ipv6/route.c
/// ip6_link_failure).
fn told_here(evidence: &Evidence) -> bool {
    let own = evidence.connection.netns;
    evidence.timeline.iter().any(|moment| match &moment.what {
        What::IcmpSent { icmp_type, icmp_code, outgoing: true, place } => {
            let v4 = failure::peer(evidence).is_ipv4();
            place.netns == own && (*icmp_type, *icmp_code) == if v4 { (3, 1) } else { (1, 3) }
        }
        _ => false,
    })
}

/// Only the error is known: the local link or an ICMP that was not seen.
fn by_errno(evidence: &Evidence, failure: Failure, late: Option<i32>) -> Verdict {
    let told =
        evidence.timeline.iter().any(|m| matches!(m.what, What::IcmpReceived { .. } | What::IcmpSent { .. }));
    let resolved = evidence.facts.neighbour.is_some();
    let quick = matches!(failure, Failure::Connecting(_)) && evidence.connection.duration() < FIRST_FAILURE;
    if quick || late != Some(libc::EHOSTUNREACH) || told || resolved {
        return Verdict::Healthy;
    }
    let interface = failure::route_link(evidence).map(|link| link.name.clone());
    let guess = Unresolved {
        confidence: Confidence::Possible,
        address: failure::next_hop(evidence),
        place: failure::own_place(evidence, interface),
        symbol: None,
        answer: false,
    };
    describe(evidence, failure, guess).or(&["unreachable.icmp-unreachable"]).found()
}

fn describe(evidence: &Evidence, failure: Failure, found: Unresolved) -> Finding {
    let Unresolved { confidence, address, place, symbol, answer } = found;
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let elsewhere = failure::elsewhere(evidence, &place);
    let prefix = match elsewhere {
        true => words::in_netns(place.netns_name.as_deref()),
        false => failure::own_prefix(evidence),
    };
    let peer = failure::peer(evidence);
    let v4 = peer.is_ipv4();
    let protocol = if v4 { "ARP" } else { "neighbour discovery" };
    let who = match address {
        Some(address) if address == peer => format!("{address}"),
        Some(address) if !elsewhere && !answer => format!("the gateway {address}"),
        Some(address) => format!("the next hop {address}"),
        None => "the next hop".to_owned(),
    };
    let on = place.interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    let cause = match confidence {
        Confidence::Possible => format!("perhaps {who} does not answer {protocol}{on}{there}"),
        _ => format!("{who} does not answer {protocol}{on}{there}"),
    };
    let at = Where::new(WhereSide::Local, Stage::Neighbour).at(&place).symbol(symbol.as_deref());
    let what = if answer { "the peer's answer" } else { "the packet" };
    let mut finding =
        Finding::new(confidence, at, failure::headline(evidence, failure), cause).explain(format!(
            "There is a route, but to send {what} on the local link{on} this machine needs the hardware address of {who}. \
             It asked with {protocol}, three times in about three seconds, and nobody answered. That machine is off, has \
             another address, is in another VLAN, or the netmask here is too wide."
        ));
    if let Some(interface) = &place.interface {
        finding = finding.next("see the neighbour's entry", format!("{prefix}ip neigh show dev {interface}"));
        if let Some(address) = address {
            let ask = if v4 {
                format!("arping -I {interface} -c 3 {address}")
            } else {
                format!("ndisc6 {address} {interface}")
            };
            finding = finding.next("ask for it by hand", format!("{prefix}{ask}"));
        }
        finding = finding.next("is the netmask right?", format!("{prefix}ip -br addr show dev {interface}"));
    } else {
        finding = finding.next("see the neighbours' entries", format!("{prefix}ip neigh"));
    }
    finding.advise("is that machine on, and the address right? Try from another host on the same network")
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop, here};
    use crate::enrich::neighbours::Neighbour;

    const CODE: &str = "unreachable.neighbour-unresolved";

    fn neighbour_failed(case: Case, address: &str, place: Place) -> Case {
        case.at(3070, What::NeighbourFailed { address: address.parse().unwrap(), place })
    }

    #[test]
    fn the_gateway_does_not_answer() {
        let case = connecting(libc::EHOSTUNREACH).answer(via(Some("10.0.1.1")));
        let case = neighbour_failed(
            case.dropped(3070, Drop::syn("NEIGH_FAILED", "neigh_invalidate")),
            "10.0.1.1",
            here(),
        );
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert_eq!(finding.cause, "the gateway 10.0.1.1 does not answer ARP on eth0");
        assert_eq!(finding.headline, "no route to host (EHOSTUNREACH) after 3.1 s");
    }

    #[test]
    fn behind_a_router_of_this_machine() {
        let case = neighbour_failed(connecting(libc::EHOSTUNREACH), "10.0.2.2", in_router())
            .dropped(3070, Drop::syn("NEIGH_FAILED", "neigh_invalidate").place(in_router()))
            .at(3070, What::IcmpSent { icmp_type: 3, icmp_code: 1, outgoing: true, place: in_router() })
            .icmp(3071, 3, 1);
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.place.netns_name.as_deref()), (CODE, Some("router")));
    }

    #[test]
    fn in_another_network_with_the_same_addresses() {
        let case = || neighbour_failed(connecting(libc::EHOSTUNREACH), "10.0.2.2", in_router());
        assert_ne!(case().found(CODE).place.netns, Some(ROUTER));
        let finding = hit(case().icmp(3072, 3, 1), CODE, Confidence::Certain);
        assert_eq!(finding.place.netns, Some(ROUTER));
        miss(case().icmp(30, 3, 1), CODE);
    }

    #[test]
    fn an_application_that_gave_up_early() {
        let entry = |state| Some(Neighbour { state, lladdr: None });
        let case = |state| {
            Case::connecting().lasted(2000).answer(via(None)).with(|e| e.facts.neighbour = entry(state))
        };
        hit(case(NeighbourState::Incomplete), CODE, Confidence::Likely);
        miss(case(NeighbourState::Reachable), CODE);
        miss(case(NeighbourState::Incomplete).lasted(20), CODE);
    }

    #[test]
    fn a_failure_that_only_the_kernels_icmp_told() {
        let entry = Some(Neighbour { state: NeighbourState::Incomplete, lladdr: None });
        let case = |place| {
            let told = What::IcmpSent { icmp_type: 3, icmp_code: 1, outgoing: true, place };
            let case = connecting(libc::EHOSTUNREACH).answer(via(None)).at(3066, told);
            case.with(|e| e.facts.neighbour = entry.clone())
        };
        hit(case(here()), CODE, Confidence::Certain);
        hit(case(in_router()), CODE, Confidence::Likely);
    }

    #[test]
    fn somebody_elses_neighbour() {
        let case = || connecting(libc::EHOSTUNREACH).answer(via(Some("10.0.1.1"))).icmp(40, 3, 1);
        miss(neighbour_failed(case(), "10.0.1.77", here()), CODE);
        hit(connecting(libc::EHOSTUNREACH), CODE, Confidence::Possible);
        miss(call(libc::EHOSTUNREACH), CODE);
        miss(connecting(libc::EHOSTUNREACH).lasted(20), CODE);
    }
}
