//! Another machine has no listener.

use anyhow::Result;
use netdiag_tests::clients::{self, curl, python};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};

use super::{NO_LISTENER, PEER};

pub fn tcp(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let report = net.netdiag_run(&curl(family.remote(18118), 3.0))?;
    let found = report.exits(7)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?.has("/confidence", "likely")?;
    found.has("/where/side", "peer")?.mentions("/process/comm", "curl")?;
    found.has("/connection/peer/address", family.remote(0).ip().to_string())?;
    Ok(())
}

pub fn udp(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let address = family.remote(18119);
    let client = clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?;
    let report = net.netdiag_run(&client)?;
    let found = report.exits(1)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?;
    found.has("/connection/protocol", "udp")?.has("/where/side", "peer")?;
    Ok(())
}

pub fn nonblocking() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let client = clients::steps(&format!("tcp connect={},2000", Family::V4.remote(18120)))?;
    let report = net.netdiag_run(&client)?;
    report.exits(1)?.the_only(PEER)?.errno(Some("ECONNREFUSED"))?.has("/confidence", "likely")?;
    Ok(())
}

pub fn is_this_machine() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::connect(Family::V6.server(18121))?)?;
    report.exits(1)?.the_only(NO_LISTENER)?.certain()?.has("/where/side", "local")?;
    Ok(())
}

pub fn accepts() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(18122, Behaviour::Accept)])?;
    for family in Family::BOTH {
        let client = clients::steps(&format!("connect={} send=9 recv=9 close", family.remote(18122)))?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// To TCP over IPv4, "port unreachable" means ECONNREFUSED as well; but no host answers a SYN so.
pub fn router_sends_icmp() -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(18123, refuses)])?;
    let client = python(Family::V4.remote(18123), Some(3.0), 0);
    net.netdiag_run(&client)?.exits(1)?.never(PEER)?.never(NO_LISTENER)?;
    Ok(())
}
