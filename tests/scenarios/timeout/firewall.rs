//! A rule, somewhere on this machine, drops the SYN.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use netdiag_tests::clients::{connect, curl, nc, python};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::scenario::skip;
use netdiag_tests::servers;

use super::{PATIENCE, chain, happened_in, run_steps, sure, sure_of_policy};

const DROP: &str = "tcp dport 8080 drop";

/// The rule in `place` explains it; the service behind it would have answered.
fn dropped_by_nft<'a>(report: &'a Report, place: &Namespace, hook: &str) -> Result<Diagnosis<'a>> {
    located(report, place, hook)?.certain()?.has("/firewall/exact", true)
}

fn located<'a>(report: &'a Report, place: &Namespace, hook: &str) -> Result<Diagnosis<'a>> {
    let diagnosis = report.the_only("timeout.firewall-drop")?;
    happened_in(diagnosis, place)?
        .has("/where/stage", "netfilter")?
        .has("/firewall/hook", hook)?
        .has("/firewall/engine", "nftables")?
        .has("/firewall/table", "fw")?
        .has("/firewall/chain", "c")
}

pub fn output(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", DROP))?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    dropped_by_nft(report.exits(28)?, &net.client, "output")?.errno(None)?.has("/process/comm", "curl")?;
    Ok(())
}

pub fn rule_in_its_family(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let (table, address) = (family.nft(), family.server(0).ip());
    let rules = format!("tcp dport 22 accept; {table} daddr {address} tcp dport 8080 counter drop");
    net.client.nft(&chain(table, "output", &rules))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    dropped_by_nft(report.exits(28)?, &net.client, "output")?;
    Ok(())
}

/// MPTCP, which some programs ask for by default, has a socket of its own above that of TCP: one connection all the same,
/// and none to tell of where nothing is wrong.
pub fn mptcp() -> Result<()> {
    const CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.settimeout(float(sys.argv[3]))
s.connect((sys.argv[1], int(sys.argv[2])))
s.sendall(b"x")
s.recv(1)
s.close()
"#;
    let net = Topology::new()?;
    let address = Family::V4.server(8080);
    let _server = servers::echo(&net.server, address)?;
    let client =
        |limit: &str| ["python3", "-c", CLIENT, &address.ip().to_string(), "8080", limit].map(str::to_owned);
    net.netdiag_run(&client("9"))?.exits(0)?.nothing()?;
    net.router.nft(&chain("inet", "forward", DROP))?;
    let report = net.netdiag_run(&client(&PATIENCE.to_string()))?;
    dropped_by_nft(report.exits(1)?, &net.router, "forward")?;
    Ok(())
}

pub fn policy() -> Result<()> {
    let net = Topology::new()?;
    let rules = "policy drop; icmpv6 type != 0 accept; tcp dport 443 accept";
    net.client.nft(&chain("inet", "output", rules))?;
    let report = net.netdiag_run(&curl(Family::V6.server(8080), PATIENCE))?;
    sure_of_policy(located(report.exits(28)?, &net.client, "output")?)?.has("/firewall/policy", true)?;
    Ok(())
}

pub fn kernel_gives_up() -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    net.client.nft(&chain("ip", "output", DROP))?;
    let report = net.netdiag_run(&connect(Family::V4.server(8080))?)?;
    dropped_by_nft(report.exits(1)?, &net.client, "output")?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

pub fn in_server(family: Family, hook: &str) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("inet", hook, DROP))?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&python(family.server(8080), Some(PATIENCE), 0))?;
    dropped_by_nft(report.exits(1)?, &net.server, hook)?.errno(None)?;
    Ok(())
}

pub fn in_router(family: Family, hook: &str) -> Result<()> {
    let net = Topology::new()?;
    net.router.nft(&chain(family.nft(), hook, DROP))?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&nc(family.server(8080), 2))?;
    dropped_by_nft(report.exits(1)?, &net.router, hook)?.errno(None)?;
    Ok(())
}

pub fn postrouting(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "postrouting", "oifname eth0 tcp dport 8080 drop"))?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    dropped_by_nft(report.exits(28)?, &net.client, "postrouting")?.errno(None)?;
    Ok(())
}

pub fn ingress() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("netdev", "ingress device eth0", DROP))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), PATIENCE))?;
    dropped_by_nft(report.exits(28)?, &net.server, "ingress")?.errno(None)?;
    Ok(())
}

pub fn iptables(family: Family, variant: &str) -> Result<()> {
    let net = Topology::new()?;
    let program = format!("{}-{variant}", if family == Family::V4 { "iptables" } else { "ip6tables" });
    let rule = "-A OUTPUT -p tcp --dport 8080 -j DROP";
    let words: Vec<&str> = std::iter::once(program.as_str()).chain(rule.split(' ')).collect();
    net.client.run(&words)?.exits(0)?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.firewall-drop")?.errno(None)?;
    happened_in(diagnosis, &net.client)?
        .has("/confidence", if variant == "nft" { "certain" } else { "likely" })?
        .has("/firewall/hook", "output")?
        .has("/firewall/engine", "iptables")?
        .has("/firewall/chain", "OUTPUT")?
        .has("/firewall/rule_number", 1)?
        .has("/firewall/exact", variant == "nft")?;
    Ok(())
}

