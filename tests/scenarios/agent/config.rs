//! A configuration that is wrong is refused with its line, and one that is right can be changed while the agent runs.

use anyhow::{Result, ensure};
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::run;
use nix::sys::signal::Signal;

use super::{FAILURES, Host, SOON};

pub fn errors() -> Result<()> {
    let home = Home::new()?;
    let file = home.path().join("agent.toml");
    let path = file.to_string_lossy().into_owned();
    for (text, line, why) in [
        ("# a comment\nlisen = \"127.0.0.1:1\"\n", 2, "lisen"),
        ("[history]\n\nkeep = \"soon\"\n", 3, "soon"),
        ("filter = \"port eighty\"\n", 1, "bad filter"),
        ("[history]\nqueue = 1\n", 2, "between 16 and 100000"),
        ("[history\n", 1, ""),
    ] {
        std::fs::write(&file, text)?;
        for arguments in [&["agent", "--config", &path][..], &["agent", "--check", "--config", &path]] {
            let output = run(home.netdiag(arguments)?, SOON)?;
            output.exits(2)?.says(&format!("netdiag: {path}:{line}: "))?.says(why)?;
            ensure!(output.stderr.lines().count() == 1, "{output}");
        }
    }
    std::fs::write(&file, "")?;
    let mut command = home.netdiag(&["agent", "--config", &path])?;
    command.env("NETDIAG_HISTORY_MAX_SIZE", "much");
    run(command, SOON)?.exits(2)?.says("netdiag: NETDIAG_HISTORY_MAX_SIZE: `much`")?;
    let mut command = home.netdiag(&["agent", "--config", &path])?;
    command.env("NETDIAG_LISTEN", "192.0.2.1:9");
    run(command, SOON)?.exits(2)?.says("cannot listen on 192.0.2.1:9")?;
    run(home.netdiag(&["agent", "--config", "/no/such/file"])?, SOON)?.exits(2)?.says("/no/such/file")?;
    Ok(())
}

pub fn default() -> Result<()> {
    let home = Home::new()?;
    let file = home.path().join("agent.toml");
    let path = file.to_string_lossy().into_owned();
    run(home.netdiag(&["agent", "--print-config", "--output", &path])?, SOON)?.exits(0)?;
    ensure!(std::fs::read_to_string(&file)?.contains("#listen = \"127.0.0.1:9817\""));
    run(home.netdiag(&["agent", "--check", "--config", &path])?, SOON)?.exits(0)?.says("fine")?;
    Ok(())
}

pub fn reload() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let file = home.path().join("agent.toml");
    let path = file.to_string_lossy().into_owned();
    let filter = |ports: &str| format!("filter = \"{} and portrange {ports}\"\n", host.filter);
    std::fs::write(&file, filter("18831-18835"))?;
    let agent = Agent::launch(home.netdiag(&["agent", "--config", &path])?)?;
    host.refused(18835..18837)?;
    agent.wait_for(FAILURES, &[], 1.0, SOON)?;
    std::fs::write(&file, format!("{}[metrics]\ntop = 9\n", filter("18836-18839")))?;
    agent.signal(Signal::SIGHUP)?;
    agent.says("netdiag: configuration reloaded", SOON)?;
    agent.says("netdiag: changed, and needs a restart: metrics.top", SOON)?;
    host.refused(18835..18837)?;
    agent.wait_for(FAILURES, &[], 2.0, SOON)?;
    std::fs::write(&file, "nonsense = 1\n")?;
    agent.signal(Signal::SIGHUP)?;
    agent.says(&format!("netdiag: configuration not reloaded: {path}:1: "), SOON)?;
    host.refused(18835..18837)?;
    agent.wait_for(FAILURES, &[], 3.0, SOON)?;
    ensure!(agent.metric(FAILURES, &[])? == 3.0, "the filter let others through");
    agent.stop()?;
    home.wait_for_failures(3, SOON)
}
