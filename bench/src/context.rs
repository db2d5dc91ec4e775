//! What all benchmarks share: which netdiag, how long, on which CPUs, and whether to stop.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use netdiag_tests::net::Namespace;
use netdiag_tests::process::{Output, Process};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::de::DeserializeOwned;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Mounts tracefs for this process and its children alone, where the machine has not: tracepoints are found there, by
/// other tools and by netdiag too, which else takes a hook that costs more.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tracefs() -> Result<()> {
    const AT: &str = "/sys/kernel/tracing";
    if Path::new(AT).join("events").exists() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("tracefs"), AT, Some("tracefs"), MsFlags::empty(), nothing)
        .with_context(|| format!("mounting tracefs at {AT}"))
}

/// Ctrl-C and the like end the benchmark at the next look, with everything taken down.
///
/// # Errors
/// Never on Linux with these signals.
pub fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// # Errors
/// When the user wants to stop.
pub fn go_on() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("interrupted; processes and namespaces are removed");
    }
    Ok(())
}

/// Sleeps, but no longer than until Ctrl-C.
///
/// # Errors
/// As [`go_on`].
pub fn pause(time: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(20);
    let end = Instant::now() + time;
    loop {
        go_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Context {
    /// The netdiag that is measured.
    pub netdiag: PathBuf,
    /// This program, for the load generators.
    pub own: PathBuf,
    pub pairs: usize,
    pub quick: bool,
    /// Where load runs; interrupts prefer the first CPUs.
    pub cpu: usize,
    /// Where the load's other side runs; the same one on a machine that has only one.
    pub other_cpu: usize,
}

impl Context {
    pub fn new(netdiag: PathBuf, pairs: usize, quick: bool) -> Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        let own = std::env::current_exe()?;
        Ok(Self { netdiag, own, pairs, quick, cpu: cpus - 1, other_cpu: cpus.saturating_sub(2) })
    }

    /// `full`, or `quick` where the user is in a hurry.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Rounds of a comparison that needs fewer than the pairs of wall-clock ratios.
    pub fn rounds(&self) -> usize {
        self.pairs.div_ceil(2)
    }

    /// A load generator inside a namespace; `words` are the arguments after `load --cpu N`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, namespace: &Namespace, cpu: usize, words: &[&str]) -> Result<Process> {
        let mut command: Command = namespace.command(&self.own.to_string_lossy());
        command.arg("load").arg("--cpu").arg(cpu.to_string()).args(words);
        Process::spawn(command)
    }

    /// Runs a load generator to its end and reads its result.
    ///
    /// # Errors
    /// When it fails, or the user interrupts.
    pub fn run_load<T: DeserializeOwned>(&self, namespace: &Namespace, words: &[&str]) -> Result<T> {
        result_of(self.load(namespace, self.cpu, words)?)
    }
}

/// Waits for a load generator's end; the last line is its result.
///
/// # Errors
/// When it fails or takes too long, or the user interrupts.
pub fn result_of<T: DeserializeOwned>(process: Process) -> Result<T> {
    let output = finish(process, Duration::from_secs(120))?;
    if !output.status.success() {
        bail!("a load generator failed: {output}");
    }
    let line = output.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("a load generator's result: {line:?}"))
}

/// Waits for a process' end, at most `limit`.
///
/// # Errors
/// As [`result_of`].
pub fn finish(mut process: Process, limit: Duration) -> Result<Output> {
    let end = Instant::now() + limit;
    while process.is_running() && Instant::now() < end {
        pause(Duration::from_millis(10))?;
    }
    process.wait(Duration::from_secs(1))
}

/// One line for the person who waits.
pub fn tell(text: impl std::fmt::Display) {
    use std::io::Write;
    // That nobody may read it is no error.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