/// Too short for a retransmission, but the kernel said what it did to the SYN.
pub fn short_limit() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", DROP))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), 0.5))?;
    dropped_by_nft(report.exits(28)?, &net.client, "output")?.errno(None)?;
    Ok(())
}

pub fn rule_for_other_port() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "output", "tcp dport 8081 drop"))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn rule_counts_and_accepts() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    for (namespace, hook) in [(&net.client, "output"), (&net.router, "forward")] {
        namespace.nft(&chain("inet", hook, "tcp dport 8080 counter accept; tcp dport 9999 drop"))?;
    }
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 2.5))?.exits(0)?.nothing()?;
    let report = net.netdiag_run(&curl(Family::V4.remote(8080), PATIENCE))?;
    sure(report.exits(28)?.the_only("timeout.no-reply")?)?.has("/firewall", ())?;
    Ok(())
}

/// A rate limit eats one SYN; the next one passes.
pub fn first_syn_only() -> Result<()> {
    let net = Topology::new()?;
    let rules = "tcp dport 8080 tcp flags syn limit rate 1/hour burst 1 packets counter drop";
    net.client.nft(&chain("inet", "output", rules))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&curl(Family::V4.server(8080), 4.0))?;
    report.exits(0)?.nothing()?;
    let ruleset = net.client.run(&["nft", "list", "ruleset"])?;
    ruleset.says("counter packets 1 ")?;
    Ok(())
}

/// The same rule, addresses and port, with a client that runs into it, in a network of its own.
pub fn unrelated_namespace() -> Result<()> {
    let (net, other) = (Topology::new()?, Topology::new()?);
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    other.client.nft(&chain("inet", "output", DROP))?;
    let address = Family::V4.remote(8080);
    let _noise = other.client.spawn(&connect(address)?)?;
    let report = run_steps(&net, &format!("tcp connect={address},1400"))?;
    let diagnosis = sure(report.exits(3)?.the_only("timeout.no-reply")?)?;
    diagnosis.has("/connection/netns", net.client.inode())?.has("/firewall", ())?;
    Ok(())
}

/// As before, and even the client's port is the same: only socket and namespace tell the two apart.
pub fn same_tuple_elsewhere() -> Result<()> {
    let (net, other) = (Topology::new()?, Topology::new()?);
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    other.client.nft(&chain("inet", "output", DROP))?;
    let address = Family::V4.remote(8080);
    let steps = format!("tcp bind={}:45678 connect={address}", Family::V4.client());
    let noise = other.client.spawn(&netdiag_tests::clients::steps(&steps)?)?;
    let report = run_steps(&net, &format!("{steps},1400"))?;
    sure(report.exits(3)?.the_only("timeout.no-reply")?)?.has("/firewall", ())?;
    drop(noise);
    Ok(())
}

/// Connection tracking refuses the SYN because its table is full. That is no rule.
pub fn conntrack_table_full() -> Result<()> {
    let net = Topology::new()?;
    let server = Family::V4.server(8080);
    let _server = servers::echo(&net.server, server)?;
    let _full = FullTable::new(&net, 50)?;
    let report = run_steps(&net, &format!("tcp connect={server},1400"))?;
    let diagnosis = sure(report.exits(3)?.the_only("timeout.conntrack-full")?)?.errno(None)?;
    happened_in(diagnosis, &net.client)?.has("/firewall/hook", "output")?.has("/firewall/rule", ())?;
    Ok(())
}

/// Room for a few more.
pub fn conntrack_table_nearly_full() -> Result<()> {
    let net = Topology::new()?;
    let server = Family::V4.server(8080);
    let _server = servers::echo(&net.server, server)?;
    let _full = FullTable::new(&net, -50)?;
    run_steps(&net, &format!("tcp connect={server},2000 send=9 recv=9 close"))?.exits(0)?.nothing()?;
    Ok(())
}

/// So many more established connections in the client's table than the limit allows. The limit is one for the whole
/// machine, so it stays well above what the machine itself needs, and is put back; scenarios with it run alone.
struct FullTable {
    before: String,
    _connections: Vec<TcpStream>,
}

const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const CONNTRACK_LIMIT: usize = 1000;

impl FullTable {
    fn new(net: &Topology, excess: isize) -> Result<Self> {
        net.client.nft(&chain("inet", "output", "ct state invalid accept"))?;
        net.server.sysctl("net.core.somaxconn", "4096")?;
        let address = Family::V4.server(9000);
        let _listener = servers::never_accepts(&net.server, address, 4000)?;
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
        if count.trim().parse::<usize>().map_or(true, |count| count > CONNTRACK_LIMIT / 4) {
            return skip("this machine needs its connection tracking table");
        }
        let before = std::fs::read_to_string(CONNTRACK_MAX)?.trim().to_owned();
        let connections = net.client.enter(|| {
            let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1));
            (0..CONNTRACK_LIMIT.saturating_add_signed(excess)).map(connect).collect::<Result<Vec<_>, _>>()
        })??;
        std::fs::write(CONNTRACK_MAX, CONNTRACK_LIMIT.to_string())?;
        Ok(Self { before, _connections: connections })
    }
}

impl Drop for FullTable {
    fn drop(&mut self) {
        let _ = std::fs::write(CONNTRACK_MAX, &self.before);
    }
}
