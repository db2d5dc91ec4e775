//! What was diagnosed is there later: while the agent runs, after it was stopped, after it was killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::bpf_objects;
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::run;

use super::{Host, SOON};

pub fn stores_what_fails() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    host.refused(18701..18704)?;
    home.wait_for_failures(3, SOON)?;
    // Repeats come together, a moment later.
    for _ in 0..4 {
        host.refused(18701..18702)?;
    }
    home.wait_for_failures(7, Duration::from_secs(20))?;
    let objects = home.objects(&[])?;
    let (summary, problems) = objects.split_last().context("nothing")?;
    ensure!(summary["kind"] == "history" && summary["problems"] == 3, "{summary}");
    let first = problems.first().context("no problem")?;
    ensure!(first["kind"] == "diagnosis" && first["code"] == "refused.no-listener", "{first}");
    ensure!(first["count"] == 5 && first["connection"]["peer"]["port"] == 18701, "{first}");
    ensure!(first["process"]["comm"] == "nd-client" && first["errno"] == "ECONNREFUSED", "{first}");
    let text = home.history_of(&[])?;
    text.says("✗ nd-client → 127.0.0.1:18701   5 times ")?.says("refused.no-listener · certain")?;
    text.says("netdiag: 7 failures, 3 problems")?;
    agent.stop()?;
    ensure!(home.failures()? == 7, "fewer when the agent was stopped");
    home.history_of(&["--details"])?.says("+0.000 s  connect()")?;
    Ok(())
}

pub fn killed_loses_nothing_stored() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    host.refused(18711..18714)?;
    home.wait_for_failures(3, SOON)?;
    let objects = bpf_objects::objects(agent.pid())?;
    ensure!(objects.iter().any(|(kind, _)| *kind == "prog"), "it has no program: {objects:?}");
    agent.kill()?;
    ensure!(home.failures()? == 3, "fewer after it was killed");
    let deadline = Instant::now() + Duration::from_secs(5);
    for (kind, id) in objects {
        while bpf_objects::exists(kind, id)? {
            ensure!(Instant::now() < deadline, "left behind: {kind} {id}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let again = Agent::start(&home, &[host.variable()])?;
    host.refused(18714..18715)?;
    home.wait_for_failures(4, SOON)?;
    again.stop()?;
    Ok(())
}

pub fn history_chooses() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let agent = Agent::start(&home, &[host.variable()])?;
    host.refused(18721..18724)?;
    home.wait_for_failures(3, SOON)?;
    agent.stop()?;
    let number = |arguments: &[&str]| -> Result<usize> { Ok(home.objects(arguments)?.len() - 1) };
    for (arguments, expected) in [
        (&["dst port 18722"][..], 1),
        (&["not port 18722"], 2),
        (&["comm nd-client and tcp"], 3),
        (&["udp"], 0),
        (&["--code", "refused.*"], 3),
        (&["--code", "timeout.*"], 0),
        (&["--since", "1h"], 3),
        (&["--since", "2h", "--until", "1h"], 0),
        (&["--details"], 3),
    ] {
        let found = number(arguments)?;
        ensure!(found == expected, "{found} and not {expected} with {arguments:?}");
    }
    home.history_of(&["--by", "destination"])?.says("127.0.0.1:18723   1 failure\n✗ nd-client")?;
    home.history_of(&["--by", "process"])?.says("nd-client   3 failures\n")?;
    // Most of a day had no agent.
    home.history_of(&[])?.says("netdiag: no agent ran from ")?;
    for (arguments, why) in [
        (&["history", "--since", "whenever"][..], "whenever"),
        (&["history", "--since", "1h", "--until", "2h"], "--since is after --until"),
        (&["history", "port eighty"], "port eighty"),
    ] {
        run(home.netdiag(arguments)?, SOON)?.exits(2)?.says(why)?;
    }
    Ok(())
}

pub fn history_without_a_store() -> Result<()> {
    let home = Home::new()?;
    let output = run(home.netdiag(&["history"])?, SOON)?;
    output.exits(2)?.says("no history in")?.says("netdiag agent")?;
    Ok(())
}

/// A password on a command line is in no file of the store, unless that was asked for.
pub fn arguments_are_not_stored() -> Result<()> {
    const SECRET: &str = "hunter2hunter2";
    for (variable, expected) in [("false", false), ("true", true)] {
        let (home, host) = (Home::new()?, Host::new()?);
        let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_HISTORY_ARGUMENTS", variable)])?;
        let url = "http://127.0.0.1:18731/";
        host.namespace.run(&["curl", "-s", "--oauth2-bearer", SECRET, url])?.exits(7)?;
        home.wait_for_failures(1, SOON)?;
        agent.stop()?;
        let stored = |part: &str| -> Result<bool> {
            for entry in std::fs::read_dir(home.history())? {
                let bytes = std::fs::read(entry?.path())?;
                if bytes.windows(part.len()).any(|window| window == part.as_bytes()) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        ensure!(stored("127.0.0.1:18731")?, "the failure is not where it is looked for");
        let found = stored(SECRET)?;
        // curl may be gone before its command line can be read; that nothing leaks is what counts.
        ensure!(!found || expected, "the store has an argument");
    }
    Ok(())
}
