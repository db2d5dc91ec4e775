//! Packets that are thrown away, and `netdiag drops`, which says so: also of those that no process here asked for.

mod causes;
mod firewall;
mod report;
mod routing;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use netdiag_tests::datagrams::{self, Raw};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Drops, DropsReport};
use netdiag_tests::scenario::{Need, Scenario};

const NFT: &[Need] = &[Need::Nftables];
/// A port of the server's.
const PORT: u16 = 8081;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("drop.firewall", "inbound_v4", || firewall::inbound(Family::V4)).needs(NFT),
    Scenario::hit("drop.firewall", "inbound_v6", || firewall::inbound(Family::V6)).needs(NFT),
    Scenario::hit("drop.firewall", "forwarded_v4", || firewall::forwarded(Family::V4)).needs(NFT),
    Scenario::hit("drop.firewall", "forwarded_v6", || firewall::forwarded(Family::V6)).needs(NFT),
    Scenario::hit("drop.firewall", "policy", firewall::policy).needs(NFT),
    Scenario::hit("drop.firewall", "of_a_service", firewall::of_a_service).needs(NFT),
    Scenario::hit("drop.firewall", "other_protocol", firewall::other_protocol).needs(NFT),
    Scenario::near_miss("drop.firewall", "counts_and_accepts", firewall::counts_and_accepts).needs(NFT),
    Scenario::hit("drop.reverse-path-filter", "strict", || routing::reverse_path("1")),
    Scenario::near_miss("drop.reverse-path-filter", "loose", || routing::reverse_path("2")),
    Scenario::hit("drop.martian", "loopback_source", routing::loopback_source),
    Scenario::near_miss("drop.martian", "ordinary_source", routing::ordinary_source),
    Scenario::near_miss("drop.martian", "multicast_not_joined", routing::multicast_not_joined),
    Scenario::hit("drop.forwarding-disabled", "v4", || routing::forwarding_disabled(Family::V4)),
    Scenario::hit("drop.forwarding-disabled", "v6", || routing::forwarding_disabled(Family::V6)),
    Scenario::near_miss("drop.forwarding-disabled", "no_route", || routing::no_route(Family::V4)),
    Scenario::hit("drop.no-route", "v4", || routing::no_route(Family::V4)),
    Scenario::hit("drop.no-route", "v6", || routing::no_route(Family::V6)),
    Scenario::hit("drop.no-route", "unreachable_route", routing::unreachable_route),
    Scenario::near_miss("drop.no-route", "forwarding_disabled", || routing::forwarding_disabled(Family::V4)),
    Scenario::hit("drop.too-big", "v4", || routing::too_big(Family::V4)),
    Scenario::hit("drop.too-big", "v6", || routing::too_big(Family::V6)),
    Scenario::near_miss("drop.too-big", "fits", routing::fits),
    Scenario::hit("drop.no-socket", "v4", || causes::no_socket(Family::V4)),
    Scenario::hit("drop.no-socket", "v6", || causes::no_socket(Family::V6)),
    Scenario::near_miss("drop.no-socket", "somebody_listens", causes::somebody_listens),
    Scenario::hit("drop.checksum", "udp", || causes::checksum(true)),
    Scenario::near_miss("drop.checksum", "right", || causes::checksum(false)),
    Scenario::hit("drop.receive-buffer", "v4", || causes::receive_buffer(Family::V4)),
    Scenario::hit("drop.receive-buffer", "v6", || causes::receive_buffer(Family::V6)),
    Scenario::near_miss("drop.receive-buffer", "still_room", causes::still_room),
    Scenario::hit("drop.bpf", "socket_filter", || causes::socket_filter(false)),
    Scenario::near_miss("drop.bpf", "takes_all", || causes::socket_filter(true)),
    Scenario::hit("drop.qdisc", "tbf", causes::slow_queue),
    Scenario::near_miss("drop.qdisc", "fast_enough", causes::fast_queue),
    Scenario::hit("drop.other", "neighbour_v4", || causes::neighbour(Family::V4)),
    Scenario::hit("drop.other", "neighbour_v6", || causes::neighbour(Family::V6)),
    Scenario::near_miss("drop.other", "neighbour_answers", causes::neighbour_answers),
    Scenario::healthy("drops_connections_that_work", report::connections_that_work),
    Scenario::healthy("drops_normal_is_set_apart", report::normal_is_set_apart),
    Scenario::healthy("drops_by_each_key", report::by_each_key).needs(NFT),
    Scenario::healthy("drops_filter", report::filter).needs(NFT),
    Scenario::healthy("drops_follow", report::follow).needs(NFT),
    Scenario::healthy("drops_text", report::text).needs(NFT),
    Scenario::healthy("drops_flood_keeps_counts_true", report::flood).needs(NFT).alone(),
];

/// The client sends datagrams to the server's port.
fn send(net: &Topology, family: Family, count: usize) -> Result<()> {
    datagrams::send(&net.client, family.server(PORT), 10, count)
}

/// What is dropped while `action` is at work.
fn during(arguments: &[&str], action: impl FnOnce() -> Result<()>) -> Result<DropsReport> {
    let drops = Drops::start(arguments)?;
    action()?;
    drops.stop()
}

/// The filter for what happens in a namespace.
fn inside(namespace: &Namespace) -> String {
    format!("netns {}", namespace.inode())
}

/// A datagram that the client puts on its link, for the server's port.
fn raw(source: Ipv4Addr) -> Raw {
    let SocketAddr::V4(server) = Family::V4.server(PORT) else { unreachable!("the family is IPv4") };
    Raw { source, destination: *server.ip(), port: PORT, damaged: false, protocol: None }
}
