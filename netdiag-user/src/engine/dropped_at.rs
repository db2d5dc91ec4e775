//! Facts about the places where packets of a connection were dropped: what the drop itself does not say.

use std::net::IpAddr;

use crate::diagnoses::Evidence;
use crate::enrich::droppers::{self, Dropper, Member, Spot};
use crate::enrich::facts::{Facts, ForwardingFact, ReverseRoute};
use crate::enrich::{conntrack, links, netns, route_text, routes, sysctl};
use crate::probes::Packet;
use crate::track::{Place, What};

/// Places of one connection that are looked at.
const MAX_PLACES: usize = 4;

/// What may be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asks {
    /// There are XDP programs on this machine, and drops of those that can be seen are told.
    pub(super) xdp: bool,
    /// The kernel answers about its table of connections.
    pub(super) conntrack: bool,
}

/// Looks at each place once. A place where nothing of interest happened costs nothing.
pub(super) fn look(evidence: &Evidence, facts: &mut Facts, asks: Asks) {
    let mut seen = Vec::new();
    for (_, what) in evidence.drops() {
        let What::Dropped { packet, outgoing, reason, symbol, place, .. } = what else { continue };
        let this = (reason.as_str(), symbol.as_deref(), place, packet.tuple.source.ip(), *outgoing);
        if seen.len() >= MAX_PLACES || seen.contains(&this) {
            continue;
        }
        seen.push(this);
        let netns = u64::from(place.netns);
        if asks.conntrack && is_about_invalid(what) {
            facts.tracked.extend(conntrack::tracked(netns, &packet.tuple));
        }
        match reason.as_str() {
            // In a hook, but by no rule of nftables: the table of connections may be full there.
            "NETFILTER_DROP" if symbol.as_deref() == Some("nf_hook_slow") => {
                facts.conntrack.extend(conntrack::of(netns));
            }
            "IP_INADDRERRORS" => facts.forwarding.extend(forwarding(packet, place)),
            "IP_RPFILTER" => facts.reverse_routes.extend(reverse_route(packet, netns)),
            reason => {
                let Some(spot) = Spot::of(reason, symbol.as_deref()) else { continue };
                let member = member(evidence, facts, place, *outgoing, spot);
                let interface = place.interface.as_deref().map(|name| (packet.ifindex, name));
                facts.droppers.extend(droppers::at(spot, netns, interface, member));
            }
        }
    }
    if asks.xdp && evidence.connection.died_connecting() && seen.is_empty() {
        facts.droppers.extend(before_the_wire(evidence, facts));
    }
    facts.conntrack.dedup();
    facts.forwarding.dedup();
}

/// XDP programs that see answers before anything else does; what a driver drops for them nobody tells.
fn before_the_wire(evidence: &Evidence, facts: &Facts) -> Option<Dropper> {
    let oif = facts.route.as_ref()?.route()?.oif?;
    let link = facts.links.as_ref()?.iter().find(|link| link.ifindex == oif)?;
    let netns = evidence.connection.netns.into();
    droppers::at(Spot::Xdp, netns, Some((oif, &link.name)), None).filter(|found| !found.programs.is_empty())
}

/// Whether a rule dropped it that is about what connection tracking calls invalid.
pub(super) fn is_about_invalid(what: &What) -> bool {
    let What::Dropped { rule: Some(rule), .. } = what else { return false };
    rule.text.as_ref().is_some_and(|text| text.to_ascii_lowercase().contains("invalid"))
}

/// Whose control group saw the packet: that of the socket which sent it or was to get it.
fn member(evidence: &Evidence, facts: &Facts, place: &Place, outgoing: bool, spot: Spot) -> Option<Member> {
    let by_sender = match spot {
        Spot::CgroupEgress => true,
        Spot::CgroupIngress => false,
        _ => return None,
    };
    if outgoing == by_sender {
        let owner = evidence.connection.owner.as_ref()?;
        return Some(if owner.cgroup != 0 {
            Member::Group(owner.cgroup)
        } else {
            Member::Process(owner.pid)
        });
    }
    let there = |netns: u64| netns == u64::from(place.netns);
    let listener = facts.listeners.iter().flatten().find(|listener| there(listener.netns))?;
    Some(Member::Process(listener.processes.first()?.pid))
}

/// Whether this namespace forwards what comes in there (net/ipv4/route.c, `ip_error`; net/ipv6/ip6_output.c,
/// `ip6_forward`).
fn forwarding(packet: &Packet, place: &Place) -> Option<ForwardingFact> {
    let handle = netns::find(place.netns.into())?;
    let setting = match packet.tuple.destination.ip() {
        IpAddr::V4(_) => {
            format!("net.ipv4.conf.{}.forwarding", place.interface.as_deref()?.replace('.', "/"))
        }
        IpAddr::V6(_) => "net.ipv6.conf.all.forwarding".to_owned(),
    };
    let enabled = sysctl::read(Some(&handle), &setting)? != "0";
    Some(ForwardingFact { netns: place.netns.into(), setting, enabled })
}

fn reverse_route(packet: &Packet, netns: u64) -> Option<ReverseRoute> {
    let address = packet.tuple.source.ip();
    let handle = netns::find(netns)?;
    let look = || {
        let answer = routes::matching_route(None, address, None, None, None).ok()?;
        let names = links::names(None);
        let route = answer.route()?;
        let interface = route.oif.and_then(|index| names.get(&index).cloned());
        Some((interface, route_text::route(route, &names)))
    };
    let (interface, text) = netns::enter(&handle, look).ok()?.unzip();
    Some(ReverseRoute { netns, address, interface: interface.flatten(), text })
}
