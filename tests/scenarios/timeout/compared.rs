//! Rules that the kernel does not name: found by comparing the packet with the ruleset, and never certain.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients::{self, connect, curl};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Run};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::{process, servers};

use super::{PATIENCE, chain, happened_in, run_shell, run_steps, sure};

const SHORT: f64 = 0.5;
const DROP: &str = "-p tcp -m tcp --dport 8080 -j DROP";

/// Rules of iptables-legacy, or ip6tables-legacy.
fn legacy(namespace: &Namespace, family: Family, rules: &[&str]) -> Result<()> {
    let program = if family == Family::V4 { "iptables-legacy" } else { "ip6tables-legacy" };
    for rule in rules {
        let words: Vec<&str> = std::iter::once(program).chain(rule.split(' ')).collect();
        namespace.run(&words)?.exits(0)?;
    }
    Ok(())
}

/// One rule of a chain, and no other that fits.
fn likely<'a>(report: &'a Report, place: &Namespace, chain: &str, number: u64) -> Result<Diagnosis<'a>> {
    let diagnosis = report.the_only("timeout.firewall-drop")?.has("/confidence", "likely")?;
    happened_in(diagnosis, place)?
        .has("/firewall/engine", "iptables")?
        .has("/firewall/chain", chain)?
        .has("/firewall/rule_number", number)?
        .has("/firewall/handle", ())?
        .has("/firewall/policy", false)?
        .has("/firewall/exact", false)?
        .has("/firewall/candidates", ())
}

pub fn jumped_to(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let rules = [
        "-N mine",
        "-A OUTPUT -p tcp --dport 22 -j DROP",
        "-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A OUTPUT -o eth0 -j mine",
        "-A OUTPUT -j DROP",
        "-A mine -p udp -j DROP",
        "-A mine -p tcp -m multiport --dports 80,8000:9000 -m comment --comment by-hand -j DROP",
    ];
    legacy(&net.client, family, &rules)?;
    let server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let diagnosis = likely(report.exits(28)?, &net.client, "mine", 2)?
        .has("/firewall/family", family.nft())?
        .has("/firewall/table", "filter")?
        .has("/firewall/basis", "counter")?
        .has("/firewall/comment", "by-hand")?
        .mentions("/firewall/rule", "--dports 80,8000:9000")?;
    // The next step, pasted into a shell, is all that it takes; but for the rule behind it.
    let step = diagnosis.at("/next_steps/0/command").as_str().context("no command")?.to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", &step]);
    process::run(shell, Duration::from_secs(10))?.exits(0)?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    likely(report.exits(28)?, &net.client, "OUTPUT", 4)?;
    drop(server);
    Ok(())
}

/// Of two rules that may fit, one has counted nothing.
pub fn other_rule_never_counted() -> Result<()> {
    let net = Topology::new()?;
    legacy(&net.client, Family::V4, &["-A OUTPUT -m mark --mark 0x7 -j DROP", &format!("-A OUTPUT {DROP}")])?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), SHORT))?;
    likely(report.exits(28)?, &net.client, "OUTPUT", 2)?;
    Ok(())
}

/// Two rules of a chain may fit, and both have counted packets before.
fn two_that_counted(place: fn(&Topology) -> &Namespace, chain: &str) -> Result<Topology> {
    let net = Topology::new()?;
    let rules = [format!("-A {chain} -m length --length 100:1500 -j DROP"), format!("-A {chain} {DROP}")];
    legacy(place(&net), Family::V4, &rules.each_ref().map(String::as_str))?;
    net.client.run(&clients::steps(&format!("udp connect={} send=400", Family::V4.server(9)))?)?;
    let counted = place(&net).run(&["iptables-legacy-save", "-c"])?;
    ensure!(counted.stdout.contains("[1:428]"), "{}", counted.stdout);
    net.client.run(&clients::steps(&format!("tcp connect={},300", Family::V4.server(8080)))?)?;
    Ok(net)
}

