//! Commands that ask a running agent, and what they do without one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::{Agent, Home, binary};
use netdiag_tests::process::{Output, patience, run};
use netdiag_tests::tools;
use serde_json::Value;

use super::{Host, SOON};

const RULES: &str =
    "table inet fw { chain out { type filter hook output priority 0; tcp dport 18891 drop; }; }";
/// A number that no group of this machine has; nor is it a user's.
const GROUP: &str = "54321";
const STRANGER: &str = "54322";

fn objects(output: &Output) -> Result<Vec<Value>> {
    output.exits(0)?;
    output.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Losses that the agent tells of, and its last object.
fn drops(home: &Home, arguments: &[&str]) -> Result<(Vec<Value>, Value)> {
    let common = ["drops", "--since-agent", "--format", "json"];
    let mut all = objects(&run(home.netdiag(&[&common, arguments].concat())?, SOON)?)?;
    let last = all.pop().context("no object")?;
    ensure!(last["kind"] == "past-drops", "{last}");
    Ok((all.into_iter().filter(|drop| drop["normal"] == false).collect(), last))
}

/// Waits for a drop that the agent tells of.
fn wait_for_drops(home: &Home, arguments: &[&str], count: u64) -> Result<Vec<Value>> {
    let deadline = Instant::now() + patience(SOON);
    loop {
        let (told, _) = drops(home, arguments)?;
        if told.iter().filter_map(|drop| drop["count"].as_u64()).sum::<u64>() >= count {
            return Ok(told);
        }
        ensure!(Instant::now() < deadline, "no {count} drops: {told:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What was dropped before the command began is told by cause, and nothing of where nothing was dropped.
pub fn for_drops() -> Result<()> {
    let (home, net) = (Home::new()?, Topology::new()?);
    let agent = Agent::start(&home, &[("NETDIAG_FILTER", "port 1")])?;
    net.client.nft(RULES)?;
    let server = Family::V4.server(18891);
    net.client.run(&clients::steps(&format!("connect={server},1300"))?)?.exits(3)?;
    let here = format!("netns {}", net.client.name());
    let told = wait_for_drops(&home, &[&here], 2)?;
    ensure!(told.len() == 1, "{told:#?}");
    let drop = &told[0];
    ensure!(drop["code"] == "drop.firewall" && drop["reason"] == "NETFILTER_DROP", "{drop:#}");
    ensure!(drop["firewall"]["table"] == "fw" && drop["firewall"]["hook"] == "output", "{drop:#}");
    ensure!(drop["firewall"]["exact"] == true && drop["sample"]["destination"]["port"] == 18891, "{drop:#}");
    ensure!(drop["firewall"]["removed"].is_null(), "{drop:#}");
    for (filter, by, expected) in [
        ("dst port 18891", "flow", 1),
        ("dst port 18892", "flow", 0),
        ("code drop.firewall", "interface", 1),
        ("udp", "reason", 0),
    ] {
        let (told, _) = drops(&home, &["--by", by, &format!("{here} and {filter}")])?;
        ensure!(told.len() == expected && told.iter().all(|drop| drop["by"] == by), "{filter}: {told:#?}");
    }
    let (elsewhere, last) = drops(&home, &[&format!("netns {}", net.server.name())])?;
    ensure!(elsewhere.is_empty() && last["losses"] == 0, "{elsewhere:#?}");
    // The rule goes, and its handle with it.
    net.client.nft("delete table inet fw")?;
    let (told, _) = drops(&home, &[&here])?;
    ensure!(told.len() == 1 && told[0]["firewall"]["removed"] == true, "{told:#?}");
    let text = run(home.netdiag(&["drops", "--since-agent", &here])?, SOON)?;
    text.exits(0)?.says("× drop.firewall")?.says(", from the agent")?;
    for arguments in [&["--by", "process"][..], &["comm curl"], &["--follow"], &["--no-agent"]] {
        run(home.netdiag(&[&["drops", "--since-agent"], arguments].concat())?, SOON)?.exits(2)?;
    }
    // Who counts for themselves are told that somebody else has.
    let alone = |arguments: &[&str]| -> Result<Output> {
        let output = run(home.netdiag(&[&["drops", "--duration", "0s"], arguments].concat())?, SOON)?;
        output.exits(0)?;
        Ok(output)
    };
    alone(&[])?.says("the agent has counted drops since ")?;
    ensure!(!alone(&["--no-agent"])?.stderr.contains("agent"), "it asked");
    agent.stop()?;
    Ok(())
}

/// `netdiag` as somebody with this user, group and other groups.
fn netdiag_as(home: &Home, program: &PathBuf, ids: [&str; 3], arguments: &[&str]) -> Result<Output> {
    let [user, group, groups] = ids;
    let mut command = Command::new(tools::path("setpriv"));
    command.args(["--reuid", user, "--regid", group]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.arg("--").arg(program).args(arguments);
    home.settle(&mut command);
    run(command, SOON)
}

/// Root and one group may ask; the group's members need no other rights. Nobody else may, and is told so.
pub fn by_its_group() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    // Others must be able to reach the socket, and the program, wherever that was built.
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
    let program = home.path().join("netdiag");
    std::fs::copy(binary().context("no netdiag binary")?, &program)?;
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_QUERY_GROUP", GROUP)])?;
    host.refused(18895..18897)?;
    home.wait_for_failures(2, SOON)?;
    let socket = std::fs::metadata(home.path().join("run/agent.sock"))?;
    ensure!(socket.permissions().mode() & 0o777 == 0o660, "{socket:?}");
    for ids in [[STRANGER, GROUP, ""], [STRANGER, STRANGER, GROUP]] {
        let output = netdiag_as(&home, &program, ids, &["history", "--format", "json"])?;
        let told = objects(&output)?;
        let (summary, problems) = told.split_last().context("nothing")?;
        ensure!(summary["failures"] == 2 && problems.len() == 2, "{told:#?}");
        ensure!(problems[0]["code"] == "refused.no-listener", "{told:#?}");
        let output = netdiag_as(&home, &program, ids, &["history", "--details", "dst port 18896"])?;
        output.exits(0)?.says("127.0.0.1:18896")?.says("netdiag: 1 failure, 1 problem")?;
        netdiag_as(&home, &program, ids, &["history", "--no-agent"])?.exits(2)?.says("cannot read")?;
        netdiag_as(&home, &program, ids, &["drops", "--since-agent"])?.exits(0)?.says("from the agent")?;
        netdiag_as(&home, &program, ids, &["timewait", "--format", "json"])?
            .exits(0)?
            .says("\"from_agent\":true")?;
    }
    let ids = [STRANGER, STRANGER, ""];
    let refused = netdiag_as(&home, &program, ids, &["history"])?;
    refused.exits(2)?.says("cannot read")?.says("root and its group alone may ask the agent")?;
    netdiag_as(&home, &program, ids, &["drops", "--since-agent"])?.exits(2)?.says("alone may ask")?;
    netdiag_as(&home, &program, ids, &["timewait"])?.exits(2)?.says("alone may ask")?;
    agent.stop()?;
    // By its permissions anybody may connect to this one; the agent looks at who it is.
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_QUERY_GROUP", "no such group")])?;
    agent.says("root alone may ask: there is no group", SOON)?;
    let socket = home.path().join("run/agent.sock");
    ensure!(std::fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
    let refused = netdiag_as(&home, &program, [STRANGER, GROUP, GROUP], &["drops", "--since-agent"])?;
    refused.exits(2)?.says("root and the agent's group alone may ask")?;
    agent.stop()?;
    Ok(())
}

/// Lines of netdiag about an agent.
fn about_agent(output: &Output) -> usize {
    output.stderr.lines().filter(|line| line.contains("agent")).count()
}

/// An agent that was killed, one of another version, or none at all is no error for who can work alone.
pub fn in_vain() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let drops = || -> Result<Output> {
        let output = run(home.netdiag(&["drops", "--duration", "0s"])?, SOON)?;
        output.exits(0)?;
        Ok(output)
    };
    ensure!(about_agent(&drops()?) == 0, "there is no agent to speak of");
    let since = || run(home.netdiag(&["drops", "--since-agent"])?, SOON);
    since()?.exits(2)?.says("no agent runs that could be asked")?;
    let agent = Agent::start(&home, &[host.variable()])?;
    since()?.exits(0)?;
    agent.kill()?;
    let socket = home.path().join("run/agent.sock");
    ensure!(socket.exists(), "a killed agent cannot take its socket away");
    let output = drops()?;
    output.says("does not run any more; working alone")?;
    ensure!(about_agent(&output) == 1, "{output}");
    since()?.exits(2)?.says("does not run any more")?;

    std::fs::remove_file(&socket)?;
    let listener = UnixListener::bind(&socket)?;
    let other = std::thread::spawn(move || -> Result<()> {
        for hello in ["{\"item\":{\"protocol\":99,\"version\":\"9.9\",\"news\":1}}\n", "what?\n"] {
            let mut stream = listener.accept()?.0;
            stream.write_all(hello.as_bytes())?;
            // Until the other end is satisfied.
            let mut rest = String::new();
            let _ = BufReader::new(stream).read_line(&mut rest);
            ensure!(rest.is_empty(), "it asked all the same: {rest}");
        }
        Ok(())
    });
    let output = drops()?;
    output.says("the agent is netdiag 9.9 and speaks protocol 99, not 1")?;
    ensure!(about_agent(&output) == 1, "{output}");
    let output = drops()?;
    output.says("the agent gives no answer: it is no agent; working alone")?;
    other.join().map_err(|_| anyhow::anyhow!("the other agent"))??;

    // The next agent takes the place, and takes its socket away when it ends.
    let agent = Agent::start(&home, &[host.variable()])?;
    since()?.exits(0)?;
    agent.stop()?;
    ensure!(!socket.exists(), "it left its socket");
    Ok(())
}
