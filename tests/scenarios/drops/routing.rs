//! Drops by routing: nowhere to go, not allowed to go, or from where nothing can come.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netdiag_tests::datagrams;
use netdiag_tests::net::{Family, Topology};

use super::{PORT, during, inside, raw, send};

/// A source in the server's network, on the client's link.
const ASTRAY: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 77);

/// Let the neighbours be known before: the filter minds ARP requests, too.
fn acquainted(net: &Topology) -> Result<datagrams::Raw> {
    let own = raw(Ipv4Addr::new(10, 77, 1, 2));
    own.send(&net.client, 1)?;
    Ok(own)
}

pub fn reverse_path(setting: &str) -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    acquainted(&net)?;
    net.router.sysctl("net.ipv4.conf.to-client.rp_filter", setting)?;
    let report = during(&[], || raw(ASTRAY).send(&net.client, 4))?;
    if setting == "2" {
        return report.nothing(&net.namespaces());
    }
    report
        .the_only("drop.reverse-path-filter", &net.namespaces())?
        .counts(4)?
        .has("/reason", "IP_RPFILTER")?
        .has("/sample/netns_name", net.router.name())?
        .has("/sample/interface", "to-client")?
        .has("/sample/source/address", ASTRAY.to_string())?
        .has("/where/stage", "route")?;
    Ok(())
}

pub fn loopback_source() -> Result<()> {
    let net = Topology::new()?;
    acquainted(&net)?;
    let report = during(&[], || raw(Ipv4Addr::new(127, 0, 0, 9)).send(&net.client, 2))?;
    report
        .the_only("drop.martian", &net.namespaces())?
        .counts(2)?
        .has("/sample/netns_name", net.router.name())?
        .has("/sample/interface", "to-client")?;
    Ok(())
}

pub fn ordinary_source() -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    let own = acquainted(&net)?;
    let report = during(&[], || own.send(&net.client, 2))?;
    report.nothing(&net.namespaces())
}

/// The router throws it away, as every host does with groups that it did not join: nobody loses anything.
pub fn multicast_not_joined() -> Result<()> {
    let net = Topology::new()?;
    let group = "239.7.7.7:7".parse()?;
    let report = during(&[&inside(&net.router)], || datagrams::send(&net.client, group, 10, 2))?;
    report.nothing(&net.namespaces())?;
    let normal = report.normal(&[&net.router]);
    let told = normal.iter().any(|drop| drop.at("/sample/destination/address") == "239.7.7.7");
    ensure!(told, "{}", report.dump());
    Ok(())
}

pub fn forwarding_disabled(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let setting = if family == Family::V4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
    net.router.sysctl(setting, "0")?;
    let report = during(&[], || send(&net, family, 3))?;
    report
        .the_only("drop.forwarding-disabled", &net.namespaces())?
        .counts(3)?
        .has("/sample/netns_name", net.router.name())?
        .has("/sample/direction", "forwarded")?;
    Ok(())
}

pub fn no_route(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let to = if family == Family::V4 { "203.0.113.5:9" } else { "[fd99::5]:9" };
    let report = during(&[], || datagrams::send(&net.client, to.parse()?, 10, 3))?;
    report
        .the_only("drop.no-route", &net.namespaces())?
        .counts(3)?
        .has("/sample/netns_name", net.router.name())?
        .has("/sample/direction", "forwarded")?;
    Ok(())
}

/// The kernel gives no reason; the place says it.
pub fn unreachable_route() -> Result<()> {
    let net = Topology::new()?;
    net.router.ip("route add unreachable 203.0.113.0/24")?;
    let report = during(&[], || datagrams::send(&net.client, "203.0.113.5:9".parse()?, 10, 3))?;
    report.the_only("drop.no-route", &net.namespaces())?.counts(3)?;
    Ok(())
}

pub fn too_big(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.ip("link set to-server mtu 1300")?;
    let report = during(&[], || datagrams::send(&net.client, family.server(PORT), 1400, 1))?;
    report
        .the_only("drop.too-big", &net.namespaces())?
        .counts(1)?
        .has("/reason", "PKT_TOO_BIG")?
        .has("/sample/netns_name", net.router.name())?;
    Ok(())
}

pub fn fits() -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    net.router.ip("link set to-server mtu 1300")?;
    let report = during(&[], || datagrams::send(&net.client, Family::V4.server(PORT), 1200, 1))?;
    report.nothing(&net.namespaces())
}