/// Nothing was read of the server's counters before the only SYN came there.
pub fn either_of_two() -> Result<()> {
    let net = two_that_counted(|net| &net.server, "INPUT")?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), SHORT))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "possible")?;
    let diagnosis = happened_in(diagnosis, &net.server)?.has("/firewall/exact", false)?;
    let candidates = diagnosis.at("/firewall/candidates").as_array().context("no candidates")?;
    let numbers: Vec<_> = candidates.iter().map(|one| one["rule_number"].as_u64()).collect();
    ensure!(numbers == [Some(1), Some(2)], "{}", report.dump());
    Ok(())
}

/// What was counted before the first SYN tells which of them counts.
pub fn told_apart_by_counters() -> Result<()> {
    let net = two_that_counted(|net| &net.client, "OUTPUT")?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), SHORT))?;
    likely(report.exits(28)?, &net.client, "OUTPUT", 2)?.has("/firewall/basis", "counter")?;
    Ok(())
}

pub fn policy(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let rules = ["-P FORWARD DROP", "-A FORWARD -p tcp --dport 22 -j ACCEPT", "-A FORWARD -p udp -j DROP"];
    legacy(&net.router, family, &rules)?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "likely")?;
    happened_in(diagnosis, &net.router)?
        .has("/firewall/hook", "forward")?
        .has("/firewall/chain", "FORWARD")?
        .has("/firewall/policy", true)?
        .has("/firewall/rule_number", ())?
        .has("/firewall/exact", false)?;
    Ok(())
}

pub fn in_server(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let rule = format!("-A INPUT -i eth0 {DROP}");
    legacy(&net.server, family, &["-A INPUT -i lo -j DROP", &rule])?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    likely(report.exits(28)?, &net.server, "INPUT", 2)?.has("/firewall/hook", "input")?;
    Ok(())
}

/// The first table's rule for the same packet counts and goes on, the second's counts and accepts.
pub fn last_of_three_tables() -> Result<()> {
    let net = Topology::new()?;
    let rules = [
        "-t raw -A OUTPUT -p tcp --dport 8080",
        "-t mangle -A OUTPUT -p tcp --dport 8080 -j ACCEPT",
        "-A OUTPUT -p tcp --dport 22 -j DROP",
        &format!("-A OUTPUT {DROP}"),
    ];
    legacy(&net.client, Family::V4, &rules)?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    likely(report.exits(28)?, &net.client, "OUTPUT", 2)?.has("/firewall/table", "filter")?;
    Ok(())
}

/// Another rule has its place when that is told.
pub fn replaced_meanwhile() -> Result<()> {
    let net = Topology::new()?;
    legacy(&net.client, Family::V4, &[&format!("-A OUTPUT {DROP}")])?;
    let replace = "iptables-legacy -R OUTPUT 1 -p tcp --dport 9999 -j DROP";
    let script = format!("(sleep 1.2; {replace}) & exec \"$1\" tcp connect={},1400", Family::V4.server(8080));
    let report = run_shell(&net, &script)?;
    likely(&report, &net.client, "OUTPUT", 1)?
        .mentions("/firewall/rule", "--dport 8080")?
        .has("/firewall/removed", true)?
        .mentions("/next_steps/0/command", "iptables-legacy -t filter -nvL OUTPUT")?;
    Ok(())
}

/// The same rule in the same place of another namespace drops the same flow there.
pub fn same_rule_elsewhere() -> Result<()> {
    let (net, other) = (Topology::new()?, Topology::new()?);
    let rule = format!("-A OUTPUT {DROP}");
    legacy(&other.client, Family::V4, &["-A OUTPUT -p udp -j DROP", "-A OUTPUT -p icmp -j DROP", &rule])?;
    legacy(&net.client, Family::V4, &["-A OUTPUT -p udp -j DROP", &rule])?;
    let address = Family::V4.server(8080);
    let _noise = other.client.spawn(&connect(address)?)?;
    let report = run_steps(&net, &format!("tcp connect={address},1400"))?;
    likely(report.exits(3)?, &net.client, "OUTPUT", 2)?;
    Ok(())
}

