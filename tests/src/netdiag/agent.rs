//! `netdiag agent`, and `netdiag history` that reads what it stored.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{binary, options};
use crate::process::{Output, Process, patience, run};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const READY: &str = "netdiag: agent watching; metrics at http://";

/// The directory of an agent: its store and its lock. It outlives the agent, so that another can follow.
#[derive(Debug)]
pub struct Home(tempfile::TempDir);

impl Home {
    /// # Errors
    /// When there is no room for one.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The directory of the store.
    pub fn history(&self) -> PathBuf {
        self.path().join("history")
    }

    /// `netdiag` with these arguments and this home, which answers on a port of its own.
    ///
    /// # Errors
    /// When there is no netdiag.
    pub fn netdiag(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary().context("no netdiag binary; build it or set NETDIAG_BIN")?);
        command.args(options()).args(arguments);
        self.settle(&mut command);
        Ok(command)
    }

    /// Gives a command this home.
    pub fn settle(&self, command: &mut Command) {
        command
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .env("NETDIAG_HISTORY_DIR", self.history())
            .env("NETDIAG_RUN_DIR", self.path().join("run"))
            .env("NETDIAG_LISTEN", "127.0.0.1:0")
            .env("NETDIAG_HEARTBEAT", "1s")
            // What this machine does beside is not the agent's to make up for.
            .env("NETDIAG_BUDGET_CPU", "10000%");
    }

    /// `netdiag history` of this home.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn history_of(&self, arguments: &[&str]) -> Result<Output> {
        let output = run(self.netdiag(&[&["history"], arguments].concat())?, START_LIMIT)?;
        output.exits(0)?;
        Ok(output)
    }

    /// The objects of `netdiag history --format json`, the last of which is its summary.
    ///
    /// # Errors
    /// As [`Home::history_of`].
    pub fn objects(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let output = self.history_of(&[&["--format", "json"], arguments].concat())?;
        output.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// How many failures `netdiag history` knows of.
    ///
    /// # Errors
    /// As [`Home::history_of`].
    pub fn failures(&self) -> Result<u64> {
        let objects = self.objects(&[])?;
        objects.last().and_then(|summary| summary["failures"].as_u64()).context("no summary")
    }

    /// Waits until the store has this many.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_for_failures(&self, number: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + patience(limit);
        loop {
            let found = self.failures()?;
            ensure!(found <= number, "the store has {found} failures, and only {number} were made");
            if found == number {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the store has {found} failures and not {number}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    address: String,
}

/// An answer of its HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Agent {
    /// Starts it with these environment variables, and waits until it watches.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(home: &Home, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = home.netdiag(&["agent"])?;
        command.envs(variables.iter().copied());
        Self::launch(command)
    }

    /// As [`Agent::start`], with a command that ends up being an agent.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn launch(command: Command) -> Result<Self> {
        let process = Process::spawn(command)?;
        process.wait_for_error_line(READY, START_LIMIT)?;
        let said = process.stderr();
        let line = said.lines().find_map(|line| line.strip_prefix(READY)).context("no address")?;
        let address = line.split('/').next().unwrap_or_default().to_owned();
        Ok(Self { process, address })
    }

    /// Where its HTTP is.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it says this.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn says(&self, text: &str, limit: Duration) -> Result<()> {
        self.until(limit, || Ok(self.said().contains(text).then_some(())))
            .with_context(|| format!("{text:?}"))
    }

    /// Asks over HTTP.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(patience(Duration::from_secs(10))))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// Sum of a metric over the series whose labels contain all of these.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.get("/metrics")?.body;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let named = lines.filter(|line| line.split(['{', ' ']).next() == Some(name));
        let matching = named.filter(|line| labels.iter().all(|label| line.contains(label)));
        Ok(matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Waits until a metric has at least this value.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_for(&self, name: &str, labels: &[&str], least: f64, limit: Duration) -> Result<()> {
        self.until(limit, || Ok((self.metric(name, labels)? >= least).then_some(()))).with_context(|| {
            format!("{name}{labels:?} is {:?} and not {least}", self.metric(name, labels).ok())
        })
    }

    /// Waits until a page has this status, and its text contains `part`.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_for_page(&self, path: &str, status: u16, part: &str, limit: Duration) -> Result<()> {
        let fits = |answer: &Answer| answer.status == status && answer.body.contains(part);
        self.until(limit, || Ok(fits(&self.get(path)?).then_some(())))
            .with_context(|| format!("{path} is {:?} and not {status} with {part:?}", self.get(path).ok()))
    }

    fn until<T>(&self, limit: Duration, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + patience(limit);
        loop {
            if let Some(value) = found()? {
                return Ok(value);
            }
            ensure!(Instant::now() < deadline, "not within {limit:?}; the agent said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it as a service manager does.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self) -> Result<Output> {
        self.process.signal(Signal::SIGTERM)?;
        let output = self.process.wait(STOP_LIMIT)?;
        output.exits(0)?;
        Ok(output)
    }

    /// Ends it as the kernel does when memory is short.
    ///
    /// # Errors
    /// When it was gone already.
    pub fn kill(self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(STOP_LIMIT)?.exits(137).map(drop)
    }
}
