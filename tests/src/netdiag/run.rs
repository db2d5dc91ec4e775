//! `netdiag run -- COMMAND`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::report::{Report, state};
use super::vectors;
use crate::hooks;
use crate::net::{Namespace, Topology};
use crate::process;

const LIMIT: Duration = Duration::from_secs(40);

/// Commands that let tc watch namespaces of others, while a connection there is suspect.
const WATCH_ALL: [&str; 3] = ["watch", "agent", "drops"];

/// One run of a command under netdiag.
#[derive(Debug)]
pub struct Run<'a> {
    client: &'a Namespace,
    namespaces: Vec<&'a Namespace>,
    outside: bool,
    options: Vec<String>,
    binary: Option<PathBuf>,
    limit: Duration,
}

impl<'a> Run<'a> {
    /// netdiag and the command are both inside `client`.
    pub fn inside(client: &'a Namespace) -> Self {
        Self {
            client,
            namespaces: vec![client],
            outside: false,
            options: Vec::new(),
            binary: super::binary(),
            limit: LIMIT,
        }
    }

    /// netdiag is on the host, and the command enters `client` by `ip netns exec`.
    pub fn outside(client: &'a Namespace) -> Self {
        Self { outside: true, ..Self::inside(client) }
    }

    /// Shows these namespaces too when something is not as expected.
    #[must_use]
    pub fn showing(mut self, namespaces: &[&'a Namespace]) -> Self {
        self.namespaces.extend(namespaces);
        self
    }

    /// Options for `netdiag run`, before the `--`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Another program than the built netdiag, to prove the harness.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// Another limit than 40 s.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When netdiag cannot be started, does not end, writes no report or one that breaks the
    /// contract, or leaves a tc hook behind.
    pub fn command(self, words: &[String]) -> Result<Report> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("report.jsonl");
        let binary = self.binary.as_ref().context("no netdiag binary; build it or set NETDIAG_BIN")?;
        let mut command =
            if self.outside { Command::new(binary) } else { self.client.command(&binary.to_string_lossy()) };
        command.args(["run", "--format", "json", "--output"]).arg(&file);
        // Programs that prove the harness know no such options.
        if self.binary == super::binary() {
            command.args(super::options());
        }
        command.args(&self.options);
        let saves_itself = self.options.iter().any(|option| option.starts_with("--save-evidence"));
        let vectors = vectors::directory().filter(|_| !saves_itself);
        let evidence = directory.path().join("evidence.jsonl");
        if vectors.is_some() {
            command.arg("--save-evidence").arg(&evidence);
        }
        command.arg("--");
        if self.outside {
            command.arg(crate::tools::path("ip")).args(["netns", "exec", self.client.name()]);
        }
        command.args(words).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");

        let before = self.hooks()?;
        let output = process::run(command, self.limit)?;
        let state = state(&self.namespaces);
        let code = output.code();
        let report = Report::read(&file, code, output.stdout, output.stderr, state)?;
        if let Some(vectors) = vectors {
            vectors::record(&vectors, &evidence, &report)?;
        }
        self.left_nothing(&before, &report)?;
        Ok(report)
    }

    /// The tc hooks are as before. A netdiag of another scenario that watches the whole machine comes to these
    /// namespaces as well: what is there too much counts once none lives, and it may have ended just now.
    fn left_nothing(&self, before: &[BTreeSet<String>], report: &Report) -> Result<()> {
        const GRACE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut alone_since = None;
        loop {
            let after = self.hooks()?;
            if before == after {
                return Ok(());
            }
            if WATCH_ALL.iter().any(|command| process::any_with(&["netdiag", command])) {
                alone_since = None;
                ensure!(
                    Instant::now() < deadline,
                    "another netdiag stays: cannot tell whose tc hooks {after:?} are"
                );
            } else {
                let since = *alone_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < GRACE,
                    "tc hooks were {before:?}, now are {after:?}\n{}",
                    report.dump()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn hooks(&self) -> Result<Vec<BTreeSet<String>>> {
        self.namespaces.iter().map(|namespace| hooks::present(Some(namespace))).collect()
    }
}

impl Topology {
    /// The command inside the client's namespace, under a netdiag that is there too.
    ///
    /// # Errors
    /// As [`Run::command`].
    pub fn netdiag_run(&self, words: &[String]) -> Result<Report> {
        Run::inside(&self.client).showing(&[&self.router, &self.server]).command(words)
    }
}
