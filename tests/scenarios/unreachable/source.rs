//! Source addresses that may not be used on that way. Linux checks this in IPv4 only.

use anyhow::Result;
use netdiag_tests::net::{CLIENT_V4, Family, Topology};
use netdiag_tests::{clients, servers};

use super::{broke_in, says};

const CODE: &str = "unreachable.martian-source";

pub fn bound_to_loopback() -> Result<()> {
    let net = Topology::new()?;
    let steps = format!("tcp bind=127.0.0.1:0 connect={}", Family::V4.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?.errno(Some("EINVAL"))?;
    broke_in(says(diagnosis, "127.0.0.1")?, &net.client)?;
    Ok(())
}

/// The address goes away between bind() and connect(), as with a failover.
pub fn bound_address_gone() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("addr add 10.77.3.50/32 dev eth0")?;
    let steps = format!("tcp bind=10.77.3.50:0 sleep=700 connect={}", Family::V4.server(8080));
    let client = clients::steps(&steps)?.join(" ");
    let name = net.client.name();
    let script = format!("{client} & sleep 0.3; ip -n {name} addr del 10.77.3.50/32 dev eth0; wait $!");
    let report = net.netdiag_run(&["sh", "-c", &script].map(str::to_owned))?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?.errno(Some("ENETUNREACH"))?;
    broke_in(says(diagnosis, "10.77.3.50")?, &net.client)?;
    Ok(())
}

/// Two hosts with one address: the server takes the SYN for a forged one of its own.
pub fn server_has_it_too() -> Result<()> {
    let net = Topology::new()?;
    net.server.ip(&format!("addr add {CLIENT_V4}/32 dev lo"))?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&clients::curl(Family::V4.server(8080), 2.5))?;
    let diagnosis = report.exits(28)?.the_only(CODE)?.certain()?.errno(None)?;
    broke_in(diagnosis.has("/where/interface", "eth0")?, &net.server)?;
    says(diagnosis, &CLIENT_V4.to_string())?;
    Ok(())
}

/// The same at a router, which drops it before it is routed. The neighbours know each other already.
pub fn router_has_it_too() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    net.client.run(&clients::connect(Family::V4.server(8080))?)?.exits(0)?;
    net.router.ip(&format!("addr add {CLIENT_V4}/32 dev lo"))?;
    let report =
        net.netdiag_run(&clients::steps(&format!("tcp connect={},2500", Family::V4.server(8080)))?)?;
    let diagnosis = report.exits(3)?.the_only(CODE)?.certain()?.errno(None)?;
    broke_in(diagnosis.has("/where/interface", "to-client")?, &net.router)?;
    Ok(())
}

pub fn bound_to_a_valid_one() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("addr add 10.77.1.50/24 dev eth0")?;
    let steps = format!("tcp bind=10.77.1.50:0 connect={}", Family::V4.server(9308));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    report.exits(1)?.the_only("refused.no-listener")?;
    Ok(())
}

pub fn einval_of_a_blackhole() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("route add blackhole 10.77.2.0/24")?;
    let steps = format!("tcp bind={CLIENT_V4}:0 connect={}", Family::V4.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    report.exits(1)?.the_only("unreachable.blackhole-route")?.errno(Some("EINVAL"))?;
    Ok(())
}
