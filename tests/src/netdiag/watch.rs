//! `netdiag watch [FILTER]`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::report::{Report, parse, state};
use super::vectors;
use crate::net::Namespace;
use crate::process::{Process, patience};

const START_LIMIT: Duration = Duration::from_secs(20);
const EVIDENCE: &str = "evidence.jsonl";
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A `netdiag watch` on the host, which sees every namespace.
#[derive(Debug)]
pub struct Watch<'a> {
    process: Process,
    namespaces: Vec<&'a Namespace>,
    directory: TempDir,
}

fn with_options(arguments: &[&str]) -> Vec<String> {
    super::options().into_iter().chain(arguments.iter().map(|argument| (*argument).to_owned())).collect()
}

impl<'a> Watch<'a> {
    /// Starts it on the host and waits until it watches. The report will hold what happens in
    /// `namespaces` only.
    ///
    /// # Errors
    /// When it cannot be started or does not say that it is ready.
    pub fn start(namespaces: &[&'a Namespace], arguments: &[&str]) -> Result<Self> {
        Self::launch(Command::new(binary()?), namespaces, &with_options(arguments))
    }

    /// Starts it inside the first of the namespaces.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_inside(namespaces: &[&'a Namespace], arguments: &[&str]) -> Result<Self> {
        let inside = namespaces.first().context("no namespace")?;
        Self::launch(inside.command(&binary()?.to_string_lossy()), namespaces, &with_options(arguments))
    }

    /// As [`Self::start_inside`] with another program, to prove the harness.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program_inside(
        program: &Path,
        namespaces: &[&'a Namespace],
        arguments: &[&str],
    ) -> Result<Self> {
        let inside = namespaces.first().context("no namespace")?;
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::launch(inside.command(&program.to_string_lossy()), namespaces, &arguments)
    }

    fn launch(mut command: Command, namespaces: &[&'a Namespace], arguments: &[String]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        command.args(["watch", "--format", "json", "--output"]).arg(directory.path().join("report.jsonl"));
        if vectors::directory().is_some() {
            command.arg("--save-evidence").arg(directory.path().join(EVIDENCE));
        }
        command.args(arguments).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        let process = Process::spawn(command)?;
        process.wait_for_error_line("netdiag: watching", START_LIMIT)?;
        Ok(Self { process, namespaces: namespaces.to_vec(), directory })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("report.jsonl")
    }

    /// Waits until a diagnosis with this code was written.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn wait_for(&self, code: &str, limit: Duration) -> Result<()> {
        self.wait_for_number(1, code, limit)
    }

    /// Waits until so many diagnoses with this code were written.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_number(&self, number: usize, code: &str, limit: Duration) -> Result<()> {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            let text = std::fs::read_to_string(self.file()).unwrap_or_default();
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            if parse(whole)?.iter().filter(|object| object["code"] == code).count() >= number {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "no {code}, or too few, within {limit:?}; so far:\n{text}\n-- stderr --\n{}\n{}",
                self.process.stderr(),
                state(&self.namespaces)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it as Ctrl-C does and reads its report.
    ///
    /// # Errors
    /// When it does not end in time or wrote no report.
    pub fn stop(self) -> Result<Report> {
        let file = self.file();
        let Self { process, namespaces, directory } = self;
        process.signal(Signal::SIGINT)?;
        let state = state(&namespaces);
        let output = process.wait(STOP_LIMIT)?;
        let code = output.code();
        let mut report = Report::read(&file, code, output.stdout, output.stderr, state)?;
        if let Some(vectors) = vectors::directory() {
            vectors::record(&vectors, &directory.path().join(EVIDENCE), &report)?;
        }
        drop(directory);
        let inodes: Vec<u64> = namespaces.iter().map(|namespace| namespace.inode()).collect();
        report.keep_only(&inodes);
        Ok(report)
    }
}

fn binary() -> Result<PathBuf> {
    super::binary().context("no netdiag binary; build it or set NETDIAG_BIN")
}
