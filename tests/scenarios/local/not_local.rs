//! The address is none of this machine.

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};

use super::NOT_LOCAL;

pub fn nobodys(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps(&format!("tcp bind={} listen=8", family.nobody(18214)))?)?;
    let found = report.exits(1)?.the_only(NOT_LOCAL)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.has("/connection/local/address", family.nobody(0).ip().to_string())?;
    found.has("/connection/call", "bind")?.has("/where/netns_name", net.client.name())?;
    Ok(())
}

/// The address exists on this machine, but in another namespace.
pub fn of_another_namespace() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps(&format!("udp bind={}", Family::V4.server(18215)))?)?;
    report.exits(1)?.the_only(NOT_LOCAL)?.certain()?.has("/connection/protocol", "udp")?;
    Ok(())
}

pub fn own_addresses() -> Result<()> {
    let net = Topology::new()?;
    let bind = |address: &str| format!("tcp bind={address} listen=8 close-listener");
    let steps =
        ["10.77.1.2:18216", "[fd77:1::2]:18216", "127.5.5.5:18216", "[::1]:18216"].map(bind).join(" ");
    net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    Ok(())
}

pub fn nonlocal_bind() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv4.ip_nonlocal_bind", "1")?;
    let steps = format!("tcp bind={} listen=8", Family::V4.nobody(18217));
    net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    Ok(())
}
