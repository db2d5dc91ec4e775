//! A rule of this machine says no: with a RST or an ICMP error, in the peer's place.

use anyhow::Result;
use netdiag_tests::clients::{self, connect, nc};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report};
use netdiag_tests::servers;

use super::{NO_LISTENER, REJECT};

fn chain(hook: &str, rules: &str) -> String {
    format!("table inet fw {{ chain c {{ type filter hook {hook} priority 0; {rules}; }}; }}")
}

fn rejected<'a>(report: &'a Report, place: &Namespace, hook: &str) -> Result<Diagnosis<'a>> {
    let found = report.the_only(REJECT)?.errno(Some("ECONNREFUSED"))?;
    found
        .has("/where/netns", place.inode())?
        .has("/where/netns_name", place.name())?
        .has("/where/stage", "netfilter")?
        .has("/firewall/hook", hook)
}

/// With the rule's words.
fn named<'a>(report: &'a Report, place: &Namespace, hook: &str, words: &str) -> Result<Diagnosis<'a>> {
    rejected(report, place, hook)?
        .certain()?
        .has("/firewall/engine", "nftables")?
        .has("/firewall/family", "inet")?
        .has("/firewall/table", "fw")?
        .has("/firewall/chain", "c")?
        .has("/firewall/rule", words)?
        .has("/firewall/exact", true)?
        .mentions("/next_steps/0/command", "nft delete rule inet fw c handle ")
}

/// The service behind the rule would have answered.
pub fn with_reset(family: Family, hook: &str, port: u16) -> Result<()> {
    let net = Topology::new()?;
    let rule = format!("tcp dport {port} reject with tcp reset");
    let place = match hook {
        "output" => &net.client,
        "forward" => &net.router,
        _ => &net.server,
    };
    place.nft(&chain(hook, &format!("tcp dport 22 reject; {rule}")))?;
    let _server = servers::echo(&net.server, family.server(port))?;
    let report = net.netdiag_run(&nc(family.server(port), 2))?;
    named(report.exits(1)?, place, hook, &rule)?;
    Ok(())
}

pub fn with_icmp(family: Family, port: u16) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", &format!("tcp dport {port} counter reject")))?;
    let _server = servers::echo(&net.server, family.server(port))?;
    let report = net.netdiag_run(&connect(family.server(port))?)?;
    named(report.exits(1)?, &net.server, "input", &format!("tcp dport {port} counter reject"))?;
    Ok(())
}

/// The answer comes while connect() still holds the socket, which notes the error only; curl takes it with SO_ERROR.
pub fn told_by_a_noted_error(port: u16) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("output", &format!("tcp dport {port} counter reject")))?;
    let report = net.netdiag_run(&clients::curl(Family::V4.server(port), 5.0))?;
    named(report.exits(7)?, &net.client, "output", &format!("tcp dport {port} counter reject"))?;
    Ok(())
}

pub fn udp(family: Family, port: u16) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", &format!("udp dport {port} reject")))?;
    let address = family.server(port);
    let client = clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?;
    let report = net.netdiag_run(&client)?;
    let found = named(report.exits(1)?, &net.server, "input", &format!("udp dport {port} reject"))?;
    found.has("/connection/protocol", "udp")?;
    Ok(())
}

pub fn iptables(family: Family, variant: &str, with: &str, port: u16) -> Result<()> {
    let net = Topology::new()?;
    let program = format!("{}-{variant}", if family == Family::V4 { "iptables" } else { "ip6tables" });
    let rule = format!("{program} -A INPUT -p tcp --dport {port} -j REJECT{with}");
    net.server.run(&rule.split(' ').collect::<Vec<_>>())?.exits(0)?;
    let _server = servers::echo(&net.server, family.server(port))?;
    let report = net.netdiag_run(&connect(family.server(port))?)?;
    let found = rejected(report.exits(1)?, &net.server, "input")?;
    if variant == "nft" {
        found
            .certain()?
            .has("/firewall/engine", "iptables")?
            .has("/firewall/chain", "INPUT")?
            .has("/firewall/rule_number", 1)?
            .mentions("/firewall/rule", "-j REJECT")?
            .mentions("/next_steps/0/command", "-D INPUT")?;
        return Ok(());
    }
    found
        .has("/confidence", "likely")?
        .has("/firewall/engine", "iptables")?
        .has("/firewall/chain", "INPUT")?
        .has("/firewall/rule_number", 1)?
        .has("/firewall/exact", false)?
        .mentions("/firewall/rule", "-j REJECT")?
        .mentions("/next_steps/0/command", "-D INPUT")?;
    Ok(())
}

/// A limit drops the first SYN in silence; the next one meets no listener.
pub fn dropped_once_and_then_refused(port: u16) -> Result<()> {
    let net = Topology::new()?;
    let rule = format!("tcp dport {port} limit rate 1/hour burst 1 packets drop");
    net.client.nft(&chain("output", &rule))?;
    let report = net.netdiag_run(&connect(Family::V4.server(port))?)?;
    report.exits(1)?.the_only(NO_LISTENER)?;
    Ok(())
}

/// The rule rejects another port, and counts this one.
pub fn rule_for_other_port(port: u16) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("input", &format!("tcp dport {port} counter; tcp dport 9 reject")))?;
    let report = net.netdiag_run(&connect(Family::V6.server(port))?)?;
    report.exits(1)?.the_only(NO_LISTENER)?;
    Ok(())
}
