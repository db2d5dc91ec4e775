//! The route is right, and nobody is at its end.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};

use super::{broke_in, flag, port_is_closed, says};

/// Three questions in 1.2 s in place of 3 s.
fn ask_faster(namespace: &Namespace, family: Family, interface: &str) -> Result<()> {
    let version = if family == Family::V4 { "ipv4" } else { "ipv6" };
    namespace.sysctl(&format!("net.{version}.neigh.{interface}.retrans_time_ms"), "400")
}

pub fn on_own_link(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let absent = family.absent_neighbour(8080);
    let report = net.netdiag_run(&clients::nc(absent, 8))?;
    let diagnosis = report.exits(1)?.the_only("unreachable.neighbour-unresolved")?.certain()?;
    diagnosis
        .errno(Some("EHOSTUNREACH"))?
        .has("/where/stage", "neighbour")?
        .has("/where/interface", "eth0")?;
    broke_in(says(diagnosis, &absent.ip().to_string())?, &net.client)?;
    Ok(())
}

pub fn gateway(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let gateway: IpAddr = family.absent_neighbour(0).ip();
    net.client.ip(&format!("{} route replace default via {gateway}", flag(family)))?;
    ask_faster(&net.client, family, "eth0")?;
    let report = net.netdiag_run(&clients::curl(family.server(8080), 6.0))?;
    let diagnosis = report.exits(7)?.the_only("unreachable.neighbour-unresolved")?.certain()?;
    diagnosis.errno(Some("EHOSTUNREACH"))?.has("/where/interface", "eth0")?;
    broke_in(says(diagnosis, &format!("gateway {gateway}"))?, &net.client)?;
    Ok(())
}

/// The router of this machine asks for the server in vain, and tells the client with ICMP.
pub fn behind_the_router(family: Family) -> Result<()> {
    let net = Topology::new()?;
    ask_faster(&net.router, family, "to-server")?;
    let report = net.netdiag_run(&clients::connect(family.nobody(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.neighbour-unresolved")?.certain()?;
    diagnosis.errno(Some("EHOSTUNREACH"))?.has("/where/interface", "to-server")?;
    broke_in(says(diagnosis, &family.nobody(0).ip().to_string())?, &net.router)?;
    Ok(())
}

/// Python's limit of 2 s is over before the kernel has given up asking.
pub fn gave_up_before() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::python(Family::V4.absent_neighbour(8080), Some(2.0), 0))?;
    let diagnosis = report.exits(1)?.the_only("unreachable.neighbour-unresolved")?.errno(None)?;
    broke_in(diagnosis.has("/where/interface", "eth0")?, &net.client)?;
    Ok(())
}

/// The neighbour answers at once; its port is closed. Another address of that link has failed before.
pub fn port_closed() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        ask_faster(&net.client, family, "eth0")?;
        net.client.run(&clients::connect(family.absent_neighbour(8080))?)?.says("EHOSTUNREACH")?;
        port_is_closed(&net, SocketAddr::new(family.router(), 9304))?;
    }
    Ok(())
}
