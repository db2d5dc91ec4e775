//! The connection is up, and then its own machine takes away what it needs to send.

use anyhow::{Result, ensure};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::Report;
use netdiag_tests::servers;

use super::{broke_in, says};
use crate::timeout::changed::changes;

/// Talks, lets a command change the network, talks again, and loses patience.
const CLIENT: &str = r#"
import socket, subprocess, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.settimeout(4)
s.sendall(b"a")
s.recv(1)
subprocess.run(sys.argv[3], shell=True, check=True)
try:
    s.sendall(b"b")
    s.recv(1)
except TimeoutError:
    s.close()
"#;

fn cut_off(net: &Topology, family: Family, command: &str) -> Result<Report> {
    let address = family.server(8080);
    let _server = servers::echo(&net.server, address)?;
    let words = ["python3", "-c", CLIENT, &address.ip().to_string(), "8080", command].map(str::to_owned);
    let report = net.netdiag_run(&words)?;
    report.exits(0)?;
    Ok(report)
}

/// A VPN goes down, say: its route goes, the default route does not.
pub fn route_removed(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let network = super::server_network(family);
    net.client.ip(&format!("route add {network} via {}", family.router()))?;
    let command = format!(
        "ip route add unreachable {network} metric 1; ip route del {network} via {}",
        family.router()
    );
    let code = "unreachable.unreachable-route";
    let report = cut_off(&net, family, &command)?;
    broke_in(says(report.the_only(code)?.errno(None)?, network)?, &net.client)?;
    Ok(())
}

pub fn default_route_removed() -> Result<()> {
    let net = Topology::new()?;
    let report = cut_off(&net, Family::V4, "ip -4 route del default")?;
    let diagnosis = report.the_only("unreachable.no-default-route")?.errno(None)?;
    let removed = changes(diagnosis, &["route-removed"]);
    ensure!(removed.len() == 1, "{:#}", diagnosis.value);
    broke_in(diagnosis, &net.client)?;
    Ok(())
}

pub fn address_removed() -> Result<()> {
    let net = Topology::new()?;
    let report =
        cut_off(&net, Family::V4, "ip addr add 10.77.1.77/24 dev eth0; ip addr del 10.77.1.2/24 dev eth0")?;
    let diagnosis = report.the_only("unreachable.martian-source")?.errno(None)?;
    broke_in(says(diagnosis, "10.77.1.2")?, &net.client)?;
    Ok(())
}
