//! Which rule it was: by handle, exactly, with its words and a command that takes it away.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients::{connect, curl, nc};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Run};
use netdiag_tests::process;
use netdiag_tests::scenario::skip;
use netdiag_tests::servers;

use super::{PATIENCE, chain, happened_in, run_shell, run_steps, sure_of_policy};

const DROP: &str = "tcp dport 8080 drop";

/// What is to be named.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    namespace: &'a Namespace,
    family: &'a str,
    chain: &'a str,
    hook: &'a str,
}

/// The handle that nft gives the rule with these words.
fn handle(namespace: &Namespace, words: &str) -> Result<u64> {
    let listing = namespace.run(&["nft", "-a", "-s", "list", "ruleset"])?.stdout;
    let mut found =
        listing.lines().filter_map(|line| line.trim().strip_prefix(words)?.rsplit_once("# handle "));
    let (_, number) = found.next().with_context(|| format!("no rule {words:?} in {listing}"))?;
    ensure!(found.next().is_none(), "several rules {words:?} in {listing}");
    Ok(number.parse()?)
}

fn drops<'a>(report: &'a Report, place: Place<'_>) -> Result<Diagnosis<'a>> {
    located(report, place)?.certain()?.has("/firewall/exact", true)
}

fn located<'a>(report: &'a Report, place: Place<'_>) -> Result<Diagnosis<'a>> {
    let diagnosis = report.the_only("timeout.firewall-drop")?;
    happened_in(diagnosis, place.namespace)?
        .has("/firewall/engine", "nftables")?
        .has("/firewall/hook", place.hook)?
        .has("/firewall/family", place.family)?
        .has("/firewall/table", "fw")?
        .has("/firewall/chain", place.chain)
}

/// The rule with these words dropped it.
fn named<'a>(report: &'a Report, place: Place<'_>, words: &str) -> Result<Diagnosis<'a>> {
    let diagnosis = drops(report, place)?
        .has("/firewall/policy", false)?
        .has("/firewall/rule", words)?
        .has("/firewall/handle", handle(place.namespace, words)?)?;
    diagnosis.mentions("/next_steps/0/command", "nft delete rule")
}

/// The chain's policy did.
fn by_policy<'a>(report: &'a Report, place: Place<'_>) -> Result<Diagnosis<'a>> {
    sure_of_policy(located(report, place)?)?
        .has("/firewall/policy", true)?
        .has("/firewall/handle", ())?
        .has("/firewall/rule", ())
}

/// curl runs into these rules of the client's output hook.
fn in_output(rules: &str, of_chain: &str, words: Option<&str>) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(rules)?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.client, family: "inet", chain: of_chain, hook: "output" };
    match words {
        Some(words) => named(report.exits(28)?, place, words)?,
        None => by_policy(report.exits(28)?, place)?,
    };
    Ok(())
}

/// A chain `c` at the output hook, with what it needs before it.
fn output_chain(before: &str, rules: &str) -> String {
    format!("table inet fw {{ {before}\nchain c {{ type filter hook output priority 0; {rules}\n }}\n }}")
}

pub fn base_chain() -> Result<()> {
    let rules = output_chain("", "tcp dport 22 drop; tcp dport 8080 drop; tcp dport 8081 drop;");
    in_output(&rules, "c", Some(DROP))
}

pub fn jumped_to(how: &str) -> Result<()> {
    let deep = "chain deep { udp dport 1 drop; tcp dport 8080 counter drop comment \"why not\"; }";
    let sub = format!("chain sub {{ tcp dport 1 accept; {how} deep; }}");
    let rules = output_chain(&format!("{deep}\n{sub}"), "policy drop; jump sub; tcp dport 22 accept;");
    let net = Topology::new()?;
    net.client.nft(&rules)?;
    let report = net.netdiag_run(&curl(Family::V6.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.client, family: "inet", chain: "deep", hook: "output" };
    named(report.exits(28)?, place, "tcp dport 8080 counter drop")?.has("/firewall/comment", "why not")?;
    Ok(())
}

pub fn verdict_map(policy: &str) -> Result<()> {
    let map = "tcp dport vmap { 22 : accept, 8080 : drop }";
    in_output(&output_chain("", &format!("policy {policy}; tcp dport 23 drop; {map}")), "c", Some(map))
}

pub fn named_set() -> Result<()> {
    let set = "set ports { type inet_service; flags interval; elements = { 1-10, 8000-9000 }; }";
    let rule = "tcp dport @ports drop";
    in_output(&output_chain(set, &format!("ip6 nexthdr tcp drop; {rule};")), "c", Some(rule))
}

pub fn limit() -> Result<()> {
    let rule = "tcp dport 8080 limit rate over 1/hour burst 1 packets drop";
    let net = Topology::new()?;
    net.client.nft(&output_chain("", &format!("{rule};")))?;
    // One passes.
    net.client.run(&nc(Family::V4.server(8080), 1))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.client, family: "inet", chain: "c", hook: "output" };
    let diagnosis = drops(report.exits(28)?, place)?;
    diagnosis.has("/firewall/handle", handle(&net.client, "tcp dport 8080 limit rate over 1/hour")?)?;
    Ok(())
}

