//! A program that tries IPv6 where there is none.

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};

use super::{broke_in, port_is_closed, says};

const CODE: &str = "unreachable.no-ipv6";

pub fn v4_only() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip_batch(
        "route del default via fd77:1::1
         addr del fd77:1::2/64 dev eth0",
    )?;
    let report = net.netdiag_run(&clients::curl(Family::V6.server(8080), 3.0))?;
    let diagnosis = report.exits(7)?.the_only(CODE)?.certain()?.errno(Some("ENETUNREACH"))?;
    broke_in(says(diagnosis, "no global IPv6 address")?, &net.client)?;
    Ok(())
}

pub fn disabled() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let report = net.netdiag_run(&clients::python(Family::V6.server(8080), None, 0))?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?;
    broke_in(says(diagnosis, "disable_ipv6")?, &net.client)?;
    Ok(())
}

/// The classic of containers: `localhost` is ::1 first, and there is none. With a default route ::1 would
/// be looked for out there.
pub fn localhost() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
    net.client.ip("-6 route del default")?;
    let report = net.netdiag_run(&clients::connect(Family::V6.loopback(8080))?)?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?;
    says(diagnosis, "net.ipv6.conf.lo.disable_ipv6")?;
    Ok(())
}

pub fn port_closed() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::nc(Family::V6.server(9307), 3))?;
    report.exits(1)?.the_only("refused.no-listener")?;
    Ok(())
}

/// IPv6 is off, and nobody asked for it.
pub fn to_ipv4_while_disabled() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    port_is_closed(&net, Family::V4.server(9306))
}
