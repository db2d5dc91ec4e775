//! A `netdiag watch` to be measured.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netdiag_tests::net::Namespace;
use netdiag_tests::process::Process;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bpf::empty::Hook;
use crate::bpf::{self, MapMemory, Usages};
use crate::context::{Context, finish};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
}

/// What it said.
#[derive(Debug)]
pub struct Told {
    /// JSON objects but the last.
    pub objects: Vec<Value>,
    /// The last, kind "status".
    pub status: Value,
}

impl Told {
    /// A counter of the status; 0 where it has none.
    pub fn counter(&self, name: &str) -> u64 {
        self.status["counters"][name].as_u64().unwrap_or(0)
    }
}

impl Tracer {
    /// Starts it for the whole machine, and waits until it watches.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(context: &Context) -> Result<Self> {
        Self::launch(Command::new(&context.netdiag), &[])
    }

    /// Starts it inside a namespace, with a filter: tc is armed there from the start.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_armed(context: &Context, namespace: &Namespace) -> Result<Self> {
        Self::launch(namespace.command(&context.netdiag.to_string_lossy()), &["tcp"])
    }

    fn launch(mut command: Command, filter: &[&str]) -> Result<Self> {
        command.args(["--format", "json", "watch"]).args(filter);
        die_with_parent(&mut command);
        let process = Process::spawn(command)?;
        process.wait_for_error_line("netdiag: watching", START_LIMIT)?;
        Ok(Self { process })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs and time of its programs so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usages(&self) -> Result<Usages> {
        bpf::programs_of(self.pid())
    }

    /// Memory of its maps.
    ///
    /// # Errors
    /// When it is gone.
    pub fn maps(&self) -> Result<Vec<MapMemory>> {
        bpf::maps_of(self.pid())
    }

    /// Ends it as Ctrl-C does.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self) -> Result<Told> {
        self.process.signal(Signal::SIGINT)?;
        let output = finish(self.process, STOP_LIMIT)?;
        if !output.status.success() {
            bail!("netdiag failed: {output}");
        }
        let mut objects = Vec::new();
        for line in output.stdout.lines() {
            objects.push(serde_json::from_str(line).with_context(|| format!("netdiag's line {line}"))?);
        }
        let status: Value = objects.pop().context("netdiag said nothing")?;
        Ok(Told { objects, status })
    }
}

/// Kills the command when this process ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)) };
}

/// Where a netdiag that watches the whole machine attaches what, from its status.
///
/// # Errors
/// When it cannot be run.
pub fn hooks(context: &Context) -> Result<Vec<(String, Hook)>> {
    let told = Tracer::start(context)?.stop()?;
    let programs = told.status["programs"].as_array().context("a status without programs")?;
    let hook = |program: &Value| {
        let name = program["name"].as_str()?.to_owned();
        Some((name, Hook::parse(program["hook"].as_str()?)?))
    };
    Ok(programs.iter().filter_map(hook).collect())
}

/// A field of `/proc/PID/status` that is in kB, as bytes.
pub fn memory(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Time that the threads of a process spent on CPUs so far, in seconds; ended threads do not count.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(nanoseconds.sum::<u64>() as f64 / 1e9)
}
