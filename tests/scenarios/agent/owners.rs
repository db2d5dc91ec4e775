//! Whose sockets were closed before the command began: exact from the agent, and not without it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::{Output, patience, run};
use netdiag_tests::servers;
use serde_json::Value;

use super::SOON;

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until so many sockets are in a state.
fn wait_for(namespace: &Namespace, state: &str, count: usize) -> Result<()> {
    let deadline = Instant::now() + patience(SOON);
    loop {
        let output = namespace.run(&["ss", "-Htan", "state", state])?;
        let now = output.exits(0)?.stdout.lines().count();
        if now >= count {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let all = namespace.run(&["ss", "-tan"])?;
            anyhow::bail!("{now} in {state} and not {count}: {all}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn netdiag(home: &Home, arguments: &[&str]) -> Result<Output> {
    let output = run(home.netdiag(arguments)?, LIMIT)?;
    output.exits(0)?;
    Ok(output)
}

fn objects(home: &Home, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = netdiag(home, &[&["--format", "json"], arguments].concat())?;
    output.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The owners and the summary of `netdiag timewait`.
fn timewait(home: &Home, arguments: &[&str], filter: &str) -> Result<(Vec<Value>, Value)> {
    let mut told = objects(home, &[&["timewait"], arguments, &[filter]].concat())?;
    let summary = told.pop().context("nothing")?;
    ensure!(summary["by"] == "all", "{summary}");
    Ok((told, summary))
}

pub fn of_time_wait() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    // What is older goes elsewhere: it would be likely to have the same owner.
    let [older, address] = [18900, 18901].map(|port| Family::V4.server(port));
    let _echoes = [servers::echo(&net.server, older)?, servers::echo(&net.server, address)?];
    let churn = |address: SocketAddr, count: usize| -> Result<u32> {
        let client = net.client.spawn(&clients::steps(&format!("churn={count},{address} exit=0"))?)?;
        let gone = client.pid();
        client.wait(LIMIT)?.exits(0)?;
        Ok(gone)
    };
    churn(older, 4)?;
    wait_for(&net.client, "time-wait", 4)?;
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", "port 1")])?;
    let gone = churn(address, 25)?;
    wait_for(&net.client, "time-wait", 29)?;
    let here = format!("netns {}", net.client.name());

    let (owners, summary) = timewait(&home, &[], &here)?;
    ensure!(summary["count"] == 29 && summary["exact_count"] == 25, "{summary:#}");
    ensure!(summary["from_agent"] == true && summary["missed"] == 0, "{summary:#}");
    let owner = owners.first().context("no owner")?;
    ensure!(owner["process"]["pid"] == gone && owner["process"]["comm"] == "nd-client", "{owner:#}");
    ensure!(owner["count"] == 25 && owner["exact"] == true && owner["ended"] == true, "{owner:#}");
    ensure!(owners.iter().skip(1).all(|other| other["exact_count"] == 0), "{owners:#?}");
    let text = netdiag(&home, &["timewait", &here])?;
    text.says("note   owners since ")?.says(" UTC, from the agent")?;
    ensure!(!text.stderr.contains("watching"), "it watched although it could ask: {text}");

    let listed = |arguments: &[&str]| -> Result<Vec<Value>> {
        objects(&home, &[&["sockets", "--state", "time-wait"], arguments].concat())
    };
    let closed_by = |sockets: &[Value]| {
        sockets.iter().filter(|socket| socket["closed_by"]["process"]["pid"] == gone).count()
    };
    let sockets = listed(&[&here])?;
    ensure!((sockets.len(), closed_by(&sockets)) == (29, 25), "{sockets:#?}");
    let by_name = listed(&[&format!("{here} and comm nd-client")])?;
    ensure!((by_name.len(), closed_by(&by_name)) == (25, 25), "{by_name:#?}");
    ensure!(closed_by(&listed(&["--no-agent", &here])?) == 0, "who told it?");
    netdiag(&home, &["sockets", "--state", "time-wait", &here])?
        .says(&format!("(closed by nd-client[{gone}])"))?;

    let alone = |arguments: &[&str]| -> Result<()> {
        let (_, summary) = timewait(&home, &[&["--duration", "0s"], arguments].concat(), &here)?;
        ensure!(summary["count"] == 29 && summary["exact_count"] == 0, "{summary:#}");
        ensure!(summary["from_agent"] == false, "{summary:#}");
        Ok(())
    };
    alone(&["--no-agent"])?;
    agent.kill()?;
    alone(&[])?;
    let output = netdiag(&home, &["timewait", "--duration", "0s", &here])?;
    let lines = output.stderr.lines().filter(|line| line.contains("agent")).count();
    output.says("does not run any more; working alone")?;
    ensure!(lines == 1, "{output}");

    let agent = Agent::start(&home, &[("NETDIAG_FILTER", "port 1"), ("NETDIAG_OWNERS", "false")])?;
    alone(&[])?;
    agent.stop()?;
    Ok(())
}

/// The peer keeps its end open: the socket waits for that, and belongs to nobody.
pub fn of_what_waits_for_the_peer() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", "port 1")])?;
    let address = Family::V6.server(18902);
    let _server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=8 accept wait"))?;
    let client = net.client.spawn(&clients::steps(&format!("connect={address} exit=0"))?)?;
    let gone = client.pid();
    client.wait(LIMIT)?.exits(0)?;
    wait_for(&net.client, "fin-wait-2", 1)?;
    let here = format!("netns {}", net.client.name());
    let listed = |arguments: &[&str]| -> Result<Value> {
        let sockets = objects(&home, &[&["sockets", "--state", "fin-wait-2"], arguments, &[&here]].concat())?;
        ensure!(sockets.len() == 1, "{sockets:#?}");
        Ok(sockets[0].clone())
    };
    let socket = listed(&[])?;
    ensure!(
        socket["closed_by"]["process"]["pid"] == gone && socket["closed_by"]["ended"] == true,
        "{socket:#}"
    );
    ensure!(socket["processes"] == Value::Array(Vec::new()), "{socket:#}");
    let alone = listed(&["--no-agent"])?;
    ensure!(alone["closed_by"].is_null(), "{alone:#}");
    agent.stop()?;
    Ok(())
}

/// Nobody listens there any more: who did is known, and while somebody does it is no question.
pub fn of_a_port() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", "port 1")])?;
    let address = Family::V4.server(18903);
    let server = servers::echo(&net.server, address)?;
    let pid = server.pid();
    let told = |arguments: &[&str]| -> Result<Vec<Value>> {
        let all = objects(&home, &[&["port", "18903"], arguments].concat())?;
        // Other scenarios may use the port in namespaces of their own.
        Ok(all.into_iter().filter(|object| object["netns"] == net.server.inode()).collect())
    };
    let held = told(&[])?;
    ensure!(held.len() == 1 && held[0]["kind"] == "socket", "{held:#?}");
    drop(server);
    let deadline = Instant::now() + patience(SOON);
    while told(&["--no-agent"])?.iter().any(|object| object["kind"] == "socket") {
        ensure!(Instant::now() < deadline, "it still listens");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(told(&["--no-agent"])?.is_empty(), "who told it?");
    let last = told(&[])?;
    ensure!(last.len() == 1 && last[0]["kind"] == "last-holder", "{last:#?}");
    let last = &last[0];
    ensure!(last["process"]["pid"] == pid && last["exact"] == true, "{last:#}");
    ensure!(last["local"]["port"] == 18903 && last["netns_name"] == net.server.name(), "{last:#}");
    netdiag(&home, &["port", "18903"])?.says(&format!("[{pid}]"))?.says("held before by")?;
    agent.stop()?;
    Ok(())
}
