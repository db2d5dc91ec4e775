//! Scenarios of the symptom `local`: a system call fails, and no packet is ever made.

pub mod cgroup;

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, Command};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

const EXHAUSTED: &str = "local.ports-exhausted";
const IN_USE: &str = "local.address-in-use";
const NOT_LOCAL: &str = "local.address-not-local";
const NOT_PERMITTED: &str = "local.not-permitted";

const PYTHON: &[Need] = &[Need::Python];
const NFT_PYTHON: &[Need] = &[Need::Nftables, Need::Python];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(EXHAUSTED, "v4", || ports_held(Family::V4)),
    Scenario::hit(EXHAUSTED, "v6", || ports_held(Family::V6)),
    Scenario::hit(EXHAUSTED, "time_wait", ports_in_time_wait),
    Scenario::hit(EXHAUSTED, "made_by_itself", made_by_itself),
    Scenario::hit(EXHAUSTED, "listeners_in_the_range", listeners_in_the_range),
    Scenario::hit(EXHAUSTED, "bind_to_port_0", bind_to_port_0).needs(PYTHON),
    Scenario::near_miss(EXHAUSTED, "the_last_port", the_last_port),
    Scenario::near_miss(EXHAUSTED, "other_destination", other_destination),
    Scenario::hit(IN_USE, "v4", || address_in_use(Family::V4)),
    Scenario::hit(IN_USE, "v6", || address_in_use(Family::V6)),
    Scenario::hit(IN_USE, "udp", udp_address_in_use),
    Scenario::hit(IN_USE, "dual_stack_blocks_ipv4", dual_stack_blocks_ipv4).needs(&[Need::Ipv6]),
    Scenario::hit(IN_USE, "time_wait", server_comes_back),
    Scenario::hit(IN_USE, "same_four_tuple", same_four_tuple),
    Scenario::hit(IN_USE, "listen", second_to_listen).needs(PYTHON),
    Scenario::near_miss(IN_USE, "reuseport", reuseport),
    Scenario::near_miss(IN_USE, "other_address_or_protocol", other_address_or_protocol),
    Scenario::hit(NOT_LOCAL, "v4", || address_not_local(Family::V4)),
    Scenario::hit(NOT_LOCAL, "v6", || address_not_local(Family::V6)),
    Scenario::hit(NOT_LOCAL, "udp", address_of_another_namespace),
    Scenario::near_miss(NOT_LOCAL, "own_addresses", own_addresses),
    Scenario::near_miss(NOT_LOCAL, "nonlocal_bind", nonlocal_bind),
    Scenario::hit(NOT_PERMITTED, "privileged_port_v4", || privileged_port(Family::V4)),
    Scenario::hit(NOT_PERMITTED, "privileged_port_v6", || privileged_port(Family::V6)),
    Scenario::hit(NOT_PERMITTED, "udp_firewall_v4", || udp_firewall(Family::V4)).needs(NFT_PYTHON),
    Scenario::hit(NOT_PERMITTED, "udp_firewall_v6", || udp_firewall(Family::V6)).needs(NFT_PYTHON),
    Scenario::hit(NOT_PERMITTED, "cgroup_program_v4", || cgroup_program(Family::V4, cgroup::INET4_CONNECT)),
    Scenario::hit(NOT_PERMITTED, "cgroup_program_v6", || cgroup_program(Family::V6, cgroup::INET6_CONNECT)),
    Scenario::near_miss(NOT_PERMITTED, "root_may", root_may),
    Scenario::near_miss(NOT_PERMITTED, "unprivileged_port", unprivileged_port),
    Scenario::near_miss(NOT_PERMITTED, "tcp_firewall", tcp_firewall).needs(&[Need::Nftables]),
    Scenario::near_miss(NOT_PERMITTED, "prohibit_route", prohibit_route),
];

fn run(namespace: &Namespace, words: &[String]) -> Result<Report> {
    Run::inside(namespace).command(words)
}

fn run_steps(namespace: &Namespace, steps: &str) -> Result<Report> {
    run(namespace, &clients::steps(steps)?)
}

/// Ten local ports, and no more.
fn ten_ports(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
}

fn ports_held(family: Family) -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = family.server(18201);
    let _server = servers::echo(&net.server, address)?;
    let holder = net.client.spawn(&clients::steps(&format!("many=10,{address} wait"))?)?;
    holder.wait_for_line("connected 10", Duration::from_secs(5))?;
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "all 10 local ports")?;
    found.mentions("/summary", &format!("10 of nd-client[{}]", holder.pid()))?;
    found.has("/where/netns_name", net.client.name())?.has("/connection/peer/port", 18201)?;
    Ok(())
}

