//! Scenarios of the symptom `refused`.
//!
//! Every story has a port of its own: netdiag looks for listeners in all namespaces of the machine, and
//! scenarios run beside each other.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, Command, curl, nc, python};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::process::Process;
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

mod burst;
mod reject;
mod remote;
mod service;

const NO_LISTENER: &str = "refused.no-listener";
const ELSEWHERE: &str = "refused.bound-elsewhere";
const PEER: &str = "refused.peer-no-listener";
const REJECT: &str = "refused.firewall-reject";
const SERVICE: &str = "refused.service-no-endpoints";
const REMOTE_REJECT: &str = "refused.remote-firewall-reject";
const MIDDLEBOX: &str = "refused.middlebox-reset";
const OVERFLOW: &str = "refused.backlog-overflow";

const PYTHON: &[Need] = &[Need::Python];
const NC: &[Need] = &[Need::Tool("nc")];
const NFT: &[Need] = &[Need::Nftables];
const NC_NFT: &[Need] = &[Need::Tool("nc"), Need::Nftables];
const PYTHON_NFT: &[Need] = &[Need::Python, Need::Nftables];
const TUN: &[Need] = &[Need::Tun];
const CURL_TUN: &[Need] = &[Need::Tool("curl"), Need::Tun];
const PYTHON_TC: &[Need] = &[Need::Python, Need::Tool("tc")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(NO_LISTENER, "v4", || no_listener(Family::V4)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "v6", || no_listener(Family::V6)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "other_namespace_v4", || no_listener_next_door(Family::V4)).needs(NC),
    Scenario::hit(NO_LISTENER, "other_namespace_v6", || no_listener_next_door(Family::V6)).needs(NC),
    Scenario::hit(NO_LISTENER, "udp_v4", || no_udp_listener(Family::V4)),
    Scenario::hit(NO_LISTENER, "udp_v6", || no_udp_listener(Family::V6)),
    Scenario::hit(NO_LISTENER, "bound_but_not_listening", bound_but_not_listening),
    Scenario::hit(NO_LISTENER, "only_udp_has_the_port", only_udp_has_the_port),
    Scenario::hit(NO_LISTENER, "grandchild", grandchild),
    Scenario::hit(NO_LISTENER, "burst_v4", || burst::not_listening(Family::V4, 20_000)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "burst_v6", || burst::not_listening(Family::V6, 20_000)).needs(PYTHON),
    Scenario::near_miss(NO_LISTENER, "burst_rejected", || burst::rejected_without_listener(22_000))
        .needs(PYTHON_NFT),
    Scenario::hit(REJECT, "burst_v4", || burst::rejected(Family::V4, 18143)).needs(PYTHON_NFT),
    Scenario::hit(REJECT, "burst_v6", || burst::rejected(Family::V6, 18144)).needs(PYTHON_NFT),
    Scenario::near_miss(NO_LISTENER, "somebody_listens", somebody_listens),
    Scenario::near_miss(NO_LISTENER, "firewall_rejects_v4", || firewall_rejects(Family::V4))
        .needs(&[Need::Nftables]),
    Scenario::near_miss(NO_LISTENER, "firewall_rejects_v6", || firewall_rejects(Family::V6))
        .needs(&[Need::Nftables]),
    Scenario::hit(REJECT, "output_v4", || reject::with_reset(Family::V4, "output", 18130)).needs(NC_NFT),
    Scenario::hit(REJECT, "output_v6", || reject::with_reset(Family::V6, "output", 18131)).needs(NC_NFT),
    Scenario::hit(REJECT, "forward_v4", || reject::with_reset(Family::V4, "forward", 18132)).needs(NC_NFT),
    Scenario::hit(REJECT, "forward_v6", || reject::with_reset(Family::V6, "forward", 18133)).needs(NC_NFT),
    Scenario::hit(REJECT, "icmp_v4", || reject::with_icmp(Family::V4, 18134)).needs(NFT),
    Scenario::hit(REJECT, "icmp_v6", || reject::with_icmp(Family::V6, 18135)).needs(NFT),
    Scenario::hit(REJECT, "udp_v4", || reject::udp(Family::V4, 18136)).needs(NFT),
    Scenario::hit(REJECT, "udp_v6", || reject::udp(Family::V6, 18137)).needs(NFT),
    Scenario::hit(REJECT, "iptables_nft_v4", || reject::iptables(Family::V4, "nft", "", 18138))
        .needs(&[Need::IptablesNft]),
    Scenario::hit(REJECT, "iptables_nft_v6", || {
        reject::iptables(Family::V6, "nft", " --reject-with tcp-reset", 18139)
    })
    .needs(&[Need::IptablesNft]),
    Scenario::hit(REJECT, "iptables_legacy", || reject::iptables(Family::V4, "legacy", "", 18140))
        .needs(&[Need::IptablesLegacy]),
    Scenario::near_miss(REJECT, "dropped_once", || reject::dropped_once_and_then_refused(18141)).needs(NFT),
    Scenario::near_miss(REJECT, "rule_for_other_port", || reject::rule_for_other_port(18142)).needs(NFT),
    Scenario::hit(ELSEWHERE, "loopback_only_v4", || loopback_only(Family::V4)),
    Scenario::hit(ELSEWHERE, "loopback_only_v6", || loopback_only(Family::V6)),
    Scenario::hit(ELSEWHERE, "ipv4_only", ipv4_only).needs(&[Need::Ipv6]),
    Scenario::hit(ELSEWHERE, "ipv6_only", ipv6_only).needs(&[Need::Ipv6]),
    Scenario::hit(ELSEWHERE, "udp", bound_elsewhere_udp),
    Scenario::hit(ELSEWHERE, "other_interface", other_interface).needs(PYTHON),
    Scenario::hit(ELSEWHERE, "other_namespace", other_namespace),
    Scenario::near_miss(ELSEWHERE, "other_port", other_port),
    Scenario::near_miss(ELSEWHERE, "unrelated_namespace", unrelated_namespace),
    Scenario::near_miss(ELSEWHERE, "dual_stack", dual_stack).needs(&[Need::Ipv6]),
    Scenario::hit(PEER, "v4", || peer_no_listener(Family::V4)).needs(CURL_TUN),
    Scenario::hit(PEER, "v6", || peer_no_listener(Family::V6)).needs(CURL_TUN),
    Scenario::hit(PEER, "udp_v4", || peer_no_udp_listener(Family::V4)).needs(TUN),
    Scenario::hit(PEER, "udp_v6", || peer_no_udp_listener(Family::V6)).needs(TUN),
    Scenario::hit(PEER, "nonblocking", nonblocking).needs(TUN),
    Scenario::near_miss(PEER, "peer_is_this_machine", peer_is_this_machine),
    Scenario::near_miss(PEER, "peer_accepts", peer_accepts).needs(TUN),
    Scenario::near_miss(PEER, "router_sends_icmp", router_sends_icmp).needs(TUN),
    Scenario::hit(SERVICE, "iptables_nft_v4", || service::by_iptables("nft", Family::V4, 18150))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_nft_v6", || service::by_iptables("nft", Family::V6, 18151))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_legacy_v4", || service::by_iptables("legacy", Family::V4, 18152))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_legacy_v6", || service::by_iptables("legacy", Family::V6, 18153))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_v4", || service::by_nftables(Family::V4, 18154))
        .needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_v6", || service::by_nftables(Family::V6, 18155))
        .needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_udp", || service::udp(18156)).needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::near_miss(SERVICE, "another_comment", || service::another_comment("nft", 18157))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::near_miss(SERVICE, "another_comment_legacy", || service::another_comment("legacy", 18158))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(REMOTE_REJECT, "router_v4", || remote::by_icmp(Family::V4, Sender::Router, 18160))
        .needs(TUN),
    Scenario::hit(REMOTE_REJECT, "router_v6", || remote::by_icmp(Family::V6, Sender::Router, 18161))
        .needs(TUN),
    Scenario::hit(REMOTE_REJECT, "peer_v4", || remote::by_icmp(Family::V4, Sender::Peer, 18162)).needs(TUN),
    Scenario::hit(REMOTE_REJECT, "peer_v6", || remote::by_icmp(Family::V6, Sender::Peer, 18163)).needs(TUN),
    Scenario::near_miss(PEER, "router_rejects_udp_v4", || remote::datagram(Family::V4, 18164)).needs(TUN),
    Scenario::near_miss(PEER, "router_rejects_udp_v6", || remote::datagram(Family::V6, 18165)).needs(TUN),
    Scenario::near_miss(REMOTE_REJECT, "udp_by_the_peer", || remote::datagram_by_peer(18166)).needs(TUN),
    Scenario::near_miss(REMOTE_REJECT, "rule_of_this_machine", || reject::with_icmp(Family::V4, 18167))
        .needs(NFT),
    Scenario::hit(MIDDLEBOX, "nearer_v4", || remote::from_nearer(Family::V4, 18170)).needs(TUN),
    Scenario::hit(MIDDLEBOX, "nearer_v6", || remote::from_nearer(Family::V6, 18172)).needs(TUN),
    Scenario::near_miss(MIDDLEBOX, "like_the_peer", || remote::like_the_peer(18174)).needs(TUN),
    Scenario::near_miss(MIDDLEBOX, "never_answered", || remote::never_answered(18176)).needs(TUN),
    Scenario::hit(OVERFLOW, "v4", || backlog_overflow(Family::V4)).needs(PYTHON_TC),
    Scenario::hit(OVERFLOW, "v6", || backlog_overflow(Family::V6)).needs(PYTHON_TC),
    Scenario::near_miss(OVERFLOW, "without_abort", without_abort).needs(PYTHON_TC),
    Scenario::near_miss(OVERFLOW, "closed_unread", closed_unread),
];