pub fn connection_state() -> Result<()> {
    let rule = "ct state new tcp dport 8080 counter drop";
    in_output(&output_chain("", &format!("ct state established accept; {rule};")), "c", Some(rule))
}

pub fn policy_behind_rules() -> Result<()> {
    in_output(
        &output_chain("", "policy drop; meta l4proto icmp accept; tcp dport 22 accept; udp dport 1 drop;"),
        "c",
        None,
    )
}

/// The last rule could have dropped it, had it been another port.
pub fn policy_behind_a_verdict_map() -> Result<()> {
    in_output(&output_chain("", "policy drop; tcp dport vmap { 22 : accept, 25 : drop }"), "c", None)
}

/// On some kernels the frames do not tell it; then it is found by comparing.
pub fn policy_after_return() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&output_chain("", "policy drop; tcp dport 8080 return; accept;"))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?;
    let exact = diagnosis.at("/firewall/exact") == true;
    happened_in(diagnosis, &net.client)?
        .has("/confidence", if exact { "certain" } else { "likely" })?
        .has("/firewall/table", "fw")?
        .has("/firewall/chain", "c")?
        .has("/firewall/policy", true)?;
    Ok(())
}

pub fn ingress(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("netdev", "ingress device eth0", DROP))?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.server, family: "netdev", chain: "c", hook: "ingress" };
    named(report.exits(28)?, place, DROP)?;
    Ok(())
}

pub fn egress() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("netdev", "egress device eth0", DROP))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.client, family: "netdev", chain: "c", hook: "egress" };
    named(report.exits(28)?, place, DROP)?;
    Ok(())
}

/// Client and server on one link, with a bridge between them that has rules.
pub fn bridge(family: Family) -> Result<()> {
    let [client, bridge, server] = Namespace::several(["client", "bridge", "server"])?;
    if bridge.ip("link add br0 type bridge").is_err() {
        return skip("no bridge");
    }
    bridge.ip("link set br0 up")?;
    for (end, port) in [(&client, "p1"), (&server, "p2")] {
        bridge.ip(&format!("link add {port} type veth peer name eth0 netns {}", end.name()))?;
        bridge.ip(&format!("link set {port} master br0 up"))?;
    }
    for (end, host) in [(&client, 1), (&server, 2)] {
        end.ip_batch(&format!(
            "addr add 10.77.9.{host}/24 dev eth0
             addr add fd77:99::{host}/64 dev eth0 nodad
             link set eth0 up"
        ))?;
    }
    if bridge.nft(&chain("bridge", "forward", &format!("udp dport 8080 drop; {DROP}"))).is_err() {
        return skip("no nftables for bridges");
    }
    let address = if family == Family::V4 { "10.77.9.2:8080" } else { "[fd77:99::2]:8080" }.parse()?;
    let _server = servers::http(&server, address)?;
    let report = Run::inside(&client).showing(&[&bridge, &server]).command(&curl(address, PATIENCE))?;
    let place = Place { namespace: &bridge, family: "bridge", chain: "c", hook: "forward" };
    named(report.exits(28)?, place, DROP)?;
    Ok(())
}