fn ports_in_time_wait() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V4.server(18202);
    let _server = servers::echo(&net.server, address)?;
    let fill = |count: usize| -> Result<()> {
        net.client.run(&clients::steps(&format!("churn={count},{address}"))?)?.exits(0)?;
        Ok(())
    };
    fill(10)?;
    // The server's FIN comes a moment after the client's close; where it came before, the port is free again.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let command = ["ss", "-Htan", "state", "time-wait"].map(str::to_owned);
        let waiting = net.client.run(&command)?.stdout.lines().count();
        if waiting >= 10 {
            break;
        }
        let _ = fill(10 - waiting);
    }
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "10 in TIME_WAIT")?.mentions("/explanation", "likely made by nd-client")?;
    Ok(())
}

/// The command itself made what is in TIME_WAIT, and was seen to; another process holds the rest open.
fn made_by_itself() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V6.server(18211);
    let _server = servers::echo(&net.server, address)?;
    let holder = net.client.spawn(&clients::steps(&format!("many=4,{address} wait"))?)?;
    holder.wait_for_line("connected 4", Duration::from_secs(5))?;
    // Where the server's FIN comes first there is no TIME_WAIT, and the port is free again.
    let report = run_steps(&net.client, &format!("churn=200,{address}"))?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    let pid = &found.at("/process/pid").clone();
    found.mentions("/summary", &format!("6 in TIME_WAIT made by nd-client[{pid}]"))?;
    found.mentions("/summary", &format!("4 of nd-client[{}]", holder.pid()))?;
    found.mentions("/explanation", &format!("It was seen who made them: 6 of nd-client[{pid}]."))?;
    found
        .has("/holders/0/count", 6)?
        .has("/holders/0/state", "TIME_WAIT")?
        .has("/holders/0/process/pid", pid.clone())?;
    found.has("/holders/1/count", 4)?.has("/holders/1/process/pid", holder.pid())?;
    Ok(())
}

/// Ports of the range that listeners hold are not free for anybody.
fn listeners_in_the_range() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V4.server(18212);
    let _server = servers::echo(&net.server, address)?;
    let listeners = [40000, 40003, 40006].map(|port| servers::echo(&net.client, Family::V4.loopback(port)));
    let listeners: Vec<_> = listeners.into_iter().collect::<Result<_>>()?;
    let holder = net.client.spawn(&clients::steps(&format!("many=7,{address} wait"))?)?;
    holder.wait_for_line("connected 7", Duration::from_secs(5))?;
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "all 10 local ports")?;
    found.has("/holders/0/count", 7)?.has("/holders/0/process/pid", holder.pid())?;
    let listening = (1..4).map(|index| found.at(&format!("/holders/{index}/process/pid")).as_u64());
    let mut pids: Vec<Option<u64>> = listening.collect();
    let mut expected: Vec<Option<u64>> = listeners.iter().map(|server| Some(server.pid().into())).collect();
    pids.sort_unstable();
    expected.sort_unstable();
    ensure!(pids == expected, "{}", found.value);
    Ok(())
}

fn bind_to_port_0() -> Result<()> {
    const SCRIPT: &str = "
import socket
kept = []
for _ in range(11):
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    kept.append(s)
";
    let host = Namespace::new("host")?;
    ten_ports(&host)?;
    let report = run(&host, &["python3", "-c", SCRIPT].map(str::to_owned))?;
    report.exits(1)?.the_only(EXHAUSTED)?.errno(Some("EADDRINUSE"))?.has("/connection/call", "bind")?;
    Ok(())
}

fn the_last_port() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let _server = servers::echo(&net.server, Family::V4.server(18203))?;
    net.netdiag_run(&clients::steps(&format!("many=10,{}", Family::V4.server(18203)))?)?
        .exits(0)?
        .nothing()?;
    Ok(())
}

fn other_destination() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let (one, other) = (Family::V4.server(18204), Family::V4.server(18205));
    let _one = servers::echo(&net.server, one)?;
    let _other = servers::echo(&net.server, other)?;
    let report = net.netdiag_run(&clients::steps(&format!("many=10,{one} many=10,{other}"))?)?;
    report.exits(0)?.nothing()?;
    Ok(())
}

