//! Scenarios of the symptom `timeout`.

use anyhow::Result;
use netdiag_tests::clients::curl;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;

const CURL: &[Need] = &[Need::Tool("curl")];
const CURL_NFT: &[Need] = &[Need::Tool("curl"), Need::Nftables];
const CURL_TUN: &[Need] = &[Need::Tool("curl"), Need::Tun];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("timeout.firewall-drop", "v4", || firewall_drop(Family::V4)).needs(CURL_NFT),
    Scenario::hit("timeout.firewall-drop", "v6", || firewall_drop(Family::V6)).needs(CURL_NFT),
    Scenario::near_miss("timeout.firewall-drop", "rule_for_other_port", rule_for_other_port).needs(CURL_NFT),
    Scenario::hit("timeout.no-reply", "v4", || no_reply(Family::V4)).needs(CURL_TUN),
    Scenario::hit("timeout.no-reply", "v6", || no_reply(Family::V6)).needs(CURL_TUN),
    Scenario::near_miss("timeout.no-reply", "server_answers", server_answers).needs(CURL),
];

fn drop_rule(port: u16) -> String {
    format!("table inet fw {{ chain out {{ type filter hook output priority 0; tcp dport {port} drop; }}; }}")
}

fn firewall_drop(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&drop_rule(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), 2.5))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?.errno(None)?;
    diagnosis.has("/firewall/table", "fw")?.has("/firewall/hook", "output")?;
    diagnosis.mentions("/firewall/rule", "tcp dport 8080 drop")?;
    Ok(())
}

fn rule_for_other_port() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&drop_rule(8081))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

fn no_reply(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&curl(family.remote(80), 2.5))?;
    report.exits(28)?.the_only("timeout.no-reply")?.errno(None)?;
    Ok(())
}

fn server_answers() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::http(&net.server, Family::V6.server(8080))?;
    net.netdiag_run(&curl(Family::V6.server(8080), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}
