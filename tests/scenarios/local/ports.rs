//! There is no local port left.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::servers;

use super::{EXHAUSTED, run, run_steps};

/// Ten local ports, and no more.
fn ten_ports(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
}

pub fn held(family: Family) -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = family.server(18201);
    let _server = servers::echo(&net.server, address)?;
    let holder = net.client.spawn(&clients::steps(&format!("many=10,{address} wait"))?)?;
    holder.wait_for_line("connected 10", Duration::from_secs(5))?;
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "all 10 local ports")?;
    found.mentions("/summary", &format!("10 of nd-client[{}]", holder.pid()))?;
    found.has("/where/netns_name", net.client.name())?.has("/connection/peer/port", 18201)?;
    Ok(())
}

pub fn in_time_wait() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V4.server(18202);
    let _server = servers::echo(&net.server, address)?;
    let fill = |count: usize| -> Result<()> {
        net.client.run(&clients::steps(&format!("churn={count},{address}"))?)?.exits(0)?;
        Ok(())
    };
    fill(10)?;
    // The server's FIN comes a moment after the client's close; where it came before, the port is free again.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let command = ["ss", "-Htan", "state", "time-wait"].map(str::to_owned);
        let waiting = net.client.run(&command)?.stdout.lines().count();
        if waiting >= 10 {
            break;
        }
        let _ = fill(10 - waiting);
    }
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "10 in TIME_WAIT")?.mentions("/explanation", "likely made by nd-client")?;
    Ok(())
}

/// The command itself made what is in TIME_WAIT, and was seen to; another process holds the rest open.
pub fn made_by_itself() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V6.server(18211);
    let _server = servers::echo(&net.server, address)?;
    let holder = net.client.spawn(&clients::steps(&format!("many=4,{address} wait"))?)?;
    holder.wait_for_line("connected 4", Duration::from_secs(5))?;
    // Where the server's FIN comes first there is no TIME_WAIT, and the port is free again.
    let report = run_steps(&net.client, &format!("churn=200,{address}"))?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    let pid = &found.at("/process/pid").clone();
    found.mentions("/summary", &format!("6 in TIME_WAIT made by nd-client[{pid}]"))?;
    found.mentions("/summary", &format!("4 of nd-client[{}]", holder.pid()))?;
    found.mentions("/explanation", &format!("It was seen who made them: 6 of nd-client[{pid}]."))?;
    found
        .has("/holders/0/count", 6)?
        .has("/holders/0/state", "TIME_WAIT")?
        .has("/holders/0/process/pid", pid.clone())?;
    found.has("/holders/1/count", 4)?.has("/holders/1/process/pid", holder.pid())?;
    Ok(())
}

/// Ports of the range that listeners hold are not free for anybody.
pub fn listeners_in_the_range() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let address = Family::V4.server(18212);
    let _server = servers::echo(&net.server, address)?;
    let listeners = [40000, 40003, 40006].map(|port| servers::echo(&net.client, Family::V4.loopback(port)));
    let listeners: Vec<_> = listeners.into_iter().collect::<Result<_>>()?;
    let holder = net.client.spawn(&clients::steps(&format!("many=7,{address} wait"))?)?;
    holder.wait_for_line("connected 7", Duration::from_secs(5))?;
    let report = net.netdiag_run(&clients::connect(address)?)?;
    let found = report.exits(1)?.the_only(EXHAUSTED)?.certain()?.errno(Some("EADDRNOTAVAIL"))?;
    found.mentions("/summary", "all 10 local ports")?;
    found.has("/holders/0/count", 7)?.has("/holders/0/process/pid", holder.pid())?;
    let listening = (1..4).map(|index| found.at(&format!("/holders/{index}/process/pid")).as_u64());
    let mut pids: Vec<Option<u64>> = listening.collect();
    let mut expected: Vec<Option<u64>> = listeners.iter().map(|server| Some(server.pid().into())).collect();
    pids.sort_unstable();
    expected.sort_unstable();
    ensure!(pids == expected, "{}", found.value);
    Ok(())
}

pub fn bind_to_port_0() -> Result<()> {
    const SCRIPT: &str = "
import socket
kept = []
for _ in range(11):
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    kept.append(s)
";
    let host = Namespace::new("host")?;
    ten_ports(&host)?;
    let report = run(&host, &["python3", "-c", SCRIPT].map(str::to_owned))?;
    report.exits(1)?.the_only(EXHAUSTED)?.errno(Some("EADDRINUSE"))?.has("/connection/call", "bind")?;
    Ok(())
}

pub fn the_last_port() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let _server = servers::echo(&net.server, Family::V4.server(18203))?;
    net.netdiag_run(&clients::steps(&format!("many=10,{}", Family::V4.server(18203)))?)?
        .exits(0)?
        .nothing()?;
    Ok(())
}

pub fn other_destination() -> Result<()> {
    let net = Topology::new()?;
    ten_ports(&net.client)?;
    let (one, other) = (Family::V4.server(18204), Family::V4.server(18205));
    let _one = servers::echo(&net.server, one)?;
    let _other = servers::echo(&net.server, other)?;
    let report = net.netdiag_run(&clients::steps(&format!("many=10,{one} many=10,{other}"))?)?;
    report.exits(0)?.nothing()?;
    Ok(())
}
