//! Gathers the facts that a failure calls for, in the network namespaces where they are.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use super::facts::{Facts, NetnsFact, QueueSample};
use super::listeners::{Listener, Search, Surroundings};
use super::netns::{self, Listing, Namespaces, NetnsHandle};
use super::routes::{self, Route, RouteAnswer, RouteKind};
use super::sockets::Protocol;
use super::{links, neighbours, process, route_text, sysctl};
use crate::probes::protocol;
use crate::track::{Connection, Side};

mod cache;
pub(crate) mod in_the_way;
mod known;
mod needs;

pub use cache::Gatherer;
use needs::Needs;

/// Settings of the connection's namespace.
const SETTINGS: &[&str] = &[
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv6.ip_nonlocal_bind",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.conf.lo.disable_ipv6",
    "net.ipv6.bindv6only",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_tw_reuse",
];
/// Settings that decide what the peer's listener does when its queues are full.
const PEER_SETTINGS: &[&str] = &[
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_max_syn_backlog",
    "net.core.somaxconn",
];

/// Gathers what this connection's end calls for, and no more; what cannot be learnt stays `None`.
///
/// `samples` are those of the peer's listener, oldest first. Takes a few milliseconds, and on a machine with
/// very many open files much longer, as the holders of sockets are looked for in `/proc`: [`Gatherer`] bounds
/// that.
pub fn gather(connection: &Connection, samples: Vec<QueueSample>) -> Facts {
    gather_among(connection, samples, &Listing::default())
}

/// As [`gather`], with a list of namespaces that may have been read already.
fn gather_among(connection: &Connection, samples: Vec<QueueSample>, listing: &Listing) -> Facts {
    let mut facts = about_connection(connection, samples);
    let needs = Needs::of(connection);
    if needs.own_namespace()
        && let Some(netns) = netns::find(connection.netns.into())
    {
        let look = || about_namespace(connection, needs);
        if let Ok(found) = netns::enter(&netns, look) {
            facts = Facts {
                netns: facts.netns,
                process: facts.process,
                queue_samples: facts.queue_samples,
                ..found
            };
        }
    }
    if needs.peer {
        about_peer(connection, listing.after(connection.end_ns), &mut facts);
    }
    facts
}

/// What differs between connections that fail in the same way.
fn about_connection(connection: &Connection, queue_samples: Vec<QueueSample>) -> Facts {
    Facts {
        netns: (connection.netns != 0).then(|| netns_fact(connection.netns.into())),
        process: connection.owner.as_ref().and_then(process::of_owner),
        queue_samples,
        ..Facts::default()
    }
}

fn netns_fact(inode: u64) -> NetnsFact {
    NetnsFact { inode, name: netns::name_of(inode) }
}

/// Runs in the connection's namespace, so that each lookup needs no thread of its own.
fn about_namespace(connection: &Connection, needs: Needs) -> Facts {
    let mut facts = Facts::default();
    if needs.links {
        facts.links = links::links(None).ok();
    }
    if needs.settings {
        facts.sysctls = settings(None, SETTINGS);
    }
    if needs.path {
        about_path(connection, &mut facts);
    }
    if let Some(which) = needs.in_the_way {
        facts.holders = in_the_way::find(connection, which);
    }
    facts
}

fn settings(netns: Option<&NetnsHandle>, keys: &[&str]) -> BTreeMap<String, String> {
    let read = |key: &&str| Some(((*key).to_owned(), sysctl::read(netns, key)?));
    netns::within(netns, || keys.iter().filter_map(read).collect()).unwrap_or_default()
}

fn about_path(connection: &Connection, facts: &mut Facts) {
    let peer = connection.peer.ip();
    let (source, interface) = (Some(connection.local.ip()), connection.bound_interface);
    let entry = routes::matching_route(None, peer, source, interface, None).ok();
    let entry = entry.as_ref().and_then(RouteAnswer::route);
    facts.route_text = entry.map(|entry| route_text::route(entry, &names(facts)));
    facts.has_default_route = match entry {
        Some(Route { kind: RouteKind::Unicast, destination: (_, 0), .. }) => Some(true),
        _ => routes::has_default(None, peer.is_ipv6()).ok(),
    };
    facts.route = routes::lookup(None, peer, source, interface, None).ok();
    facts.neighbour = facts.route.as_ref().and_then(|answer| {
        let RouteAnswer::Route(route) = answer else { return None };
        let next_hop = route.gateway.unwrap_or(peer);
        let neighbour = (route.kind == RouteKind::Unicast).then_some((route.oif?, next_hop));
        neighbour.and_then(|(oif, next_hop)| neighbours::lookup(None, oif, next_hop).ok()?)
    });
}

fn names(facts: &Facts) -> HashMap<u32, String> {
    let links = facts.links.iter().flatten();
    links.map(|link| (link.ifindex, link.name.clone())).collect()
}

fn about_peer(connection: &Connection, namespaces: Rc<Namespaces>, facts: &mut Facts) {
    let peer = connection.peer;
    let around = Surroundings::of(connection.netns.into(), namespaces);
    let Search { found: found_at, incomplete } = around.where_is(peer.ip());
    facts.listeners_incomplete = incomplete;
    facts.peer_ambiguous = found_at.len() > 1;
    facts.peer_namespaces = Some(found_at.iter().copied().map(netns_fact).collect());

    let protocol = match connection.protocol {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        _ => None,
    };
    // The peer of an accepted connection is a client.
    if let (Some(protocol), Side::Outbound) = (protocol, connection.side) {
        let Search { found, incomplete } = around.find_listeners(peer.port(), protocol);
        // Where the peer is known for sure, the namespaces that were not looked into do not matter.
        facts.listeners_incomplete |= incomplete && !all_listed(&found_at);
        facts.listeners = Some(found);
    }
    let listeners = facts.listeners.as_deref().unwrap_or_default();
    if let Some(netns) = the_one(&found_at, listeners, peer.ip()).and_then(netns::find) {
        facts.peer_sysctls = settings(Some(&netns), PEER_SETTINGS);
    }
}

fn all_listed(namespaces: &[u64]) -> bool {
    let listed = netns::all().found;
    namespaces.iter().all(|inode| listed.iter().any(|namespace| namespace.inode == *inode))
}

/// Where several namespaces have the address, the one that also listens there, if one alone does.
fn the_one(namespaces: &[u64], listeners: &[Listener], address: IpAddr) -> Option<u64> {
    if let [netns] = namespaces {
        return Some(*netns);
    }
    let listens = |netns: &u64| listeners.iter().any(|l| l.netns == *netns && l.accepts(address));
    let mut found = namespaces.iter().copied().filter(listens);
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
