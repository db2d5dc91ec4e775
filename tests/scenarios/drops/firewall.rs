//! Rules that drop in silence what nobody here asked for.

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients::curl;
use netdiag_tests::datagrams::Raw;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::Drop;
use netdiag_tests::servers;

use super::{PORT, during, raw, send};

const RULE: &str = "udp dport 8081 counter drop";

fn chain(hook: &str, rules: &str) -> String {
    format!("table inet fw {{ chain c {{ type filter hook {hook} priority 0; {rules}; }}; }}")
}

/// The second rule of the chain.
fn is_the_rule<'a>(drop: Drop<'a>, hook: &str) -> Result<Drop<'a>> {
    drop.has("/reason", "NETFILTER_DROP")?
        .has("/firewall/engine", "nftables")?
        .has("/firewall/hook", hook)?
        .has("/firewall/family", "inet")?
        .has("/firewall/table", "fw")?
        .has("/firewall/chain", "c")?
        .has("/firewall/handle", 3)?
        .has("/firewall/rule", RULE)?
        .has("/firewall/comment", "why not")?
        .has("/firewall/exact", true)
}

fn rules() -> String {
    format!("udp dport 9 drop; {RULE} comment \"why not\"")
}

pub fn inbound(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", &rules()))?;
    let report = during(&[], || send(&net, family, 5))?;
    let drop = report.the_only("drop.firewall", &net.namespaces())?.counts(5)?;
    is_the_rule(drop, "input")?
        .has("/sample/netns_name", net.server.name())?
        .has("/sample/direction", "inbound")?
        .has("/sample/interface", "eth0")?
        .has("/sample/destination/port", PORT)?
        .has("/where/stage", "netfilter")?
        .has("/process", ())?
        .has("/process_looked_up", true)?;
    let step = drop.at("/next_steps/0/command").as_str().context("no command")?;
    ensure!(step.ends_with("nft delete rule inet fw c handle 3"), "{step}");
    Ok(())
}

pub fn forwarded(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.nft(&chain("forward", &rules()))?;
    let report = during(&[], || send(&net, family, 5))?;
    let drop = report.the_only("drop.firewall", &net.namespaces())?.counts(5)?;
    is_the_rule(drop, "forward")?
        .has("/sample/netns_name", net.router.name())?
        .has("/sample/direction", "forwarded")?
        .has("/process", ())?;
    Ok(())
}

pub fn policy() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", "policy drop; meta l4proto { icmp, icmpv6 } accept; udp dport 9 drop"))?;
    let report = during(&[], || send(&net, Family::V4, 3))?;
    report
        .the_only("drop.firewall", &net.namespaces())?
        .counts(3)?
        .has("/firewall/policy", true)?
        .has("/firewall/handle", ())?;
    Ok(())
}

/// The packets were for a process, which never hears of them.
pub fn of_a_service() -> Result<()> {
    let net = Topology::new()?;
    let server = servers::echo_udp(&net.server, Family::V4.server(PORT))?;
    net.server.nft(&chain("input", &rules()))?;
    let report = during(&["--by", "process"], || send(&net, Family::V4, 3))?;
    report
        .the_only("drop.firewall", &net.namespaces())?
        .counts(3)?
        .has("/process/pid", server.pid())?
        .has("/process/comm", "nd-server")?;
    Ok(())
}

/// Of a protocol that no connection has: GRE.
pub fn other_protocol() -> Result<()> {
    let net = Topology::new()?;
    net.server
        .nft("table ip fw { chain c { type filter hook input priority 0; ip protocol gre drop; }; }")?;
    let gre = Raw { protocol: Some(47), ..raw("10.77.1.2".parse()?) };
    let report = during(&[], || gre.send(&net.client, 2))?;
    let drop = report.the_only("drop.firewall", &net.namespaces())?.counts(2)?;
    drop.has("/sample/protocol", "47")?.has("/firewall/rule", "ip protocol gre drop")?;
    Ok(())
}

/// The packets that this chain counts arrive; its drop is for another port.
pub fn counts_and_accepts() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", "tcp dport 8080 counter accept; udp dport 8081 drop"))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    let report = during(&[], || net.client.run(&curl(Family::V4.server(8080), 3.0))?.exits(0).map(drop))?;
    report.nothing(&net.namespaces())
}
