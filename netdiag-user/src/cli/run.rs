//! `netdiag run -- COMMAND`

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use netdiag::engine::{Engine, Explained, now_ns};
use netdiag::enrich::netns;
use netdiag::kernel::loader::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::args::{Global, RunArgs};
use super::events::{Received, Signals, wait};
use super::sink::{Sink, Stream};
use super::status::{OwnCost, Status};
use super::{say, trace_rules};

/// A shell's status for a command that is not there.
const NOT_FOUND: u8 = 127;
/// A shell's status for one that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Connections that wait for late evidence are waited for no longer than this after the command's end.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// A closed connection is waited for this long until its FIN is answered.
const GOODBYES: Duration = Duration::from_millis(300);
const IDLE: Duration = Duration::from_secs(1);

pub fn run(args: RunArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let mut sink = Sink::new(global, Stream::Stderr, None, &args.reporting)?;
    let cost = OwnCost::begin(args.reporting.cost.stats);
    let mut engine = Engine::start(Options { follow_processes: true, all: false, ..global.options() })?;
    if args.reporting.trace_rules {
        trace_rules(&mut engine);
    }
    let mut signals =
        Signals::new(&[Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP])?;
    if let Some(own) = netns::current_inode() {
        engine.watch_wire(own);
    }
    let own = engine.own_pid().context(
        "cannot tell its own process id in the initial pid namespace: run netdiag outside of the container",
    )?;
    let mut child = match start(&mut engine, own, &signals, &args.command) {
        Ok(child) => child,
        Err(error) => return Ok(cannot_start(&args.command, &error)),
    };
    let status = loop {
        let timeout =
            engine.next_due_ns().map_or(IDLE, |due| Duration::from_nanos(due.saturating_sub(now_ns())));
        wait(engine.fd(), &signals, timeout.min(IDLE))?;
        take(&mut engine, &mut sink)?;
        if let Some(status) = handle_signals(&mut signals, &mut child)? {
            break status;
        }
    };
    drain(&mut engine, &mut sink, &mut signals, args.reporting.all)?;
    sink.finish()?;
    let seen = sink.seen;
    Status::tell(&mut engine, &mut sink, seen, &cost)?;
    Ok(exit_code(status))
}

/// Starts the command. Following netdiag itself for the time of the fork marks the child from its first
/// instruction on, without a race and without stopping it. It gets the signal mask that netdiag was given.
fn start(engine: &mut Engine, own: u32, signals: &Signals, command: &[OsString]) -> std::io::Result<Child> {
    let other = |error: netdiag::kernel::KernelError| std::io::Error::other(error);
    engine.session().follow(own).map_err(other)?;
    let mut wanted = Command::new(&command[0]);
    wanted.args(&command[1..]);
    let mask = signals.previous();
    // SAFETY: pthread_sigmask is async-signal-safe (signal-safety(7)); nothing else happens in the child.
    unsafe { wanted.pre_exec(move || Ok(mask.thread_set_mask()?)) };
    let child = wanted.spawn();
    engine.session().unfollow(own);
    child
}

fn cannot_start(command: &[OsString], error: &std::io::Error) -> ExitCode {
    let name = command[0].to_string_lossy();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            say(format_args!("{name}: command not found"));
            ExitCode::from(NOT_FOUND)
        }
        _ => {
            say(format_args!("{name}: cannot be executed: {error}"));
            ExitCode::from(NOT_EXECUTABLE)
        }
    }
}

fn take(engine: &mut Engine, sink: &mut Sink) -> anyhow::Result<()> {
    engine.poll(|explained| show(&explained, sink))?;
    sink.tick()
}

fn show(explained: &Explained, sink: &mut Sink) -> anyhow::Result<()> {
    if explained.evidence.connection.asked { sink.take(explained) } else { Ok(()) }
}

/// The command's status if it has ended. Signals that a process sent to netdiag are the command's; those of
/// the terminal it got itself.
fn handle_signals(signals: &mut Signals, child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let mut ended = None;
    while let Some(Received { signal, by_process }) = signals.next()? {
        if signal == Signal::SIGCHLD {
            ended = child.try_wait()?;
        } else if by_process {
            // It may just have ended.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        }
    }
    Ok(ended)
}

/// Waits for connections that are not finished yet; a second Ctrl-C ends the wait.
fn drain(engine: &mut Engine, sink: &mut Sink, signals: &mut Signals, all: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    take(engine, sink)?;
    loop {
        // Of a connection that works only the last FIN is missing, and only `--all` wants to see it.
        let closing = all && start.elapsed() < GOODBYES && engine.has_open_asked();
        let due = engine.next_due_ns();
        if !closing && due.is_none() || start.elapsed() >= PATIENCE {
            break;
        }
        let until = due.map_or(GOODBYES, |due| Duration::from_nanos(due.saturating_sub(now_ns())));
        wait(engine.fd(), signals, until.min(GOODBYES))?;
        take(engine, sink)?;
        if let Some(Received { signal: Signal::SIGINT | Signal::SIGTERM, .. }) = signals.next()? {
            break;
        }
    }
    engine.flush(|explained| show(&explained, sink))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