fn run(namespace: &Namespace, words: &[String]) -> Result<Report> {
    Run::inside(namespace).command(words)
}

fn no_listener(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    let report = run(&host, &python(family.loopback(18101), None, 0))?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?.errno(Some("ECONNREFUSED"))?;
    found
        .has("/where/netns_name", host.name())?
        .has("/where/stage", "socket")?
        .has("/connection/peer/port", 18101)?;
    found.mentions("/process/comm", "python")?.has("/connection/direction", "outbound")?;
    Ok(())
}

fn no_listener_next_door(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&nc(family.server(18102), 2))?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?.errno(Some("ECONNREFUSED"))?;
    found.has("/where/netns_name", net.server.name())?.has("/where/netns", net.server.inode())?;
    found.has("/connection/netns", net.client.inode())?.mentions("/process/comm", "nc")?;
    Ok(())
}

fn no_udp_listener(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    let address = family.loopback(18103);
    let report = run(&host, &clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?)?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.errno(Some("ECONNREFUSED"))?;
    found.has("/connection/protocol", "udp")?.has("/connection/peer/port", 18103)?;
    found.has("/where/netns_name", host.name())?;
    Ok(())
}

fn bound_but_not_listening() -> Result<()> {
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18104);
    let _bound = host.spawn(&clients::steps(&format!("tcp bind={address} wait"))?)?;
    std::thread::sleep(Duration::from_millis(200));
    run(&host, &clients::connect(address)?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

fn only_udp_has_the_port() -> Result<()> {
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18105);
    let _server = servers::echo_udp(&host, address)?;
    run(&host, &clients::connect(address)?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

fn grandchild() -> Result<()> {
    let host = Namespace::new("host")?;
    let command = clients::grandchild(&clients::connect(Family::V6.loopback(18106))?);
    let report = Run::outside(&host).command(&command)?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    found.has("/process/comm", "nd-client")?.has("/where/netns_name", host.name())?;
    Ok(())
}

fn somebody_listens() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(18107))?;
        net.netdiag_run(&clients::connect(family.server(18107))?)?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn firewall_rejects(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(
        "table inet fw { chain out { type filter hook output priority 0
           tcp dport 18108 reject with tcp reset; }; }",
    )?;
    let _server = servers::echo(&net.server, family.server(18108))?;
    let report = net.netdiag_run(&clients::connect(family.server(18108))?)?;
    report.exits(1)?.never(NO_LISTENER)?.never(PEER)?.never(ELSEWHERE)?;
    Ok(())
}