fn address_in_use(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo(&host, family.any(18206))?;
    let report = run_steps(&host, &format!("tcp reuseaddr bind={} listen=8", family.loopback(18206)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRINUSE"))?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?.has("/connection/call", "bind")?;
    found.has("/connection/local/port", 18206)?.has("/process/comm", "nd-client")?;
    found.has("/where/netns_name", host.name())?;
    Ok(())
}

fn udp_address_in_use() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo_udp(&host, Family::V4.any(18207))?;
    let report = run_steps(&host, &format!("udp bind={}", Family::V4.any(18207)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRINUSE"))?;
    found.has("/connection/protocol", "udp")?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?;
    Ok(())
}

fn dual_stack_blocks_ipv4() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo(&host, Family::V6.any(18208))?;
    let report = run_steps(&host, &format!("tcp reuseaddr bind={} listen=8", Family::V4.any(18208)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?;
    Ok(())
}

/// A server that closed a connection first, ended, and is started again without SO_REUSEADDR.
fn server_comes_back() -> Result<()> {
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18209);
    let server = servers::steps(&host, &format!("tcp bind={address} listen=8 accept close"))?;
    host.run(&clients::steps(&format!("connect={address} recv close"))?)?.exits(0)?;
    server.wait(Duration::from_secs(5))?.exits(0)?;
    let report = run_steps(&host, &format!("tcp bind={address} listen=8"))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRINUSE"))?;
    found.mentions("/summary", "TIME_WAIT")?;
    Ok(())
}

/// The same local port to the same peer twice.
fn same_four_tuple() -> Result<()> {
    let net = Topology::new()?;
    let peer = Family::V4.server(18210);
    let _server = servers::echo(&net.server, peer)?;
    let from = "tcp reuseaddr bind=10.77.1.2:40500";
    let first = net.client.spawn(&clients::steps(&format!("{from} connect={peer} wait"))?)?;
    first.wait_for_line("connected", Duration::from_secs(5))?;
    let report = net.netdiag_run(&clients::steps(&format!("{from} connect={peer}"))?)?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found
        .mentions("/summary", &format!("nd-client[{}]", first.pid()))?
        .has("/connection/local/port", 40500)?;
    Ok(())
}

/// Both may bind with SO_REUSEADDR, but only one may listen.
fn second_to_listen() -> Result<()> {
    const SCRIPT: &str = "
import errno, socket, sys
both = [socket.socket() for _ in range(2)]
for s in both:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', 18211))
both[0].listen()
try:
    both[1].listen()
except OSError as e:
    print(errno.errorcode[e.errno])
    sys.exit(1)
";
    let host = Namespace::new("host")?;
    let report = run(&host, &["python3", "-c", SCRIPT].map(str::to_owned))?;
    ensure!(report.stdout == "EADDRINUSE\n", "{}", report.dump());
    report.exits(1)?.the_only(IN_USE)?.errno(Some("EADDRINUSE"))?.has("/connection/local/port", 18211)?;
    Ok(())
}

fn reuseport() -> Result<()> {
    let host = Namespace::new("host")?;
    let hold = format!("tcp reuseport bind={} listen=8", Family::V4.any(18212));
    let _first = servers::steps(&host, &format!("{hold} wait"))?;
    run_steps(&host, &hold)?.exits(0)?.nothing()?;
    Ok(())
}

fn other_address_or_protocol() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, "127.0.0.1:18213".parse()?)?;
    run_steps(&host, "tcp bind=127.0.0.2:18213 listen=8 udp bind=127.0.0.1:18213")?.exits(0)?.nothing()?;
    Ok(())
}

fn address_not_local(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps(&format!("tcp bind={} listen=8", family.nobody(18214)))?)?;
    let found = report.exits(1)?.the_only(NOT_LOCAL)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.has("/connection/local/address", family.nobody(0).ip().to_string())?;
    found.has("/connection/call", "bind")?.has("/where/netns_name", net.client.name())?;
    Ok(())
}

/// The address exists on this machine, but in another namespace.
fn address_of_another_namespace() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps(&format!("udp bind={}", Family::V4.server(18215)))?)?;
    report.exits(1)?.the_only(NOT_LOCAL)?.certain()?.has("/connection/protocol", "udp")?;
    Ok(())
}

fn own_addresses() -> Result<()> {
    let net = Topology::new()?;
    let bind = |address: &str| format!("tcp bind={address} listen=8 close-listener");
    let steps =
        ["10.77.1.2:18216", "[fd77:1::2]:18216", "127.5.5.5:18216", "[::1]:18216"].map(bind).join(" ");
    net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    Ok(())
}

