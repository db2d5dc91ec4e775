//! How long connecting takes, and round-trip times: of all connections, and of nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::{clients, servers};

use super::{Host, SOON};

const CONNECT: &str = "netdiag_connect_latency_seconds";
const ROUND_TRIP: &str = "netdiag_rtt_seconds";
const NETWORK: &str = "path=\"network\"";
const LOCAL: &str = "path=\"local\"";
const LATE: Duration = Duration::from_millis(550);
/// The highest bound below that.
const BELOW: f64 = 0.524_288;

/// The counts are those of the whole machine, where others may connect, too: so often for a moment in which nobody does.
const ATTEMPTS: usize = 8;

/// How many values were at most so large.
fn within(agent: &Agent, metric: &str, bound: f64) -> Result<f64> {
    agent.metric(&format!("{metric}_bucket"), &[NETWORK, &format!("le=\"{bound}\"")])
}

fn count(agent: &Agent, metric: &str, path: &str) -> Result<f64> {
    agent.metric(&format!("{metric}_count"), &[path])
}

fn wait_for(agent: &Agent, metric: &str, path: &str, least: f64) -> Result<()> {
    agent.wait_for(&format!("{metric}_count"), &[path], least, SOON)
}

/// Starts one, and waits for its first look.
fn start(home: &Home) -> Result<Agent> {
    let agent = Agent::start(home, &[])?;
    agent.wait_for(&format!("{CONNECT}_bucket"), &[], 0.0, SOON)?;
    Ok(agent)
}

/// Tries until the numbers are exactly as expected.
fn once(attempt: impl Fn() -> Result<()>) -> Result<()> {
    let mut outcome = attempt();
    for _ in 1..ATTEMPTS {
        if outcome.is_ok() {
            break;
        }
        outcome = attempt();
    }
    outcome
}

/// Each connection that was made counts once, and both its ends' round-trip times; what was refused, given up or
/// timed out does not. A host that answers late is in the bucket of its delay.
pub fn counts_each_connection() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    let ports =
        [(80, Behaviour::AnswerLate(LATE)), (81, Behaviour::Silent), (82, Behaviour::Reset { ttl: 60 })];
    let _remote = Remote::start(&net.router, &ports)?;
    let echoes = Family::BOTH.map(|family| family.server(18897));
    let _echoes = [servers::echo(&net.server, echoes[0])?, servers::echo(&net.server, echoes[1])?];
    let agent = start(&home)?;
    let client = |steps: &str| net.client.run(&clients::steps(steps)?);
    once(|| {
        let (connects, ends) = (count(&agent, CONNECT, NETWORK)?, count(&agent, ROUND_TRIP, NETWORK)?);
        for family in Family::BOTH {
            client(&format!("connect={}", family.server(18898)))?.says("ECONNREFUSED")?;
            client(&format!("connect={}", family.remote(82)))?.says("ECONNREFUSED")?;
            client(&format!("connect={},300", family.remote(81)))?.says("gave up")?;
        }
        for echo in echoes {
            client(&format!("churn=15,{echo}"))?.says("connected 15")?;
        }
        wait_for(&agent, CONNECT, NETWORK, connects + 30.0)?;
        wait_for(&agent, ROUND_TRIP, NETWORK, ends + 60.0)?;
        let more = (count(&agent, CONNECT, NETWORK)? - connects, count(&agent, ROUND_TRIP, NETWORK)? - ends);
        ensure!(more == (30.0, 60.0), "{more:?} connects and ends of 30 connections");
        Ok(())
    })?;
    once(|| {
        let (connects, ends) = (count(&agent, CONNECT, NETWORK)?, count(&agent, ROUND_TRIP, NETWORK)?);
        let fast = [CONNECT, ROUND_TRIP].map(|metric| within(&agent, metric, BELOW).unwrap_or(-1.0));
        let mut slowest = LATE;
        for family in Family::BOTH {
            let output = client(&format!("connect={} close", family.remote(80)))?;
            output.says("connected")?;
            slowest = slowest.max(output.elapsed);
        }
        wait_for(&agent, CONNECT, NETWORK, connects + 2.0)?;
        wait_for(&agent, ROUND_TRIP, NETWORK, ends + 2.0)?;
        let now = [CONNECT, ROUND_TRIP].map(|metric| within(&agent, metric, BELOW).unwrap_or(-1.0));
        ensure!(now == fast, "{now:?} after {fast:?} below {BELOW} s");
        let mut bounds = std::iter::successors(Some(BELOW), |bound| Some(bound * 2.0));
        let above = bounds.find(|bound| *bound >= slowest.as_secs_f64()).unwrap_or(BELOW);
        let all = within(&agent, CONNECT, above)?;
        ensure!(all == connects + 2.0, "{all} below {above} s and not {}", connects + 2.0);
        Ok(())
    })?;
    agent.stop()?;
    Ok(())
}

/// TCP Fast Open sends data with the SYN, and the connection still is one; one that stays on this machine is local.
pub fn tells_local_connections_apart() -> Result<()> {
    const SCRIPT: &str = "
import socket, sys
for n in range(2):
    s = socket.socket()
    s.sendto(b'x', socket.MSG_FASTOPEN, (sys.argv[1], int(sys.argv[2])))
    s.recv(1)
    s.close()
print('done')
";
    let (home, net) = (Home::new()?, Topology::new()?);
    for namespace in [&net.client, &net.server] {
        // Client, server, and every listener without being asked.
        namespace.sysctl("net.ipv4.tcp_fastopen", "1027")?;
    }
    let echo = Family::V4.server(18899);
    let _echo = servers::echo(&net.server, echo)?;
    let own = [Family::V4.loopback(18900), Family::V6.loopback(18900)];
    let _own = [servers::echo(&net.client, own[0])?, servers::echo(&net.client, own[1])?];
    let agent = start(&home)?;
    let (host, port) = (echo.ip().to_string(), echo.port().to_string());
    once(|| {
        let (network, local) = (count(&agent, CONNECT, NETWORK)?, count(&agent, CONNECT, LOCAL)?);
        net.client.run(&["python3", "-c", SCRIPT, &host, &port])?.exits(0)?.says("done")?;
        for end in own {
            net.client.run(&clients::steps(&format!("churn=40,{end}"))?)?.says("connected 40")?;
        }
        wait_for(&agent, CONNECT, LOCAL, local + 80.0)?;
        let more = count(&agent, CONNECT, NETWORK)? - network;
        ensure!(more == 2.0, "{more} connects over the network and not 2");
        Ok(())
    })?;
    agent.stop()?;
    Ok(())
}

/// Where the configuration does without, nothing of it is there.
pub fn does_without() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_METRICS_LATENCY", "false")])?;
    host.refused(18895..18896)?;
    agent.wait_for("netdiag_connections_opened_total", &[], 1.0, SOON)?;
    let body = agent.get("/metrics")?.body;
    ensure!(!body.contains(CONNECT) && !body.contains(ROUND_TRIP), "{body}");
    agent.stop()?;
    Ok(())
}
