//! What `netdiag doctor` says of an agent is what then happens.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use netdiag_tests::netdiag::{Agent, Home, binary, options};
use netdiag_tests::process::{patience, run};
use netdiag_tests::tools;
use serde_json::Value;

use super::{Host, SOON};

/// What it says of the agent.
struct Said(Vec<Value>);

impl Said {
    fn of(command: Command) -> Result<Self> {
        let output = run(command, SOON)?;
        ensure!((0..=1).contains(&output.code()), "{output}");
        let checks = output.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        ensure!(checks.iter().all(|check| check["kind"] == "check"), "{output}");
        Ok(Self(checks.into_iter().filter(|check| check["layer"] == "agent").collect()))
    }

    /// The summary of a check with this status.
    fn is(&self, name: &str, status: &str, part: &str) -> Result<()> {
        let check =
            self.0.iter().find(|check| check["name"] == name).with_context(|| format!("no {name}"))?;
        let summary = check["summary"].as_str().unwrap_or_default();
        ensure!(
            check["status"] == status && summary.contains(part),
            "{status} with {part:?} expected: {check}"
        );
        Ok(())
    }
}

const DOCTOR: &[&str] = &["doctor", "--format", "json"];

pub fn of_its_home() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    let said = Said::of(home.netdiag(DOCTOR)?)?;
    said.is("capabilities", "ok", "all 7")?;
    said.is("configuration", "ok", "")?;
    said.is("run directory", "ok", "which it makes at its start")?;
    said.is("store", "ok", "which it makes at its start")?;
    said.is("running", "ok", "none")?;
    ensure!(!home.history().exists(), "doctor made a directory");

    let socket = home.path().join("agent.sock").to_string_lossy().into_owned();
    let agent = Agent::start(&home, &[host.variable(), ("NETDIAG_SOCKET", &socket)])?;
    agent.wait_for_page("/readyz", 200, "\"status\":\"ok\"", SOON)?;
    let mut command = home.netdiag(DOCTOR)?;
    command.env("NETDIAG_SOCKET", &socket);
    let said = Said::of(command)?;
    said.is("running", "ok", &format!("process {}: ready", agent.pid()))?;
    said.is("store", "ok", " GB left")?;
    let output = run(home.netdiag(&["doctor"])?, SOON)?;
    output.says(&format!("process {}; ", agent.pid()))?.says("names no address")?;
    agent.kill()?;
    let deadline = Instant::now() + patience(SOON);
    while Said::of(home.netdiag(DOCTOR)?)?.is("running", "ok", "none").is_err() {
        ensure!(Instant::now() < deadline, "it takes a killed agent for a running one");
    }
    Ok(())
}

pub fn of_a_wrong_configuration() -> Result<()> {
    let home = Home::new()?;
    let file = home.path().join("agent.toml");
    std::fs::write(&file, "# a comment\nlisen = \"127.0.0.1:1\"\n")?;
    let path = file.to_string_lossy().into_owned();
    let with_file = home.netdiag(&[DOCTOR, &["--config", &path]].concat())?;
    Said::of(with_file)?.is("configuration", "fail", &format!("{path}:2: "))?;
    let mut command = home.netdiag(DOCTOR)?;
    command.env("NETDIAG_HEARTBEAT", "often");
    Said::of(command)?.is("configuration", "fail", "NETDIAG_HEARTBEAT: `often`")
}

/// Root may write it, and not with what the agent keeps of root's rights.
pub fn of_a_store_of_another_user() -> Result<()> {
    let (home, host) = (Home::new()?, Host::new()?);
    std::fs::create_dir(home.history())?;
    std::os::unix::fs::chown(home.history(), Some(65_534), Some(65_534))?;
    Said::of(home.netdiag(DOCTOR)?)?.is("store", "fail", "Permission denied without CAP_DAC_OVERRIDE")?;
    let agent = Agent::start(&home, &[host.variable()])?;
    agent.says("netdiag: history: cannot store in ", SOON)?;
    agent.stop()?;
    Ok(())
}

/// Without each capability it says whether the agent would start, and so it is.
pub fn of_missing_capabilities() -> Result<()> {
    for (without, status, starts) in [
        ("syslog", "warn", true),
        ("sys_ptrace", "warn", true),
        ("dac_read_search", "warn", true),
        ("net_admin", "fail", false),
        ("sys_admin", "fail", false),
    ] {
        let (home, host) = (Home::new()?, Host::new()?);
        let with_less = |arguments: &[&str]| -> Result<Command> {
            let mut command = Command::new(tools::path("setpriv"));
            command.args([&format!("--bounding-set=-{without}"), "--"]);
            command.arg(binary().context("no netdiag binary")?).args(options()).args(arguments);
            home.settle(&mut command);
            let (name, value) = host.variable();
            command.env(name, value);
            Ok(command)
        };
        let name = format!("CAP_{}", without.to_uppercase());
        let said = Said::of(with_less(DOCTOR)?)?;
        said.is("capabilities", status, &name)?;
        let steps = said.0[0]["next_steps"].to_string();
        ensure!(steps.contains("not in the bounding set"), "{steps}");
        if starts {
            let agent = Agent::launch(with_less(&["agent"])?)?;
            host.refused(18891..18892)?;
            agent.wait_for(super::FAILURES, &["code=\"refused.no-listener\""], 1.0, SOON)?;
            agent.stop()?;
        } else {
            run(with_less(&["agent"])?, SOON)?.exits(2)?.says(&name)?;
        }
    }
    Ok(())
}
