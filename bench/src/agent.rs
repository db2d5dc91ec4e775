//! A `netdiag agent` to be measured, and what it holds.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netdiag_tests::bpf_objects;
use netdiag_tests::netdiag::{Agent, Home};
use netdiag_tests::process::Process;
use serde::Serialize;
use serde_json::Value;

use crate::context::{Context, finish, pause};
use crate::tracer::{die_with_parent, memory};

pub const FAILURES: &str = "netdiag_connection_failures_total";
const HISTORY_LIMIT: Duration = Duration::from_secs(60);

/// Starts it with these environment variables, and waits until it watches.
///
/// # Errors
/// When it does not.
pub fn start(context: &Context, home: &Home, variables: &[(&str, &str)]) -> Result<Agent> {
    let mut command = Command::new(&context.netdiag);
    command.arg("agent");
    home.settle(&mut command);
    command.envs(variables.iter().copied());
    die_with_parent(&mut command);
    Agent::launch(command)
}

/// The problems that it has stored, and the summary.
///
/// # Errors
/// When there is no history.
pub fn history(context: &Context, home: &Home) -> Result<(Vec<Value>, Value)> {
    let mut command = Command::new(&context.netdiag);
    command.args(["history", "--format", "json"]);
    home.settle(&mut command);
    let output = finish(Process::spawn(command)?, HISTORY_LIMIT)?;
    ensure!(output.status.success(), "netdiag history: {output}");
    let lines = output.stdout.lines().map(serde_json::from_str);
    let mut objects: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let summary = objects.pop().context("a history without a summary")?;
    Ok((objects, summary))
}

/// Waits until the number of failures does not grow any more.
///
/// # Errors
/// When it is gone, or the number still grows after `limit`.
pub fn settled(agent: &Agent, limit: Duration) -> Result<u64> {
    let end = Instant::now() + limit;
    let mut last = None;
    while Instant::now() < end {
        let now = agent.metric(FAILURES, &[])?;
        if last == Some(now) {
            return Ok(now as u64);
        }
        last = Some(now);
        pause(Duration::from_secs(3))?;
    }
    bail!("new failures are still told of after {} s", limit.as_secs())
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Held {
    pub descriptors: usize,
    /// Programs, links and maps.
    pub objects: usize,
    /// Memory of its own; pages of the program come as it is used.
    pub memory: u64,
}

impl Held {
    /// # Errors
    /// When it is gone.
    pub fn by(agent: &Agent) -> Result<Self> {
        let pid = agent.pid();
        Ok(Self {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            objects: bpf_objects::objects(pid)?.len(),
            memory: memory(pid, "RssAnon").context("the agent is gone")?,
        })
    }
}
