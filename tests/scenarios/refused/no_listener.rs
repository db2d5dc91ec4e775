//! Nothing listens at the port, on this machine.

use std::time::Duration;

use anyhow::Result;
use netdiag_tests::clients::{self, nc, python};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::Run;
use netdiag_tests::servers;

use super::{ELSEWHERE, NO_LISTENER, PEER, run};

pub fn on_loopback(family: Family) -> Result<()> {
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

pub fn next_door(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&nc(family.server(18102), 2))?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?.errno(Some("ECONNREFUSED"))?;
    found.has("/where/netns_name", net.server.name())?.has("/where/netns", net.server.inode())?;
    found.has("/connection/netns", net.client.inode())?.mentions("/process/comm", "nc")?;
    Ok(())
}

pub fn udp(family: Family) -> Result<()> {
    let host = Namespace::new("host")?;
    let address = family.loopback(18103);
    let report = run(&host, &clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?)?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.errno(Some("ECONNREFUSED"))?;
    found.has("/connection/protocol", "udp")?.has("/connection/peer/port", 18103)?;
    found.has("/where/netns_name", host.name())?;
    Ok(())
}

pub fn bound_but_not_listening() -> Result<()> {
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18104);
    let _bound = host.spawn(&clients::steps(&format!("tcp bind={address} wait"))?)?;
    std::thread::sleep(Duration::from_millis(200));
    run(&host, &clients::connect(address)?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

pub fn only_udp_has_the_port() -> Result<()> {
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18105);
    let _server = servers::echo_udp(&host, address)?;
    run(&host, &clients::connect(address)?)?.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    Ok(())
}

pub fn grandchild() -> Result<()> {
    let host = Namespace::new("host")?;
    let command = clients::grandchild(&clients::connect(Family::V6.loopback(18106))?);
    let report = Run::outside(&host).command(&command)?;
    let found = report.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    found.has("/process/comm", "nd-client")?.has("/where/netns_name", host.name())?;
    Ok(())
}

pub fn somebody_listens() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(18107))?;
        net.netdiag_run(&clients::connect(family.server(18107))?)?.exits(0)?.nothing()?;
    }
    Ok(())
}

pub fn firewall_rejects(family: Family) -> Result<()> {
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
