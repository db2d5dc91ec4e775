//! IPv4 on IPv6 sockets, as Java and all dual-stack programs have it: the socket's addresses are mapped
//! (`::ffff:10.77.2.2`), its packets are IPv4.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use netdiag_tests::clients::{connect, curl, steps};
use netdiag_tests::net::Family::{V4, V6};
use netdiag_tests::net::{Topology, mapped};
use netdiag_tests::netdiag::{Diagnosis, Watch};
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

use crate::timeout::listener::fill;

const NO_LISTENER: &str = "refused.no-listener";
const PEER: &str = "refused.peer-no-listener";
const ONLY: &str = "unreachable.ipv6-only-socket";

const V6_TUN: &[Need] = &[Need::Ipv6, Need::Tun];
const CURL: &[Need] = &[Need::Ipv6, Need::Tool("curl")];
const CURL_NFT: &[Need] = &[Need::Ipv6, Need::Tool("curl"), Need::Nftables];
const CURL_TUN: &[Need] = &[Need::Ipv6, Need::Tool("curl"), Need::Tun];
const NAT: &[Need] = &[Need::Ipv6, Need::Tun, Need::Nftables, Need::Conntrack];
const IPV6: &[Need] = &[Need::Ipv6];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(NO_LISTENER, "mapped", no_listener).needs(IPV6),
    Scenario::hit(NO_LISTENER, "mapped_seen_by_watch", seen_by_watch).needs(IPV6),
    Scenario::near_miss(NO_LISTENER, "mapped_to_dual_stack", dual_stack).needs(IPV6),
    Scenario::hit(PEER, "mapped", peer_no_listener).needs(V6_TUN),
    Scenario::hit(PEER, "mapped_translated", translated).needs(NAT),
    Scenario::hit("refused.remote-firewall-reject", "mapped_udp", rejected_datagram).needs(V6_TUN),
    Scenario::hit("timeout.no-reply", "mapped", no_reply).needs(CURL_TUN),
    Scenario::hit("timeout.firewall-drop", "mapped", firewall_drop).needs(CURL_NFT),
    Scenario::hit("timeout.accept-queue-full", "dual_stack", accept_queue_full).needs(CURL),
    Scenario::hit("unreachable.icmp-unreachable", "mapped", icmp_unreachable).needs(V6_TUN),
    Scenario::hit(ONLY, "by_the_program", only_by_itself).needs(IPV6),
    Scenario::hit(ONLY, "by_default", only_by_default).needs(IPV6),
    Scenario::near_miss(ONLY, "no_route", no_route).needs(IPV6),
];

/// What a person reads and a program gets is the IPv4 that is on the wire.
fn as_ipv4(found: Diagnosis<'_>, peer: SocketAddr) -> Result<Diagnosis<'_>> {
    let said = found.value.to_string();
    // Of an IPv6-only socket the finding says how the program wrote the address.
    ensure!(found.value["code"] == ONLY || !said.contains("::ffff:"), "{:#}", found.value);
    found.has("/connection/peer/address", peer.ip().to_string())
}

/// How often this was seen on the wire.
fn seen(found: &Diagnosis<'_>, event: &str) -> usize {
    found.at("/evidence").as_array().map_or(0, |all| all.iter().filter(|one| one["event"] == event).count())
}

fn no_listener() -> Result<()> {
    let net = Topology::new()?;
    let server = V4.server(19121);
    let report = net.netdiag_run(&connect(mapped(server))?)?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?.errno(Some("ECONNREFUSED"))?;
    let found = as_ipv4(found, server)?.has("/connection/local/address", V4.client().to_string())?;
    found.has("/where/netns_name", net.server.name())?;
    Ok(())
}

/// A filter of IPv4 addresses takes it.
fn seen_by_watch() -> Result<()> {
    let net = Topology::new()?;
    let server = V4.server(19122);
    let filter = format!("ip and src host {} and dst host {}", V4.client(), server.ip());
    let watch = Watch::start(&[&net.client], &[&filter])?;
    net.client.run(&connect(mapped(server))?)?.exits(1)?;
    as_ipv4(watch.stop()?.the_only(NO_LISTENER)?.certain()?, server)?;
    Ok(())
}

fn dual_stack() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, V6.any(19123))?;
    let _datagrams = servers::echo_udp(&net.server, V6.any(19123))?;
    for protocol in ["tcp", "udp"] {
        let ask = format!("{protocol} connect={} send=9 recv=9 close", mapped(V4.server(19123)));
        net.netdiag_run(&steps(&ask)?)?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// The RST is found on the wire.
fn peer_no_listener() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let report = net.netdiag_run(&connect(mapped(V4.remote(19124)))?)?;
    let found = report.exits(1)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?;
    ensure!(seen(&found, "rst-on-wire") == 1 && seen(&found, "syn-on-wire") == 1, "{}", report.dump());
    as_ipv4(found, V4.remote(19124))?;
    Ok(())
}

