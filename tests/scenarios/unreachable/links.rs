//! Interfaces that are down or have no carrier.

use std::net::SocketAddr;

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};

use super::{broke_in, port_is_closed};
use crate::timeout::changed::before;

/// An address of the client's own link.
fn on_the_link(family: Family) -> SocketAddr {
    SocketAddr::new(family.router(), 8080)
}

pub fn down_v4() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("link set eth0 down")?;
    down(&net, Family::V4)
}

/// Without `keep_addr_on_down` the addresses go with the interface, and nothing tells what lay behind it.
pub fn down_v6() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1")?;
    net.client.ip("link set eth0 down")?;
    down(&net, Family::V6)
}

fn down(net: &Topology, family: Family) -> Result<()> {
    let report = net.netdiag_run(&clients::curl(on_the_link(family), 3.0))?;
    let diagnosis = report.exits(7)?.the_only("unreachable.interface-down")?.errno(Some("ENETUNREACH"))?;
    broke_in(diagnosis.has("/where/stage", "device")?.has("/where/interface", "eth0")?, &net.client)?;
    Ok(())
}

/// There is another way, but the program insists on that interface.
pub fn bound_to_it() -> Result<()> {
    const SCRIPT: &str = "
import errno, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'wan')
try: s.connect((sys.argv[1], int(sys.argv[2])))
except OSError as e: sys.exit(errno.errorcode[e.errno])
";
    let net = Topology::new()?;
    net.client.ip_batch(
        "link add wan type veth peer name wan-peer
         addr add 10.99.0.2/24 dev wan",
    )?;
    let server = Family::V4.server(8080);
    let words = ["python3", "-c", SCRIPT, &server.ip().to_string(), "8080"].map(str::to_owned);
    let report = net.netdiag_run(&words)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.interface-down")?.certain()?;
    broke_in(diagnosis.errno(Some("ENETUNREACH"))?.has("/where/interface", "wan")?, &net.client)?;
    Ok(())
}

/// The cable is out: the other end of the veth is down. The routes stay, and nobody answers.
pub fn no_carrier(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.ip("link set to-client down")?;
    let report = net.netdiag_run(&clients::steps(&format!("tcp connect={},4500", family.server(8080)))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.interface-down")?.errno(Some("EHOSTUNREACH"))?;
    broke_in(diagnosis.has("/where/stage", "device")?.has("/where/interface", "eth0")?, &net.client)?;
    Ok(())
}

/// An interface that leads elsewhere is down; here the port is closed.
pub fn another_is_down() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip_batch(
        "link add wan type veth peer name wan-peer
         addr add 10.99.0.2/24 dev wan",
    )?;
    port_is_closed(&net, Family::V4.server(9305))
}

/// An interface is down, but the destination lies behind none of its addresses.
pub fn down_and_no_route() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip_batch(
        "link add wan type veth peer name wan-peer
         addr add 10.99.0.2/24 dev wan
         route del default via 10.77.1.1",
    )?;
    let report = net.netdiag_run(&clients::connect(Family::V4.server(8080))?)?;
    report.exits(1)?.the_only("unreachable.no-default-route")?;
    Ok(())
}

pub fn switched_off_meanwhile() -> Result<()> {
    let net = Topology::new()?;
    let address = on_the_link(Family::V4);
    let script = format!("ip link set eth0 down; sleep 0.3; \"$1\" tcp connect={address},1400");
    let words = ["sh", "-c", &script, "sh"].map(str::to_owned);
    let command: Vec<String> = words.into_iter().chain(clients::steps("")?).collect();
    let report = net.netdiag_run(&command)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.interface-down")?;
    before(diagnosis, "link-down", &["link eth0 down"])?;
    Ok(())
}
