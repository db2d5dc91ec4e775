//! Somebody has the address already.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::servers;

use super::{IN_USE, run, run_steps};

pub fn tcp(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo(&host, family.any(18206))?;
    let report = run_steps(&host, &format!("tcp reuseaddr bind={} listen=8", family.loopback(18206)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRINUSE"))?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?.has("/connection/call", "bind")?;
    found.has("/connection/local/port", 18206)?.has("/process/comm", "nd-client")?;
    found.has("/where/netns_name", host.name())?;
    Ok(())
}

pub fn udp() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo_udp(&host, Family::V4.any(18207))?;
    let report = run_steps(&host, &format!("udp bind={}", Family::V4.any(18207)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?.errno(Some("EADDRINUSE"))?;
    found.has("/connection/protocol", "udp")?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?;
    Ok(())
}

pub fn dual_stack_blocks_ipv4() -> Result<()> {
    let host = Namespace::new("host")?;
    let server = servers::echo(&host, Family::V6.any(18208))?;
    let report = run_steps(&host, &format!("tcp reuseaddr bind={} listen=8", Family::V4.any(18208)))?;
    let found = report.exits(1)?.the_only(IN_USE)?.certain()?;
    found.mentions("/summary", &format!("nd-server[{}]", server.pid()))?;
    Ok(())
}

/// A server that closed a connection first, ended, and is started again without SO_REUSEADDR.
pub fn server_comes_back() -> Result<()> {
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
pub fn same_four_tuple() -> Result<()> {
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
pub fn second_to_listen() -> Result<()> {
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

pub fn reuseport() -> Result<()> {
    let host = Namespace::new("host")?;
    let hold = format!("tcp reuseport bind={} listen=8", Family::V4.any(18212));
    let _first = servers::steps(&host, &format!("{hold} wait"))?;
    run_steps(&host, &hold)?.exits(0)?.nothing()?;
    Ok(())
}

pub fn other_address_or_protocol() -> Result<()> {
    let host = Namespace::new("host")?;
    let _server = servers::echo(&host, "127.0.0.1:18213".parse()?)?;
    run_steps(&host, "tcp bind=127.0.0.2:18213 listen=8 udp bind=127.0.0.1:18213")?.exits(0)?.nothing()?;
    Ok(())
}