/// The SYN still has its IPv6 socket when NAT has changed it.
fn translated() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let (asked, backend): (SocketAddr, _) = ("10.96.0.10:80".parse()?, V4.remote(19125));
    let rule = format!("ip daddr {} tcp dport 80 dnat to {backend}", asked.ip());
    net.client
        .nft(&format!("table ip nat {{ chain out {{ type nat hook output priority -100; {rule}; }}; }}"))?;
    let report = net.netdiag_run(&connect(mapped(asked))?)?;
    let found = as_ipv4(report.exits(1)?.the_only(PEER)?, asked)?;
    ensure!(seen(&found, "rst-on-wire") == 1, "{}", report.dump());
    found.has("/connection/translated/peer/address", backend.ip().to_string())?;
    Ok(())
}

/// Who refused a datagram is found on the wire.
fn rejected_datagram() -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(19126, refuses)])?;
    let client = steps(&format!("udp connect={} timeout=2000 send=9 recv=9", mapped(V4.remote(19126))))?;
    let report = net.netdiag_run(&client)?;
    let found = report.exits(1)?.the_only("refused.remote-firewall-reject")?.errno(Some("ECONNREFUSED"))?;
    as_ipv4(found, V4.remote(19126))?.mentions("/summary", &V4.remote_router().to_string())?;
    Ok(())
}

fn no_reply() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(19127, Behaviour::Silent)])?;
    let report = net.netdiag_run(&curl(mapped(V4.remote(19127)), 2.5))?;
    let found = report.exits(28)?.the_only("timeout.no-reply")?.has("/confidence", "likely")?;
    ensure!(seen(&found, "syn-on-wire") >= 2, "{}", report.dump());
    as_ipv4(found, V4.remote(19127))?;
    Ok(())
}

fn firewall_drop() -> Result<()> {
    let net = Topology::new()?;
    let server = V4.server(19128);
    let rule = format!("ip daddr {} tcp dport 19128 drop", server.ip());
    net.server
        .nft(&format!("table inet fw {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}"))?;
    let report = net.netdiag_run(&curl(mapped(server), 1.4))?;
    let found = as_ipv4(report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?, server)?;
    found.has("/where/netns", net.server.inode())?.has("/firewall/table", "fw")?;
    Ok(())
}

/// A listener of both families, filled by IPv4.
fn accept_queue_full() -> Result<()> {
    let net = Topology::new()?;
    let server = servers::never_accepts(&net.server, V6.any(19129), 1)?;
    let address = V4.server(19129);
    let _waiting = fill(&net.router, address, 2)?;
    let report = net.netdiag_run(&curl(mapped(address), 2.5))?;
    let found = as_ipv4(report.exits(28)?.the_only("timeout.accept-queue-full")?, address)?;
    let found = found.has("/listener/local", V6.any(19129).to_string())?.has("/listener/accept_queue", 2)?;
    found.has("/listener/processes/0/pid", server.pid())?.has("/where/netns", net.server.inode())?;
    Ok(())
}

fn icmp_unreachable() -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::HostUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(19130, refuses)])?;
    let report = net.netdiag_run(&connect(mapped(V4.remote(19130)))?)?;
    let found = report.exits(1)?.the_only("unreachable.icmp-unreachable")?.certain()?;
    as_ipv4(found, V4.remote(19130))?.mentions("/summary", &V4.remote_router().to_string())?;
    Ok(())
}

fn refused_by_socket<'a>(found: Diagnosis<'a>, net: &Topology, peer: SocketAddr) -> Result<Diagnosis<'a>> {
    let found = as_ipv4(found.certain()?.errno(Some("ENETUNREACH"))?, peer)?;
    found.has("/where/stage", "socket")?.has("/where/netns", net.client.inode())
}

/// The program asks for IPv6 alone, and then for an IPv4 address.
fn only_by_itself() -> Result<()> {
    let net = Topology::new()?;
    let server = V4.server(19131);
    let _server = servers::echo(&net.server, server)?;
    let report = net.netdiag_run(&steps(&format!("tcp v6only connect={}", mapped(server)))?)?;
    let found = refused_by_socket(report.exits(1)?.the_only(ONLY)?, &net, server)?;
    found.mentions("/explanation", "it is the program")?;
    Ok(())
}

/// Whoever counts on the usual default is cut off from IPv4. An IPv4 socket is not.
fn only_by_default() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv6.bindv6only", "1")?;
    let server = V4.server(19132);
    let _server = servers::echo(&net.server, server)?;
    let report = net.netdiag_run(&steps(&format!("tcp connect={}", mapped(server)))?)?;
    let found = refused_by_socket(report.exits(1)?.the_only(ONLY)?, &net, server)?;
    found.mentions("/explanation", "the default of every IPv6 socket")?;
    net.netdiag_run(&connect(server)?)?.exits(0)?.nothing()?;
    Ok(())
}

/// The same error, and it is a matter of routes.
fn no_route() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("route del default")?;
    let report = net.netdiag_run(&connect(mapped(V4.server(19133)))?)?;
    as_ipv4(report.exits(1)?.the_only("unreachable.no-default-route")?.certain()?, V4.server(19133))?;
    Ok(())
}