fn nonlocal_bind() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv4.ip_nonlocal_bind", "1")?;
    let steps = format!("tcp bind={} listen=8", Family::V4.nobody(18217));
    net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    Ok(())
}

fn privileged_port(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    host.sysctl("net.ipv4.ip_unprivileged_port_start", "1024")?;
    let report = run_steps(&host, &format!("uid=65534 tcp bind={} listen=8", family.any(443)))?;
    let found = report.exits(1)?.the_only(NOT_PERMITTED)?.errno(Some("EACCES"))?;
    found.has("/confidence", "likely")?.has("/process/uid", 65534)?.has("/connection/call", "bind")?;
    found.mentions("/summary", "443")?.mentions("/summary", "CAP_NET_BIND_SERVICE")?;
    Ok(())
}

/// A datagram as most programs send it, by sendto().
fn datagram(family: Family, port: u16) -> Command {
    const SCRIPT: &str = "
import errno, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.sendto(b'x', (host, port))
except OSError as e:
    print(errno.errorcode[e.errno])
    sys.exit(1)
";
    let address = family.server(port);
    ["python3", "-c", SCRIPT, &address.ip().to_string(), &port.to_string()].map(str::to_owned).to_vec()
}

fn udp_firewall(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client
        .nft("table inet fw { chain out { type filter hook output priority 0; udp dport 18218 drop; }; }")?;
    let report = net.netdiag_run(&datagram(family, 18218))?;
    let found = report.exits(1)?.the_only(NOT_PERMITTED)?.certain()?.errno(Some("EPERM"))?;
    found.has("/where/stage", "netfilter")?.has("/firewall/hook", "output")?;
    found.has("/firewall/rule", "udp dport 18218 drop")?.has("/firewall/exact", true)?;
    found.has("/connection/protocol", "udp")?;
    // The next port is not touched by the rule, and a datagram that nobody reads is no error.
    let _server = servers::echo_udp(&net.server, family.server(18219))?;
    net.netdiag_run(&datagram(family, 18219))?.exits(0)?.nothing()?;
    Ok(())
}

/// A BPF program on the process's control group refuses connect(); for the other family it has no say.
fn cgroup_program(family: Family, attach_type: u64) -> Result<()> {
    let net = Topology::new()?;
    let _servers = [
        servers::echo(&net.server, Family::V4.server(18222))?,
        servers::echo(&net.server, Family::V6.server(18222))?,
    ];
    let group = cgroup::Forbidding::new(attach_type)?;
    let report = net.netdiag_run(&group.with(&clients::connect(family.server(18222))?))?;
    let found = report.exits(1)?.the_only(NOT_PERMITTED)?.errno(Some("EPERM"))?;
    found.has("/connection/call", "connect")?.has("/where/stage", "cgroup-bpf")?;
    found.has("/connection/peer/port", 18222)?.has("/process/comm", "nd-client")?;
    let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
    net.netdiag_run(&group.with(&clients::connect(other.server(18222))?))?.exits(0)?.nothing()?;
    Ok(())
}

fn root_may() -> Result<()> {
    let host = Namespace::new("host")?;
    run_steps(&host, &format!("tcp bind={} listen=8", Family::V4.any(443)))?.exits(0)?.nothing()?;
    Ok(())
}

fn unprivileged_port() -> Result<()> {
    let host = Namespace::new("host")?;
    host.sysctl("net.ipv4.ip_unprivileged_port_start", "80")?;
    run_steps(&host, "uid=65534 tcp bind=127.0.0.1:443 listen=8")?.exits(0)?.nothing()?;
    Ok(())
}

/// TCP's connect() hears nothing of the rule that gives a UDP sender EPERM.
fn tcp_firewall() -> Result<()> {
    let net = Topology::new()?;
    net.client
        .nft("table inet fw { chain out { type filter hook output priority 0; tcp dport 18220 drop; }; }")?;
    let client = clients::steps(&format!("tcp connect={},1500", Family::V4.server(18220)))?;
    net.netdiag_run(&client)?.exits(3)?.never(NOT_PERMITTED)?.one_of("timeout.firewall-drop")?;
    Ok(())
}

fn prohibit_route() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("route add prohibit 10.77.9.0/24")?;
    let report = net.netdiag_run(&clients::steps("tcp connect=10.77.9.9:18221")?)?;
    report.exits(1)?.the_only("unreachable.prohibit-route")?.errno(Some("EACCES"))?;
    Ok(())
}
