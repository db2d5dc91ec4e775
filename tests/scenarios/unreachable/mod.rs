//! Scenarios of the symptom `unreachable`.

mod cut_off;
mod icmp;
mod ipv6;
mod links;
mod neighbours;
mod routes;
mod scope;
mod source;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::Family::{V4, V6};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::Diagnosis;
use netdiag_tests::scenario::{Need, Scenario};

const CURL: &[Need] = &[Need::Tool("curl")];
const NC: &[Need] = &[Need::Tool("nc")];
const CURL_NFT: &[Need] = &[Need::Tool("curl"), Need::Nftables];
const NFT: &[Need] = &[Need::Nftables];
const PYTHON: &[Need] = &[Need::Python];
const TUN: &[Need] = &[Need::Tun];
const TUN_CURL: &[Need] = &[Need::Tun, Need::Tool("curl")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("unreachable.no-route", "v4", || routes::throw(V4)).needs(CURL),
    Scenario::hit("unreachable.no-route", "v6", || routes::throw(V6)).needs(CURL),
    Scenario::hit("unreachable.no-route", "by_rule_v4", || routes::unreachable_rule(V4)),
    Scenario::hit("unreachable.no-route", "by_rule_v6", || routes::unreachable_rule(V6)),
    Scenario::hit("unreachable.no-route", "broadcast_address", routes::broadcast_address),
    Scenario::hit("unreachable.no-route", "no_way_back_v4", || routes::no_way_back(V4)),
    Scenario::hit("unreachable.no-route", "no_way_back_v6", || routes::no_way_back(V6)),
    Scenario::near_miss("unreachable.no-route", "no_default_either", || routes::no_default_route(V4)),
    Scenario::near_miss("unreachable.no-route", "throw_for_another_prefix", routes::throw_for_another_prefix),
    Scenario::hit("unreachable.no-default-route", "v4", || routes::no_default_route(V4)),
    Scenario::hit("unreachable.no-default-route", "v6", || routes::no_default_route(V6)),
    Scenario::hit("unreachable.no-default-route", "removed_meanwhile", routes::removed_meanwhile),
    Scenario::hit("unreachable.no-default-route", "cut_off", cut_off::default_route_removed).needs(PYTHON),
    Scenario::hit("unreachable.interface-down", "switched_off_meanwhile", links::switched_off_meanwhile),
    Scenario::near_miss("unreachable.no-default-route", "a_route_covers_it", routes::a_route_covers_it),
    Scenario::near_miss("unreachable.no-default-route", "throw_before_it", || routes::throw(V4)).needs(CURL),
    Scenario::hit("unreachable.blackhole-route", "v4", || routes::blackhole(V4)).needs(PYTHON),
    Scenario::hit("unreachable.blackhole-route", "v6", || routes::blackhole(V6)).needs(PYTHON),
    Scenario::hit("unreachable.blackhole-route", "by_rule_v4", || routes::blackhole_rule(V4)),
    Scenario::hit("unreachable.blackhole-route", "by_rule_v6", || routes::blackhole_rule(V6)),
    Scenario::hit("unreachable.blackhole-route", "in_the_router_v4", || routes::blackhole_in_router(V4)),
    Scenario::hit("unreachable.blackhole-route", "in_the_router_v6", || routes::blackhole_in_router(V6)),
    Scenario::hit("unreachable.blackhole-route", "soon_closed", routes::blackhole_in_router_and_soon_closed),
    Scenario::near_miss("unreachable.blackhole-route", "covers_another_prefix", || {
        routes::covers_another_prefix("blackhole")
    }),
    Scenario::near_miss("unreachable.blackhole-route", "a_longer_prefix_wins", routes::a_longer_prefix_wins)
        .needs(CURL),
    Scenario::hit("unreachable.unreachable-route", "v4", || routes::unreachable(V4)).needs(NC),
    Scenario::hit("unreachable.unreachable-route", "v6", || routes::unreachable(V6)).needs(NC),
    Scenario::hit("unreachable.unreachable-route", "cut_off_v4", || cut_off::route_removed(V4)).needs(PYTHON),
    Scenario::hit("unreachable.unreachable-route", "cut_off_v6", || cut_off::route_removed(V6)).needs(PYTHON),
    Scenario::near_miss("unreachable.unreachable-route", "a_rule", || routes::unreachable_rule(V4)),
    Scenario::near_miss("unreachable.unreachable-route", "in_the_router", icmp::unreachable_route_in_router),
    Scenario::near_miss("unreachable.unreachable-route", "covers_another_prefix", || {
        routes::covers_another_prefix("unreachable")
    }),
    Scenario::hit("unreachable.prohibit-route", "v4", || routes::prohibit(V4)),
    Scenario::hit("unreachable.prohibit-route", "v6", || routes::prohibit(V6)),
    Scenario::hit("unreachable.prohibit-route", "by_rule_v4", || routes::prohibit_rule(V4)),
    Scenario::hit("unreachable.prohibit-route", "by_rule_v6", || routes::prohibit_rule(V6)),
    Scenario::near_miss("unreachable.prohibit-route", "covers_another_prefix", || {
        routes::covers_another_prefix("prohibit")
    }),
    Scenario::near_miss("unreachable.prohibit-route", "eacces_from_afar", || icmp::prohibited(V6)).needs(TUN),
    Scenario::hit("unreachable.neighbour-unresolved", "v4", || neighbours::on_own_link(V4)).needs(NC),
    Scenario::hit("unreachable.neighbour-unresolved", "v6", || neighbours::on_own_link(V6)).needs(NC),
    Scenario::hit("unreachable.neighbour-unresolved", "gateway_v4", || neighbours::gateway(V4)).needs(CURL),
    Scenario::hit("unreachable.neighbour-unresolved", "gateway_v6", || neighbours::gateway(V6)).needs(CURL),
    Scenario::hit("unreachable.neighbour-unresolved", "behind_the_router_v4", || {
        neighbours::behind_the_router(V4)
    }),
    Scenario::hit("unreachable.neighbour-unresolved", "behind_the_router_v6", || {
        neighbours::behind_the_router(V6)
    }),
    Scenario::hit("unreachable.neighbour-unresolved", "gave_up_before_it_failed", neighbours::gave_up_before)
        .needs(PYTHON),
    Scenario::near_miss("unreachable.neighbour-unresolved", "a_router_says_so", || icmp::host(V4)).needs(TUN),
    Scenario::near_miss("unreachable.neighbour-unresolved", "port_closed", neighbours::port_closed),
    Scenario::hit("unreachable.interface-down", "v4", links::down_v4).needs(CURL),
    Scenario::hit("unreachable.interface-down", "v6", links::down_v6).needs(CURL),
    Scenario::hit("unreachable.interface-down", "bound_to_it", links::bound_to_it).needs(PYTHON),
    Scenario::hit("unreachable.interface-down", "no_carrier_v4", || links::no_carrier(V4)),
    Scenario::hit("unreachable.interface-down", "no_carrier_v6", || links::no_carrier(V6)),
    Scenario::near_miss("unreachable.interface-down", "another_is_down", links::another_is_down),
    Scenario::near_miss("unreachable.interface-down", "down_and_no_route", links::down_and_no_route),
    Scenario::hit("unreachable.icmp-unreachable", "v4", || icmp::host(V4)).needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "v6", || icmp::host(V6)).needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "before_tc_watches_v4", || icmp::before_tc_watches(V4))
        .needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "before_tc_watches_v6", || icmp::before_tc_watches(V6))
        .needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "net_v4", || icmp::net(V4)).needs(TUN_CURL),
    Scenario::hit("unreachable.icmp-unreachable", "net_v6", || icmp::net(V6)).needs(TUN_CURL),
    Scenario::hit("unreachable.icmp-unreachable", "routing_loop_v4", || icmp::routing_loop(V4)).needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "routing_loop_v6", || icmp::routing_loop(V6)).needs(TUN),
    Scenario::hit("unreachable.icmp-unreachable", "router_without_route_v4", || {
        icmp::router_without_route(V4)
    }),
    Scenario::hit("unreachable.icmp-unreachable", "router_without_route_v6", || {
        icmp::router_without_route(V6)
    }),
    Scenario::hit("unreachable.icmp-unreachable", "own_reject_rule_v6", icmp::own_reject_rule)
        .needs(CURL_NFT),
    Scenario::near_miss("unreachable.icmp-unreachable", "about_another_flow", icmp::about_another_flow)
        .needs(TUN),
    Scenario::near_miss("unreachable.icmp-unreachable", "a_short_reroute", icmp::a_short_reroute),
    Scenario::near_miss("unreachable.icmp-unreachable", "reject_rule_v4", || icmp::reject_rule(V4))
        .needs(NFT),
    Scenario::near_miss("unreachable.icmp-unreachable", "reject_rule_v6", || icmp::reject_rule(V6))
        .needs(NFT),
    Scenario::hit("unreachable.icmp-prohibited", "v4", || icmp::prohibited(V4)).needs(TUN),
    Scenario::hit("unreachable.icmp-prohibited", "v6", || icmp::prohibited(V6)).needs(TUN),
    Scenario::hit("unreachable.icmp-prohibited", "net_v4", icmp::net_prohibited_v4).needs(TUN),
    Scenario::hit("unreachable.icmp-prohibited", "source_policy_v6", icmp::policy_v6).needs(TUN),
    Scenario::hit("unreachable.icmp-prohibited", "by_the_peer", icmp::prohibited_by_peer).needs(TUN_CURL),
    Scenario::hit("unreachable.icmp-prohibited", "prohibit_route_in_router_v4", || {
        icmp::prohibit_route_in_router(V4)
    }),
    Scenario::hit("unreachable.icmp-prohibited", "prohibit_route_in_router_v6", || {
        icmp::prohibit_route_in_router(V6)
    }),
    Scenario::near_miss("unreachable.icmp-prohibited", "unreachable", || icmp::host(V4)).needs(TUN),
    Scenario::near_miss("unreachable.icmp-prohibited", "own_prohibit_route", || routes::prohibit(V6)),
    Scenario::hit("unreachable.no-ipv6", "v4_only", ipv6::v4_only).needs(CURL),
    Scenario::hit("unreachable.no-ipv6", "disabled", ipv6::disabled).needs(PYTHON),
    Scenario::hit("unreachable.no-ipv6", "localhost", ipv6::localhost),
    Scenario::near_miss("unreachable.no-ipv6", "no_default_route", || routes::no_default_route(V6)),
    Scenario::near_miss("unreachable.no-ipv6", "port_closed", ipv6::port_closed).needs(NC),
    Scenario::near_miss("unreachable.no-ipv6", "to_ipv4_while_disabled", ipv6::to_ipv4_while_disabled),
    Scenario::hit("unreachable.martian-source", "bound_to_loopback", source::bound_to_loopback),
    Scenario::hit("unreachable.martian-source", "bound_address_gone", source::bound_address_gone),
    Scenario::hit("unreachable.martian-source", "cut_off", cut_off::address_removed).needs(PYTHON),
    Scenario::hit("unreachable.martian-source", "server_has_it_too", source::server_has_it_too),
    Scenario::hit("unreachable.martian-source", "router_has_it_too", source::router_has_it_too),
    Scenario::near_miss("unreachable.martian-source", "bound_to_a_valid_one", source::bound_to_a_valid_one),
    Scenario::near_miss("unreachable.martian-source", "einval_of_a_blackhole", source::einval_of_a_blackhole),
    Scenario::hit("unreachable.scope-missing", "connect", scope::connect),
    Scenario::hit("unreachable.scope-missing", "bind", scope::bind),
    Scenario::near_miss("unreachable.scope-missing", "with_its_interface", scope::with_its_interface),
];

