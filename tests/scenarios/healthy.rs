//! Nothing is wrong, and netdiag has nothing to say.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netdiag_tests::clients::{curl, grandchild, nc, python, steps};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Report, Run, Watch};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::servers;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::healthy("curl", || http_client(|family| curl(family.server(18301), 5.0)))
        .needs(&[Need::Tool("curl")]),
    Scenario::healthy("nc", || echo_client(|family| nc(family.server(18302), 2))).needs(&[Need::Tool("nc")]),
    Scenario::healthy("python", || echo_client(|family| python(family.server(18302), None, 9)))
        .needs(&[Need::Python]),
    Scenario::healthy("python_with_a_limit", || {
        echo_client(|family| python(family.server(18302), Some(2.0), 9))
    })
    .needs(&[Need::Python]),
    Scenario::healthy("nonblocking", nonblocking),
    Scenario::healthy("grandchild", a_grandchild),
    Scenario::healthy("udp", udp),
    Scenario::healthy("half_closed", half_closed),
    Scenario::healthy("health_check", health_check),
    Scenario::healthy("server_closes_first", server_closes_first),
    Scenario::healthy("loopback", loopback),
    Scenario::healthy("no_connection_at_all", no_connection_at_all),
    Scenario::healthy("ten_thousand_connections", ten_thousand_connections).alone(),
    Scenario::healthy("trouble_passes", trouble_passes),
];

fn http_client(client: fn(Family) -> Vec<String>) -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::http(&net.server, family.server(18301))?;
        net.netdiag_run(&client(family))?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn echo_client(client: fn(Family) -> Vec<String>) -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(18302))?;
        net.netdiag_run(&client(family))?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// `nd-client` with these steps, where ADDR stands for an echo server's address.
fn echo_steps(client: &str) -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let address = family.server(18303);
        let _server = servers::echo(&net.server, address)?;
        let client = steps(&client.replace("ADDR", &address.to_string()))?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn nonblocking() -> Result<()> {
    echo_steps("tcp connect=ADDR,2000 send=100000 recv=100000 close")
}

fn half_closed() -> Result<()> {
    echo_steps("tcp connect=ADDR send=9 shutdown recv close")
}

/// Load balancers and port scanners ask so whether somebody listens.
fn health_check() -> Result<()> {
    echo_steps("tcp linger0 connect=ADDR close")
}

fn a_grandchild() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, Family::V4.server(18304))?;
    let client = grandchild(&steps(&format!("connect={} send=9 recv=9", Family::V4.server(18304)))?);
    Run::outside(&net.client).command(&client)?.exits(0)?.nothing()?;
    Ok(())
}

fn udp() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let address = family.server(18305);
        let _server = servers::echo_udp(&net.server, address)?;
        let client = steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn server_closes_first() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18306);
    let _server =
        servers::steps(&net.server, &format!("tcp bind={address} listen=8 accept recv=9 send=9 close"))?;
    net.netdiag_run(&steps(&format!("connect={address} send=9 recv"))?)?.exits(0)?.nothing()?;
    Ok(())
}

fn loopback() -> Result<()> {
    let host = Namespace::new("host")?;
    for family in Family::BOTH {
        let address = family.loopback(18307);
        let _server = servers::echo(&host, address)?;
        let client = steps(&format!("connect={address} send=9 recv=9 close churn=20,{address}"))?;
        Run::inside(&host).command(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}

fn no_connection_at_all() -> Result<()> {
    let host = Namespace::new("host")?;
    for (command, status) in [("true", 0), ("false", 1)] {
        Run::inside(&host).command(&[command.to_owned()])?.exits(status)?.nothing()?;
    }
    Ok(())
}

fn counter(report: &Report, name: &str) -> Result<u64> {
    let last = report.of_kind("status").last().with_context(|| format!("no status\n{}", report.dump()))?;
    let value = last["counters"][name].as_u64();
    value.with_context(|| format!("no counter {name}\n{}", report.dump()))
}

/// Silence on success: neither a diagnosis nor a single record. The counter is the whole machine's, on which
/// something of others may fail meanwhile: one silent round of three shows that these connections send nothing.
fn ten_thousand_connections() -> Result<()> {
    let mut heard = Vec::new();
    for _ in 0..3 {
        let (report, records) = ten_thousand_times()?;
        if records == 0 {
            return Ok(());
        }
        heard.push(format!("{records} records in {}", report.dump()));
    }
    bail!("no round of ten thousand connections was silent\n{}", heard.join("\n"))
}

/// One round, and how many records were sent.
fn ten_thousand_times() -> Result<(Report, u64)> {
    const COUNT: u64 = 10_000;
    let net = Topology::new()?;
    one_processor()?;
    // Each accept queue has room for all that come to it, however slow the machine: a full one would
    // be trouble, and no longer silent.
    let servers = (18310..18314).map(|port| Family::V4.server(port));
    let queues = servers.clone().map(|address| format!("tcp bind={address} listen=4096 echo"));
    let _servers = queues.map(|server| servers::steps(&net.server, &server)).collect::<Result<Vec<_>>>()?;
    let churn: Vec<String> = servers.map(|address| format!("churn={},{address}", COUNT / 4)).collect();
    let watch = Watch::start(&net.namespaces(), &[])?;
    net.client.run(&steps(&churn.join(" "))?)?.exits(0)?;
    // What is late is noticed now.
    std::thread::sleep(Duration::from_millis(500));
    let report = watch.stop()?;
    report.exits(0)?.nothing()?;
    let (opened, records) = (counter(&report, "connections_opened")?, counter(&report, "records_sent")?);
    ensure!(opened >= COUNT, "only {opened} connections were counted\n{}", report.dump());
    Ok((report, records))
}

/// Keeps this thread and what it starts on one processor. On two, packets overtake each other between the
/// namespaces; an ACK that comes after its connection's end is answered with a RST, and that is worth a record.
fn one_processor() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true)).context("no processor")?;
    let mut one = CpuSet::new();
    one.set(first)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// One SYN had to be sent again; what comes after it is healthy and must be as cheap as before.
fn trouble_passes() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18309);
    let _server = servers::steps(&net.server, &format!("tcp bind={address} listen=4096 echo"))?;
    let watch = Watch::start(&net.namespaces(), &[])?;
    net.server.ip("link set eth0 down")?;
    let late = net.client.spawn(&steps(&format!("connect={address} close"))?)?;
    std::thread::sleep(Duration::from_millis(1300));
    net.server.ip_batch("link set eth0 up\nroute add default via 10.77.2.1")?;
    late.wait(Duration::from_secs(10))?.exits(0)?;
    net.client.run(&steps(&format!("churn=2000,{address}"))?)?.exits(0)?;
    let report = watch.stop()?;
    report.exits(0)?.nothing()?;
    let records = counter(&report, "records_sent")?;
    ensure!(records < 1000, "{records} records\n{}", report.dump());
    Ok(())
}