fn loopback_only(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, family.loopback(18109))?;
    let report = net.netdiag_run(&clients::connect(family.server(18109))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.errno(Some("ECONNREFUSED"))?;
    found.has("/listener/local", family.loopback(18109).to_string())?;
    found.has("/listener/processes/0/comm", "nd-server")?.has("/where/netns_name", net.server.name())?;
    found.mentions("/summary", "nd-server[")?;
    Ok(())
}

fn ipv4_only() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V4.any(18110))?;
    let report = run(&host, &clients::connect(Family::V6.loopback(18110))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/local", "0.0.0.0:18110")?;
    found.mentions("/explanation", "IPv4 only")?;
    Ok(())
}

fn ipv6_only() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = format!("tcp v6only bind={} listen=8 echo", Family::V6.any(18111));
    let _server = servers::steps(&host, &server)?;
    let report = run(&host, &clients::connect(Family::V4.loopback(18111))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/local", "[::]:18111")?;
    found.mentions("/explanation", "IPv6 only")?;
    Ok(())
}

fn bound_elsewhere_udp() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo_udp(&net.server, Family::V4.loopback(18112))?;
    let address = Family::V4.server(18112);
    let client = clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?;
    let report = net.netdiag_run(&client)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.errno(Some("ECONNREFUSED"))?;
    found.has("/connection/protocol", "udp")?.has("/listener/local", "127.0.0.1:18112")?;
    Ok(())
}

