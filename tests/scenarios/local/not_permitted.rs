//! A privileged port, a firewall or a BPF program forbids it.

use anyhow::Result;
use netdiag_tests::clients::{self, Command};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::servers;

use super::{NOT_PERMITTED, cgroup, run_steps};

pub fn privileged_port(family: Family) -> Result<()> {
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

pub fn udp_firewall(family: Family) -> Result<()> {
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
pub fn cgroup_program(family: Family, attach_type: u64) -> Result<()> {
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

pub fn root_may() -> Result<()> {
    let host = Namespace::new("host")?;
    run_steps(&host, &format!("tcp bind={} listen=8", Family::V4.any(443)))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn unprivileged_port() -> Result<()> {
    let host = Namespace::new("host")?;
    host.sysctl("net.ipv4.ip_unprivileged_port_start", "80")?;
    run_steps(&host, "uid=65534 tcp bind=127.0.0.1:443 listen=8")?.exits(0)?.nothing()?;
    Ok(())
}

/// TCP's connect() hears nothing of the rule that gives a UDP sender EPERM.
pub fn tcp_firewall() -> Result<()> {
    let net = Topology::new()?;
    net.client
        .nft("table inet fw { chain out { type filter hook output priority 0; tcp dport 18220 drop; }; }")?;
    let client = clients::steps(&format!("tcp connect={},1500", Family::V4.server(18220)))?;
    net.netdiag_run(&client)?.exits(3)?.never(NOT_PERMITTED)?.one_of("timeout.firewall-drop")?;
    Ok(())
}

pub fn prohibit_route() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("route add prohibit 10.77.9.0/24")?;
    let report = net.netdiag_run(&clients::steps("tcp connect=10.77.9.9:18221")?)?;
    report.exits(1)?.the_only("unreachable.prohibit-route")?.errno(Some("EACCES"))?;
    Ok(())
}
