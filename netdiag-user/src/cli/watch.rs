//! `netdiag watch [FILTER]`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use netdiag::engine::{Engine, may_match, now_ns};
use netdiag::enrich::netns;
use netdiag::kernel::loader::Options;
use netdiag_ebpf::counters::Counter;
use nix::sys::signal::Signal;

use super::args::{Global, WatchArgs};
use super::events::{Signals, wait};
use super::sink::{Sink, Stream};
use super::status::{OwnCost, Status};
use super::{say, trace_rules};

const IDLE: Duration = Duration::from_secs(1);

pub fn watch(args: WatchArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = super::filter(&args.filter)?;
    let filtered = filter.is_some();
    let early = filter.clone();
    let mut sink = Sink::new(global, Stream::Stdout, filter, &args.reporting)?;
    let cost = OwnCost::begin(args.reporting.cost.stats);
    let mut engine =
        Engine::start(Options { follow_processes: false, all: args.reporting.all, ..global.options() })?;
    if args.reporting.trace_rules {
        trace_rules(&mut engine);
    }
    if let Some(filter) = early {
        engine.only(move |connection| may_match(&filter, connection));
    }
    let mut signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    // The user asked for something in particular: its packets are worth a look from the start. Otherwise tc
    // comes just in time, when a SYN is sent again.
    if (filtered || args.reporting.all)
        && let Some(own) = netns::current_inode()
    {
        for failure in engine.watch_wire(own) {
            say(format_args!("no wire evidence from {failure}"));
        }
    }
    let what = if filtered { args.filter.join(" ") } else { "all connections".to_owned() };
    say(format_args!("watching {what}; Ctrl-C ends it"));
    let end = args.duration.map(|duration| Instant::now() + duration);
    while end.is_none_or(|end| Instant::now() < end) && signals.next()?.is_none() && !sink.is_closed() {
        let due = engine.next_due_ns().map_or(IDLE, |due| Duration::from_nanos(due.saturating_sub(now_ns())));
        let left = end.map_or(IDLE, |end| end.saturating_duration_since(Instant::now()));
        wait(engine.fd(), &signals, due.min(left).min(IDLE))?;
        engine.poll(|explained| sink.take(&explained))?;
        sink.tick()?;
    }
    engine.flush(|explained| sink.take(&explained))?;
    sink.finish()?;
    let opened = engine.counters()?.get(Counter::Opened);
    Status::tell(&mut engine, &mut sink, opened, &cost)?;
    Ok(ExitCode::SUCCESS)
}