/// A listener that `SO_BINDTODEVICE` keeps to one interface.
fn listens_on_device(namespace: &Namespace, device: &str, port: u16) -> Result<Process> {
    const SCRIPT: &str = "
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
s.bind(('0.0.0.0', int(sys.argv[2])))
s.listen()
print('listening', flush=True)
time.sleep(60)
";
    let server = namespace.spawn(&["python3", "-c", SCRIPT, device, &port.to_string()])?;
    server.wait_for_line("listening", Duration::from_secs(5))?;
    Ok(server)
}

fn other_interface() -> Result<()> {
    let net = Topology::new()?;
    let _server = listens_on_device(&net.client, "eth0", 18113)?;
    let report = net.netdiag_run(&clients::connect(Family::V4.loopback(18113))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/where/netns_name", net.client.name())?;
    found.mentions("/summary", "eth0")?;
    Ok(())
}

/// A service in a container whose port was never published: it is joined to the client's network, but
/// the client asks at its own loopback.
fn other_namespace() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, Family::V4.any(18114))?;
    let report = net.netdiag_run(&clients::connect(Family::V4.loopback(18114))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/netns_name", net.server.name())?;
    found.has("/confidence", "likely")?.has("/where/netns_name", net.client.name())?;
    Ok(())
}

/// Nothing joins the two namespaces: a listener there has nothing to do with it.
fn unrelated_namespace() -> Result<()> {
    let [host, other] = Namespace::several(["host", "other"])?;
    let _server = servers::echo(&other, Family::V4.any(18127))?;
    run(&host, &clients::connect(Family::V4.loopback(18127))?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

fn other_port() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V4.loopback(18115))?;
    run(&host, &clients::connect(Family::V4.loopback(18116))?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

fn dual_stack() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V6.any(18117))?;
    run(&host, &clients::connect(Family::V4.loopback(18117))?)?.exits(0)?.nothing()?;
    Ok(())
}

fn peer_no_listener(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let report = net.netdiag_run(&curl(family.remote(18118), 3.0))?;
    let found = report.exits(7)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?.has("/confidence", "likely")?;
    found.has("/where/side", "peer")?.mentions("/process/comm", "curl")?;
    found.has("/connection/peer/address", family.remote(0).ip().to_string())?;
    Ok(())
}

