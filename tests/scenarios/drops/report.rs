//! What `netdiag drops` says: true counts, what is normal apart, and each way to put drops together.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients::{self, curl};
use netdiag_tests::datagrams;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::{Drops, DropsReport, binary, options};
use netdiag_tests::process::Process;
use netdiag_tests::servers;
use nix::sys::signal::Signal;

use super::{PORT, during, inside, send};

const RULES: &str = "table inet fw { chain c { type filter hook input priority 0;
    udp dport 8081 counter drop; udp dport 8082 counter drop; }; }";
const LIMIT: Duration = Duration::from_secs(20);

/// Connections of all sorts that end well, and everything that TCP throws away meanwhile.
pub fn connections_that_work() -> Result<()> {
    let net = Topology::new()?;
    let servers = Family::BOTH.map(|family| {
        (servers::http(&net.server, family.server(8080)), servers::echo(&net.server, family.server(7)))
    });
    let report = during(&[], || {
        for family in Family::BOTH {
            net.client.run(&curl(family.server(8080), 5.0))?.exits(0)?;
            net.client.run(&clients::steps(&format!("churn=200,{}", family.server(7)))?)?.exits(0)?;
            let much = format!("connect={} send=2000000 recv=2000000 close", family.server(7));
            net.client.run(&clients::steps(&much)?)?.exits(0)?;
            let reset = format!("connect={} send=9 recv=9 linger0 close", family.server(7));
            net.client.run(&clients::steps(&reset)?)?.exits(0)?;
        }
        Ok(())
    })?;
    drop(servers);
    report.nothing(&net.namespaces())
}

/// A multicast group that nobody joined.
pub fn normal_is_set_apart() -> Result<()> {
    let net = Topology::new()?;
    let report =
        during(&[&inside(&net.router)], || datagrams::send(&net.client, "239.7.7.7:7".parse()?, 10, 3))?;
    report.nothing(&net.namespaces())?;
    let normal = report.normal(&[&net.router]);
    let group = normal.iter().find(|drop| drop.at("/sample/destination/address") == "239.7.7.7");
    let group = group.with_context(|| report.dump())?;
    group.has("/code", ())?.has("/normal", true)?.counts(3)?;
    ensure!(group.at("/meaning").as_str().is_some_and(|meaning| !meaning.is_empty()), "{}", report.dump());
    Ok(())
}

fn two_ports(net: &Topology) -> Result<()> {
    for (port, count) in [(8081, 3), (8082, 2)] {
        datagrams::send(&net.client, Family::V4.server(port), 10, count)?;
        datagrams::send(&net.client, Family::V6.server(port), 10, count)?;
    }
    Ok(())
}

pub fn by_each_key() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(RULES)?;
    let _service = servers::echo_udp(&net.server, Family::V4.server(PORT))?;
    let expected: [(&str, &[u64]); 4] =
        [("rule", &[6, 4]), ("flow", &[3, 3, 2, 2]), ("process", &[7, 3]), ("interface", &[10])];
    for (by, counts) in expected {
        let report = during(&["--by", by, &inside(&net.server)], || two_ports(&net))?;
        let losses = report.losses(&net.namespaces());
        let found: Vec<u64> = losses.iter().filter_map(|drop| drop.at("/count").as_u64()).collect();
        ensure!(found == counts, "by {by}: {found:?}\n{}", report.dump());
        for drop in losses {
            drop.has("/by", by)?.has("/code", "drop.firewall")?;
        }
    }
    let report = during(&["--by", "reason", &inside(&net.server)], || two_ports(&net))?;
    let only = report.the_only("drop.firewall", &net.namespaces())?.counts(10)?;
    only.has("/rules", 2)?.has("/flows", 4)?;
    Ok(())
}

pub fn filter() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(RULES)?;
    let of_one = |report: &DropsReport| -> Result<()> {
        report.the_only("drop.firewall", &net.namespaces())?.counts(2)?;
        ensure!(report.drops.iter().all(|drop| drop["sampled"] == true), "{}", report.dump());
        Ok(())
    };
    let filter = format!("{} and ip6 and udp dst port 8082", inside(&net.server));
    of_one(&during(&[&filter], || two_ports(&net))?)?;
    let filter = format!("code drop.firewall and dst host {} and port 8082", Family::V6.server(1).ip());
    of_one(&during(&[&filter, "and", &inside(&net.server)], || two_ports(&net))?)?;
    during(&["comm nobody-is-called-so"], || two_ports(&net))?.nothing(&net.namespaces())
}

