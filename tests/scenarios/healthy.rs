//! Nothing is wrong, and netdiag has nothing to say.

use anyhow::Result;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::{clients, servers};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::healthy("curl", curl).needs(&[Need::Tool("curl")]),
    Scenario::healthy("many_connections", many_connections),
];

fn curl() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::http(&net.server, family.server(80))?;
        net.netdiag_run(&clients::curl(family.server(80), 5.0))?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn many_connections() -> Result<()> {
    let net = Topology::new()?;
    let server = Family::V4.server(80);
    let _server = servers::echo(&net.server, server)?;
    net.netdiag_run(&clients::steps(&format!("churn=100,{server}"))?)?.exits(0)?.nothing()?;
    Ok(())
}