fn peer_no_udp_listener(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let address = family.remote(18119);
    let client = clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?;
    let report = net.netdiag_run(&client)?;
    let found = report.exits(1)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?;
    found.has("/connection/protocol", "udp")?.has("/where/side", "peer")?;
    Ok(())
}

fn nonblocking() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let client = clients::steps(&format!("tcp connect={},2000", Family::V4.remote(18120)))?;
    let report = net.netdiag_run(&client)?;
    report.exits(1)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?.has("/confidence", "likely")?;
    Ok(())
}

fn peer_is_this_machine() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::connect(Family::V6.server(18121))?)?;
    report.exits(1)?.the_only(NO_LISTENER)?.certain()?.has("/where/side", "local")?;
    Ok(())
}

fn peer_accepts() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(18122, Behaviour::Accept)])?;
    for family in Family::BOTH {
        let client = clients::steps(&format!("connect={} send=9 recv=9 close", family.remote(18122)))?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// To TCP over IPv4, "port unreachable" means ECONNREFUSED as well; but no host answers a SYN so.
fn router_sends_icmp() -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(18123, refuses)])?;
    let client = python(Family::V4.remote(18123), Some(3.0), 0);
    net.netdiag_run(&client)?.exits(1)?.never(PEER)?.never(NO_LISTENER)?;
    Ok(())
}

/// Three connections at once; what the first read of each gives.
fn three_at_once(family: Family, port: u16) -> Command {
    const SCRIPT: &str = "
import errno, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
all = [socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) for _ in range(3)]
for s in all:
    s.setblocking(False)
    s.connect_ex((host, port))
time.sleep(0.9)
for s in all:
    try:
        s.recv(1)
    except OSError as e:
        print(errno.errorcode[e.errno])
";
    let address = family.server(port);
    let words = ["python3", "-c", SCRIPT, &address.ip().to_string(), &address.port().to_string()];
    words.map(str::to_owned).to_vec()
}

/// A listener with room for two more connections, behind a line that is slow from the second packet on:
/// three SYNs find room, but only two of the ACKs that end the handshake.
fn nearly_full(net: &Topology, family: Family, port: u16) -> Result<(Process, Process)> {
    let server = servers::never_accepts(&net.server, family.server(port), 4)?;
    let fill = clients::steps(&format!("many=3,{} wait", family.server(port)))?;
    let client = net.client.spawn(&fill)?;
    client.wait_for_line("connected 3", Duration::from_secs(5))?;
    net.server.tc("qdisc add dev eth0 root tbf rate 4kbit burst 100 limit 5000")?;
    Ok((server, client))
}

fn backlog_overflow(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_abort_on_overflow", "1")?;
    let _queue = nearly_full(&net, family, 18124)?;
    let report = net.netdiag_run(&three_at_once(family, 18124))?;
    ensure!(report.stdout.contains("ECONNRESET"), "{}", report.dump());
    let found = report.exits(0)?.the_only(OVERFLOW)?.errno(Some("ECONNRESET"))?;
    found.has("/where/netns_name", net.server.name())?.has("/listener/backlog", 4)?;
    found.has("/listener/processes/0/comm", "nd-server")?.mentions("/process/comm", "python")?;
    Ok(())
}

/// The default: the last ACK of the handshake is ignored and the client waits.
fn without_abort() -> Result<()> {
    let net = Topology::new()?;
    let _queue = nearly_full(&net, Family::V4, 18125)?;
    net.netdiag_run(&three_at_once(Family::V4, 18125))?.exits(0)?.never(OVERFLOW)?;
    Ok(())
}

fn closed_unread() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_abort_on_overflow", "1")?;
    let address = Family::V4.server(18126);
    let _server = servers::closes_unread(&net.server, address, 100)?;
    let report = net.netdiag_run(&clients::steps(&format!("connect={address} send=100 recv=9"))?)?;
    report.exits(1)?.never(OVERFLOW)?;
    Ok(())
}