/// The server's network.
fn server_network(family: Family) -> &'static str {
    match family {
        V4 => "10.77.2.0/24",
        V6 => "fd77:2::/64",
    }
}

/// A network that nobody here talks to.
fn other_network(family: Family) -> &'static str {
    match family {
        V4 => "203.0.113.0/24",
        V6 => "2001:db8:113::/48",
    }
}

/// `-4` or `-6` for commands that do not see it from an address.
fn flag(family: Family) -> &'static str {
    match family {
        V4 => "-4",
        V6 => "-6",
    }
}

/// Requires that it broke in this namespace, which must be named.
fn broke_in<'a>(diagnosis: Diagnosis<'a>, namespace: &Namespace) -> Result<Diagnosis<'a>> {
    diagnosis.has("/where/netns", namespace.inode())?.has("/where/netns_name", namespace.name())
}

/// Requires that a person reads this somewhere: summary, explanation or next steps.
fn says<'a>(diagnosis: Diagnosis<'a>, text: &str) -> Result<Diagnosis<'a>> {
    let fields = ["/summary", "/explanation", "/next_steps"].map(|field| diagnosis.at(field).to_string());
    ensure!(fields.iter().any(|field| field.contains(text)), "{text:?} is not said: {:#}", diagnosis.value);
    Ok(diagnosis)
}

/// Nothing is wrong with the way there: nobody listens. The port is the story's own, because listeners of
/// other scenarios count as "elsewhere on this machine".
fn port_is_closed(net: &Topology, address: SocketAddr) -> Result<()> {
    let report = net.netdiag_run(&clients::connect(address)?)?;
    report.exits(1)?.the_only("refused.no-listener")?.errno(Some("ECONNREFUSED"))?;
    Ok(())
}
