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

/// How many values were at most so large.
fn within(agent: &Agent, metric: &str, path: &str, bound: f64) -> Result<f64> {
    agent.metric(&format!("{metric}_bucket"), &[path, &format!("le=\"{bound}\"")])
}

fn count(agent: &Agent, metric: &str, path: &str) -> Result<f64> {
    agent.metric(&format!("{metric}_count"), &[path])
}

/// Each connection that was made counts once, and both its ends' round-trip times; what was refused, given up or
/// timed out does not. A host that answers late is in the bucket of its delay.
pub fn counts_each_connection() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    let late = Behaviour::AnswerLate(LATE);
    let _remote = Remote::start(
        &net.router,
        &[(80, late), (81, Behaviour::Silent), (82, Behaviour::Reset { ttl: 60 })],
    )?;
    let echoes = Family::BOTH.map(|family| family.server(18897));
    let _echoes = [servers::echo(&net.server, echoes[0])?, servers::echo(&net.server, echoes[1])?];
    let agent = Agent::start(&home, &[])?;
    agent.wait_for(&format!("{CONNECT}_bucket"), &[], 0.0, SOON)?;
    let before = [CONNECT, ROUND_TRIP].map(|metric| count(&agent, metric, NETWORK));
    let [connects, round_trips] = before;
    let (connects, round_trips) = (connects?, round_trips?);

    for family in Family::BOTH {
        net.client
            .run(&clients::steps(&format!("connect={}", family.server(18898)))?)?
            .says("ECONNREFUSED")?;
        net.client.run(&clients::steps(&format!("connect={}", family.remote(82)))?)?.says("ECONNREFUSED")?;
        net.client.run(&clients::steps(&format!("connect={},300", family.remote(81)))?)?.says("gave up")?;
    }
    for echo in echoes {
        net.client.run(&clients::steps(&format!("churn=15,{echo}"))?)?.says("connected 15")?;
    }
    agent.wait_for(&format!("{CONNECT}_count"), &[NETWORK], connects + 30.0, SOON)?;
    agent.wait_for(&format!("{ROUND_TRIP}_count"), &[NETWORK], round_trips + 60.0, SOON)?;
    let (now, ends) = (count(&agent, CONNECT, NETWORK)?, count(&agent, ROUND_TRIP, NETWORK)?);
    ensure!(
        (now, ends) == (connects + 30.0, round_trips + 60.0),
        "{now} after {connects}, {ends} after {round_trips}"
    );

    let (fast, near) =
        (within(&agent, CONNECT, NETWORK, BELOW)?, within(&agent, ROUND_TRIP, NETWORK, BELOW)?);
    let mut slowest = LATE;
    for family in Family::BOTH {
        let output = net.client.run(&clients::steps(&format!("connect={} close", family.remote(80)))?)?;
        output.says("connected")?;
        slowest = slowest.max(output.elapsed);
    }
    agent.wait_for(&format!("{CONNECT}_count"), &[NETWORK], now + 2.0, SOON)?;
    agent.wait_for(&format!("{ROUND_TRIP}_count"), &[NETWORK], ends + 2.0, SOON)?;
    ensure!(within(&agent, CONNECT, NETWORK, BELOW)? == fast, "{}", agent.get("/metrics")?.body);
    ensure!(within(&agent, ROUND_TRIP, NETWORK, BELOW)? == near, "{}", agent.get("/metrics")?.body);
    let bound = std::iter::successors(Some(BELOW), |bound| Some(bound * 2.0));
    let above = bound.skip_while(|bound| *bound < slowest.as_secs_f64()).next().unwrap_or(BELOW);
    ensure!(
        within(&agent, CONNECT, NETWORK, above)? == now + 2.0,
        "{above}: {}",
        agent.get("/metrics")?.body
    );
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
    let agent = Agent::start(&home, &[])?;
    agent.wait_for(&format!("{CONNECT}_bucket"), &[], 0.0, SOON)?;
    let (network, local) = (count(&agent, CONNECT, NETWORK)?, count(&agent, CONNECT, LOCAL)?);
    let (host, port) = (echo.ip().to_string(), echo.port().to_string());
    net.client.run(&["python3", "-c", SCRIPT, &host, &port])?.exits(0)?.says("done")?;
    for end in own {
        net.client.run(&clients::steps(&format!("churn=40,{end}"))?)?.says("connected 40")?;
    }
    agent.wait_for(&format!("{CONNECT}_count"), &[LOCAL], local + 80.0, SOON)?;
    let now = count(&agent, CONNECT, NETWORK)?;
    ensure!(now == network + 2.0, "{now} after {network}: {}", agent.get("/metrics")?.body);
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
