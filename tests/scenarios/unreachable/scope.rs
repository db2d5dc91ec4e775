//! Link-local addresses, which mean something only together with an interface.

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::Topology;

use super::{broke_in, says};

const CODE: &str = "unreachable.scope-missing";

pub fn connect() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps("tcp connect=[fe80::1]:8080")?)?;
    ensure!(report.stdout.contains("connect: EINVAL"), "{}", report.dump());
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?.errno(Some("EINVAL"))?;
    broke_in(says(diagnosis, "fe80::1%eth0")?, &net.client)?;
    Ok(())
}

pub fn bind() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps("tcp bind=[fe80::1]:8080")?)?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?.errno(Some("EINVAL"))?;
    says(diagnosis, "scope link")?;
    Ok(())
}

/// With its interface it goes out, to nobody.
pub fn with_its_interface() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps("tcp connect=[fe80::1%11]:8080,8000")?)?;
    report.never(CODE)?.the_only("unreachable.neighbour-unresolved")?;
    Ok(())
}