pub fn rule_for_other_port() -> Result<()> {
    let net = Topology::new()?;
    legacy(&net.client, Family::V4, &["-A OUTPUT -p tcp --dport 8081 -j DROP"])?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn rule_counts_and_accepts() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    let rules = ["-A OUTPUT -p tcp --dport 8080 -j ACCEPT", "-A OUTPUT -p tcp --dport 9999 -j DROP"];
    legacy(&net.client, Family::V4, &rules)?;
    let report = net.netdiag_run(&curl(Family::V4.remote(8080), PATIENCE))?;
    sure(report.exits(28)?.the_only("timeout.no-reply")?)?.has("/firewall", ())?;
    Ok(())
}

/// netdiag may not read the kernel's memory: nftables' rules are compared, too.
fn without_memory(net: &Topology, words: &[String]) -> Result<Report> {
    Run::inside(&net.client).showing(&[&net.router, &net.server]).options(&["--no-peek"]).command(words)
}

pub fn nft_rule(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let set = "set ports { type inet_service; flags interval; elements = { 1-10, 8000-9000 }; }";
    let sub = "chain sub { udp dport 8080 drop; meta mark 7 drop; tcp dport @ports counter drop comment \"why not\"; }";
    let base = "chain c { type filter hook output priority 0; policy drop; ct state established accept; meta l4proto tcp jump sub; }";
    net.client.nft(&format!("table inet fw {{ {set}\n{sub}\n{base}\n }}"))?;
    let report = without_memory(&net, &curl(family.server(8080), PATIENCE))?;
    // Rules without a counter cannot be told apart by counting.
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "possible")?;
    let diagnosis = happened_in(diagnosis, &net.client)?
        .has("/firewall/engine", "nftables")?
        .has("/firewall/hook", "output")?
        .has("/firewall/exact", false)?;
    let candidates = diagnosis.at("/firewall/candidates").as_array().context("no candidates")?;
    let rules: Vec<_> = candidates.iter().filter_map(|one| one["rule"].as_str()).collect();
    ensure!(rules.len() == 2 && rules[1].starts_with("tcp dport @ports"), "{}", report.dump());

    net.client.nft(
        "flush chain inet fw sub; add rule inet fw sub tcp dport @ports counter drop comment \"why not\";",
    )?;
    let report = without_memory(&net, &curl(family.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "likely")?;
    happened_in(diagnosis, &net.client)?
        .has("/firewall/chain", "sub")?
        .has("/firewall/table", "fw")?
        .has("/firewall/comment", "why not")?
        .has("/firewall/exact", false)?
        .mentions("/firewall/rule", "tcp dport @ports counter drop")?;
    Ok(())
}

/// What the kernel's evaluation leaves unnamed on some kernels.
pub fn nft_policy_after_return() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", "policy drop; tcp dport 8080 return; accept"))?;
    let report = without_memory(&net, &curl(Family::V6.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "likely")?;
    happened_in(diagnosis, &net.client)?
        .has("/firewall/chain", "c")?
        .has("/firewall/policy", true)?
        .has("/firewall/exact", false)?;
    Ok(())
}

