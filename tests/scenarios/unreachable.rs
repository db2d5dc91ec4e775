//! Scenarios of the symptom `unreachable`.

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};
use netdiag_tests::scenario::{Need, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("unreachable.icmp-unreachable", "v4", || icmp_unreachable(Family::V4)).needs(&[Need::Tun]),
    Scenario::hit("unreachable.icmp-unreachable", "v6", || icmp_unreachable(Family::V6)).needs(&[Need::Tun]),
];

fn icmp_unreachable(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let unreachable = Behaviour::Icmp { kind: IcmpKind::HostUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(80, unreachable)])?;
    let report = net.netdiag_run(&clients::connect(family.remote(80))?)?;
    report.exits(1)?.the_only("unreachable.icmp-unreachable")?.errno(Some("EHOSTUNREACH"))?;
    Ok(())
}