/// A drop is told when it comes, and the counts of all that is told of it add up.
pub fn follow() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(RULES)?;
    let drops = Drops::start(&["--follow", &inside(&net.server)])?;
    send(&net, Family::V4, 1)?;
    let is_first = |object: &serde_json::Value| object["code"] == "drop.firewall" && object["count"] == 1;
    drops.wait_for(LIMIT, is_first)?;
    send(&net, Family::V4, 3)?;
    let is_more = |object: &serde_json::Value| object["count"] == 3 && object["total"] == 4;
    drops.wait_for(LIMIT, is_more)?;
    send(&net, Family::V4, 2)?;
    let report = drops.stop()?;
    let told = report.losses(&net.namespaces());
    let count: u64 = told.iter().filter_map(|drop| drop.at("/count").as_u64()).sum();
    ensure!(count == 6 && told.len() == 3, "{count}\n{}", report.dump());
    Ok(())
}

pub fn text() -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(RULES)?;
    let mut command = Command::new(binary().context("no netdiag binary")?);
    command.args(options()).args(["drops", &inside(&net.server)]).env("NO_COLOR", "1");
    let process = Process::spawn(command)?;
    process.wait_for_error_line("netdiag: counting drops of netns", LIMIT)?;
    send(&net, Family::V4, 3)?;
    process.signal(Signal::SIGINT)?;
    let output = process.wait(LIMIT)?;
    output
        .exits(0)?
        .says("✗ 3 × drop.firewall")?
        .says("inet fw c handle 2:  udp dport 8081 counter drop")?
        .says("UDP datagram 10.77.1.2:")?
        .says("inbound, no process here has a socket for it")?
        .says(&format!("ip netns exec {} nft delete rule inet fw c handle 2", net.server.name()))?;
    ensure!(
        output.stderr.lines().any(|line| line.starts_with("netdiag: ") && line.contains(" losses")),
        "{output}"
    );
    Ok(())
}

/// As many as the rule has counted, although few of them have a record.
pub fn flood() -> Result<()> {
    const PACKETS: usize = 30_000;
    let net = Topology::new()?;
    net.server.nft(RULES)?;
    let report = during(&[], || {
        send(&net, Family::V4, PACKETS)?;
        datagrams::send(&net.client, Family::V4.server(8082), 10, PACKETS)
    })?;
    let listing = net.server.run(&["nft", "list", "ruleset"])?.stdout;
    let counted = listing.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next());
    let counted: Vec<u64> = counted.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(counted.len() == 2 && counted.iter().all(|count| *count > 1000), "{listing}");
    let all: u64 = counted.iter().sum();
    let count = |drop: &serde_json::Value| drop["count"].as_u64().unwrap_or(0);
    let own: u64 = report.losses(&[&net.server]).iter().map(|drop| count(drop.value)).sum();
    ensure!(own == all, "{all}, but {own} are told of\n{}", report.dump());
    // The machine may have dropped others meanwhile.
    let told = report.drops.iter().filter(|drop| drop["reason"] == "NETFILTER_DROP");
    let told: u64 = told.map(count).sum();
    let total = report.total("NETFILTER_DROP");
    ensure!(told == total && total >= all, "{total}, but {told} are told of\n{}", report.dump());
    // Everything is told of once, losses and what is normal.
    for (normal, name) in [(false, "losses"), (true, "normal")] {
        let told = report.drops.iter().filter(|drop| drop["normal"] == normal);
        let told: u64 = told.filter_map(|drop| drop["count"].as_u64()).sum();
        ensure!(report.status["drops"][name] == told, "{told} {name} are told of\n{}", report.dump());
    }
    // Both flows have records, so each count is that of its rule.
    for (handle, count) in [2, 3].into_iter().zip(counted) {
        let losses = report.losses(&[&net.server]);
        let group = losses.iter().find(|drop| drop.at("/firewall/handle") == handle);
        group.with_context(|| report.dump())?.counts(count)?;
    }
    Ok(())
}