/// The first table's rule for the same packet counts and accepts.
pub fn nft_second_of_two_tables() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(
        "table inet other { chain c { type filter hook output priority -5; tcp dport 8080 counter accept; }; }",
    )?;
    net.client.nft("table ip6 six { chain c { type filter hook output priority -5; drop; }; }")?;
    net.client.nft(&chain("inet", "output", "tcp dport 8081 drop; tcp dport 8080 drop"))?;
    let report = without_memory(&net, &curl(Family::V4.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.has("/confidence", "likely")?;
    happened_in(diagnosis, &net.client)?
        .has("/firewall/table", "fw")?
        .has("/firewall/rule", "tcp dport 8080 drop")?
        .mentions("/next_steps/0/command", "nft delete rule inet fw c handle ")?;
    Ok(())
}

fn tables(net: &Topology) -> Result<String> {
    let mut all = String::new();
    for namespace in [&net.client, &net.router, &net.server] {
        all += &namespace.run(&["nft", "list", "tables"])?.stdout;
    }
    Ok(all)
}

fn is_traced(net: &Topology) -> Result<bool> {
    Ok(tables(net)?.contains("netdiag_trace_"))
}

fn until_is_traced(net: &Topology, wanted: bool) -> Result<()> {
    let start = Instant::now();
    while is_traced(net)? != wanted {
        ensure!(start.elapsed() < process::patience(Duration::from_secs(6)), "tables: {}", tables(net)?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Nothing that comparing could tell apart; the trace of the second SYN can.
fn alike(family: Family) -> Result<Topology> {
    let net = Topology::new()?;
    let rules = "meta mark 7 drop; ct state invalid drop; tcp dport 8080 drop comment \"the one\"; tcp dport 8080 drop";
    net.router.nft(&chain(family.nft(), "forward", rules))?;
    Ok(net)
}

/// In seconds. The table must stand when a SYN is sent again: on a machine that is slow that may be the third.
fn until_traced() -> f64 {
    if process::is_slow() { 8.0 } else { PATIENCE }
}

pub fn traced_rule(family: Family) -> Result<()> {
    let net = alike(family)?;
    let before = tables(&net)?;
    let report = Run::inside(&net.client)
        .showing(&[&net.router, &net.server])
        .options(&["--no-peek", "--trace-rules"])
        .command(&curl(family.server(8080), until_traced()))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?;
    happened_in(diagnosis, &net.router)?
        .has("/firewall/hook", "forward")?
        .has("/firewall/table", "fw")?
        .has("/firewall/comment", "the one")?
        .has("/firewall/rule", "tcp dport 8080 drop")?
        .has("/firewall/exact", true)?
        .has("/firewall/basis", "trace")?
        .has("/firewall/candidates", ())?;
    ensure!(report.stderr.contains("netdiag_trace_"), "it does not say what it adds\n{}", report.dump());
    let after = tables(&net)?;
    ensure!(after == before, "tables were {before}, now are {after}");
    Ok(())
}

pub fn traced_policy() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", "policy drop; tcp dport 8080 return; accept"))?;
    let report = Run::inside(&net.client)
        .options(&["--no-peek", "--trace-rules"])
        .command(&curl(Family::V4.server(8080), until_traced()))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?;
    diagnosis.has("/firewall/policy", true)?.has("/firewall/exact", true)?.has("/firewall/chain", "c")?;
    Ok(())
}

/// The command's flow is traced, and not that of somebody else to the same address in a network of its own.
pub fn traced_alone() -> Result<()> {
    let (net, other) = (alike(Family::V4)?, alike(Family::V4)?);
    let before = tables(&other)?;
    let address = Family::V4.server(8080);
    let noise = other.client.spawn(&clients::steps(&format!("tcp connect={address},60000"))?)?;
    let client = clients::steps(&format!("tcp connect={address},60000"))?;
    let mut words = vec!["--no-peek", "run", "--trace-rules", "--"];
    words.extend(client.iter().map(String::as_str));
    let binary = netdiag_tests::netdiag::binary().context("no netdiag binary")?;
    let binary = binary.to_string_lossy();
    words.insert(0, &binary);
    let traced = net.client.spawn(&words)?;
    until_is_traced(&net, true)?;
    let others = tables(&other)?;
    ensure!(others == before, "traced as well: {others}");
    drop((traced, noise));
    Ok(())
}

/// Where the kernel names the rule itself nothing is added, and what was added goes with netdiag, however it ends.
pub fn trace_leaves_nothing() -> Result<()> {
    let net = alike(Family::V4)?;
    let before = tables(&net)?;
    let binary = netdiag_tests::netdiag::binary().context("no netdiag binary")?;
    let words = |option: &str| -> Result<Vec<String>> {
        let own = [&binary.to_string_lossy(), "run", "--trace-rules", option, "--"].map(str::to_owned);
        let client = clients::steps(&format!("tcp connect={},60000", Family::V4.server(8080)))?;
        Ok(own.into_iter().filter(|word| !word.is_empty()).chain(client).collect())
    };
    let traced = net.client.spawn(&words("--no-peek")?)?;
    until_is_traced(&net, true)?;
    traced.signal(nix::sys::signal::Signal::SIGKILL)?;
    until_is_traced(&net, false)?;
    let after = tables(&net)?;
    ensure!(after == before, "tables were {before}, now are {after}");
    drop(traced);

    let named = net.client.spawn(&words("")?)?;
    std::thread::sleep(Duration::from_secs_f64(until_traced()));
    ensure!(!is_traced(&net)?, "{}", tables(&net)?);
    drop(named);
    Ok(())
}
