//! `netdiag drops [FILTER]`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::report::{parse, require, value_at};
use crate::net::Namespace;
use crate::process::{Process, patience};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A `netdiag drops` on the host, which sees every namespace.
#[derive(Debug)]
pub struct Drops {
    process: Process,
    directory: TempDir,
}

impl Drops {
    /// Starts it and waits until it counts.
    ///
    /// # Errors
    /// When it cannot be started or does not say that it is ready.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command =
            Command::new(super::binary().context("no netdiag binary; build it or set NETDIAG_BIN")?);
        command.args(["drops", "--format", "json", "--output"]).arg(directory.path().join("report.jsonl"));
        command.args(super::options()).args(arguments).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        let process = Process::spawn(command)?;
        process.wait_for_error_line("netdiag: counting", START_LIMIT)?;
        Ok(Self { process, directory })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("report.jsonl")
    }

    /// Waits until something was written that `is_wanted`.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn wait_for(&self, limit: Duration, is_wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience(limit);
        loop {
            let text = std::fs::read_to_string(self.file()).unwrap_or_default();
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            if parse(whole)?.iter().any(&is_wanted) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not within {limit:?}:\n{text}\n{}", self.process.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it as Ctrl-C does and reads what it told.
    ///
    /// # Errors
    /// When it does not end in time, ends with another status than 0, or wrote no report.
    pub fn stop(self) -> Result<DropsReport> {
        let file = self.file();
        self.process.signal(Signal::SIGINT)?;
        let output = self.process.wait(STOP_LIMIT)?;
        output.exits(0)?;
        let objects = parse(&std::fs::read_to_string(file)?)?;
        let (drops, others): (Vec<Value>, Vec<Value>) =
            objects.into_iter().partition(|object| object["kind"] == "drop");
        let status = others.into_iter().find(|object| object["kind"] == "status").context("no status")?;
        Ok(DropsReport { drops, status })
    }
}

/// What `netdiag drops` told.
#[derive(Debug)]
pub struct DropsReport {
    /// The objects with kind `drop`.
    pub drops: Vec<Value>,
    /// The last object.
    pub status: Value,
}

impl DropsReport {
    /// Losses with a sample in one of these namespaces: what else happens on the machine is none of a scenario's
    /// business.
    pub fn losses(&self, namespaces: &[&Namespace]) -> Vec<Drop<'_>> {
        self.within(namespaces).filter(|drop| drop.value["normal"] == false).collect()
    }

    /// The same of what is normal.
    pub fn normal(&self, namespaces: &[&Namespace]) -> Vec<Drop<'_>> {
        self.within(namespaces).filter(|drop| drop.value["normal"] == true).collect()
    }

    fn within<'a>(&'a self, namespaces: &[&Namespace]) -> impl Iterator<Item = Drop<'a>> {
        let inodes: Vec<u64> = namespaces.iter().map(|namespace| namespace.inode()).collect();
        let drops = self.drops.iter().map(|value| Drop { value, report: self });
        drops.filter(move |drop| {
            drop.at("/sample/netns").as_u64().is_some_and(|inode| inodes.contains(&inode))
        })
    }

    /// The one loss in these namespaces, which must have this code.
    ///
    /// # Errors
    /// When there is another, none or more.
    pub fn the_only(&self, code: &str, namespaces: &[&Namespace]) -> Result<Drop<'_>> {
        match self.losses(namespaces).as_slice() {
            [only] if only.at("/code") == code => Ok(*only),
            _ => bail!("expected {code} and nothing else\n{}", self.dump()),
        }
    }

    /// Requires that nothing was lost in these namespaces.
    ///
    /// # Errors
    /// When something was.
    pub fn nothing(&self, namespaces: &[&Namespace]) -> Result<()> {
        ensure!(self.losses(namespaces).is_empty(), "expected no loss\n{}", self.dump());
        Ok(())
    }

    /// How many drops of this reason there were on the whole machine.
    pub fn total(&self, reason: &str) -> u64 {
        let reasons = self.status["drops"]["reasons"].as_array().into_iter().flatten();
        reasons.filter(|entry| entry["reason"] == reason).filter_map(|entry| entry["count"].as_u64()).sum()
    }

    /// All of it as text.
    pub fn dump(&self) -> String {
        let drops: String = self.drops.iter().map(|drop| format!("{drop:#}\n")).collect();
        format!("{drops}{:#}", self.status["drops"])
    }
}

/// Drops that belong together; its checks chain.
#[derive(Debug, Clone, Copy)]
pub struct Drop<'a> {
    /// The object, as in the output contract.
    pub value: &'a Value,
    report: &'a DropsReport,
}

impl Drop<'_> {
    /// The value at a JSON pointer; null where there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        value_at(self.value, pointer)
    }

    /// Requires a value at a JSON pointer.
    ///
    /// # Errors
    /// When it is another.
    pub fn has(self, pointer: &str, expected: impl Into<Value>) -> Result<Self> {
        require(self.value, pointer, &expected.into(), || self.report.dump())?;
        Ok(self)
    }

    /// Requires so many drops.
    ///
    /// # Errors
    /// When there are more or less.
    pub fn counts(self, count: u64) -> Result<Self> {
        self.has("/count", count)
    }
}