pub fn iptables(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let program = if family == Family::V4 { "iptables-nft" } else { "ip6tables-nft" };
    let rules = [
        "-N mine",
        "-A OUTPUT -p tcp --dport 22 -j ACCEPT",
        "-A OUTPUT -j mine",
        "-A mine -p udp -j DROP",
        "-A mine -p tcp --dport 8080 -m conntrack --ctstate NEW -m comment --comment by-hand -j DROP",
    ];
    for rule in rules {
        let words: Vec<&str> = std::iter::once(program).chain(rule.split(' ')).collect();
        net.client.run(&words)?.exits(0)?;
    }
    let server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?;
    let diagnosis = happened_in(diagnosis, &net.client)?
        .has("/firewall/engine", "iptables")?
        .has("/firewall/family", family.nft())?
        .has("/firewall/table", "filter")?
        .has("/firewall/chain", "mine")?
        .has("/firewall/rule_number", 2)?
        .has("/firewall/comment", "by-hand")?
        .has("/firewall/exact", true)?
        .mentions("/firewall/rule", "--dport 8080")?;
    ensure!(diagnosis.at("/firewall/handle").is_u64(), "{}", report.dump());
    mends(&net, diagnosis, family)?;
    drop(server);
    Ok(())
}

/// The first of the next steps, pasted into a shell, is all that it takes.
fn mends(net: &Topology, diagnosis: Diagnosis<'_>, family: Family) -> Result<()> {
    let step = diagnosis.at("/next_steps/0/command").as_str().context("no command")?.to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", &step]);
    process::run(shell, Duration::from_secs(10))?.exits(0)?;
    net.netdiag_run(&curl(family.server(8080), 4.0))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn deleted_as_told(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.nft(&chain(family.nft(), "forward", DROP))?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.router, family: family.nft(), chain: "c", hook: "forward" };
    mends(&net, named(report.exits(28)?, place, DROP)?, family)
}

/// The first table's rule for the same packet counts and accepts.
pub fn second_of_two_tables() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(
        "table inet other { chain c { type filter hook output priority -5; tcp dport 8080 counter accept; }; }",
    )?;
    net.client.nft("table ip fw { chain c { type filter hook output priority 0; tcp dport 22 drop; }; }")?;
    net.client.nft(&chain("inet", "output", DROP))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    let place = Place { namespace: &net.client, family: "inet", chain: "c", hook: "output" };
    named(report.exits(28)?, place, DROP)?;
    Ok(())
}

/// Rules before it match, count, and go on.
pub fn counted_before() -> Result<()> {
    let rules = "tcp dport 8080 counter; meta l4proto tcp counter continue; tcp dport 8080 drop;";
    in_output(&output_chain("", rules), "c", Some(DROP))
}

/// The rule that dropped it is told, although another has its place when that is told.
pub fn replaced_meanwhile() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", DROP))?;
    let old = handle(&net.client, DROP)?;
    let replace = format!("nft replace rule inet fw c handle {old} tcp dport 9999 drop");
    let script = format!("(sleep 1.2; {replace}) & exec \"$1\" tcp connect={},1400", Family::V4.server(8080));
    let report = run_shell(&net, &script)?;
    let place = Place { namespace: &net.client, family: "inet", chain: "c", hook: "output" };
    drops(&report, place)?
        .has("/firewall/handle", old)?
        .has("/firewall/rule", DROP)?
        .has("/firewall/removed", true)?
        .mentions("/next_steps/0/command", "nft -a list chain inet fw c")?;
    ensure!(handle(&net.client, "tcp dport 9999 drop")? == old, "the handle alone tells them apart");
    Ok(())
}

/// The same rule in the same table of another namespace, under another handle, drops the same flow there.
pub fn same_rule_elsewhere() -> Result<()> {
    let (net, other) = (Topology::new()?, Topology::new()?);
    other.client.nft(&output_chain(
        "",
        "tcp dport 1 drop; tcp dport 2 drop; tcp dport 3 drop; tcp dport 8080 drop;",
    ))?;
    net.client.nft(&output_chain("", "tcp dport 1 drop; tcp dport 8080 drop;"))?;
    let address = Family::V4.server(8080);
    let _noise = other.client.spawn(&connect(address)?)?;
    let report = run_steps(&net, &format!("tcp connect={address},1400"))?;
    let place = Place { namespace: &net.client, family: "inet", chain: "c", hook: "output" };
    named(report.exits(3)?, place, DROP)?;
    ensure!(handle(&other.client, DROP)? != handle(&net.client, DROP)?, "the handles are the same");
    Ok(())
}
