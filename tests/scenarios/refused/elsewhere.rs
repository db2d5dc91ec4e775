//! Something listens at the port, but not where the client asks.

use std::time::Duration;

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::Process;
use netdiag_tests::servers;

use super::{ELSEWHERE, NO_LISTENER, run};

pub fn loopback_only(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, family.loopback(18109))?;
    let report = net.netdiag_run(&clients::connect(family.server(18109))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.errno(Some("ECONNREFUSED"))?;
    found.has("/listener/local", family.loopback(18109).to_string())?;
    found.has("/listener/processes/0/comm", "nd-server")?.has("/where/netns_name", net.server.name())?;
    found.mentions("/summary", "nd-server[")?;
    Ok(())
}

pub fn ipv4_only() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V4.any(18110))?;
    let report = run(&host, &clients::connect(Family::V6.loopback(18110))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/local", "0.0.0.0:18110")?;
    found.mentions("/explanation", "IPv4 only")?;
    Ok(())
}

pub fn ipv6_only() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = format!("tcp v6only bind={} listen=8 echo", Family::V6.any(18111));
    let _server = servers::steps(&host, &server)?;
    let report = run(&host, &clients::connect(Family::V4.loopback(18111))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/local", "[::]:18111")?;
    found.mentions("/explanation", "IPV6_V6ONLY")?.mentions("/summary", "for IPv6 only")?;
    Ok(())
}

pub fn udp() -> Result<()> {
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

pub fn other_interface() -> Result<()> {
    let net = Topology::new()?;
    let _server = listens_on_device(&net.client, "eth0", 18113)?;
    let report = net.netdiag_run(&clients::connect(Family::V4.loopback(18113))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/where/netns_name", net.client.name())?;
    found.mentions("/summary", "eth0")?;
    Ok(())
}

/// A service in a container whose port was never published: it is joined to the client's network, but
/// the client asks at its own loopback.
pub fn other_namespace() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, Family::V4.any(18114))?;
    let report = net.netdiag_run(&clients::connect(Family::V4.loopback(18114))?)?;
    let found = report.exits(1)?.the_only(ELSEWHERE)?.has("/listener/netns_name", net.server.name())?;
    found.has("/confidence", "likely")?.has("/where/netns_name", net.client.name())?;
    Ok(())
}

/// Nothing joins the two namespaces: a listener there has nothing to do with it.
pub fn unrelated_namespace() -> Result<()> {
    let [host, other] = Namespace::several(["host", "other"])?;
    let _server = servers::echo(&other, Family::V4.any(18127))?;
    run(&host, &clients::connect(Family::V4.loopback(18127))?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

pub fn other_port() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V4.loopback(18115))?;
    run(&host, &clients::connect(Family::V4.loopback(18116))?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

pub fn dual_stack() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, Family::V6.any(18117))?;
    run(&host, &clients::connect(Family::V4.loopback(18117))?)?.exits(0)?.nothing()?;
    Ok(())
}
