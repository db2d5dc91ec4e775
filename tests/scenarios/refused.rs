//! Scenarios of the symptom `refused`.

use anyhow::Result;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::scenario::Scenario;
use netdiag_tests::{clients, servers};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("refused.peer-no-listener", "v4", || peer_no_listener(Family::V4)),
    Scenario::hit("refused.peer-no-listener", "v6", || peer_no_listener(Family::V6)),
    Scenario::near_miss("refused.peer-no-listener", "somebody_listens", somebody_listens),
];

fn peer_no_listener(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    report.exits(1)?.the_only("refused.peer-no-listener")?.errno(Some("ECONNREFUSED"))?;
    Ok(())
}

fn somebody_listens() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&clients::connect(Family::V4.server(8080))?)?.exits(0)?.nothing()?;
    Ok(())
}
