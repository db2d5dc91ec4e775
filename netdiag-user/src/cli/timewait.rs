//! `netdiag timewait [FILTER]`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use netdiag::engine::now_ns;
use netdiag::filter::Filter;
use netdiag::kernel::time_wait::Closers;
use netdiag::output::{Sink, Stream as Reader, Told, time_wait_json, time_wait_text};
use netdiag::whose::time_wait::{By, Tracker, group, verdict};
use nix::sys::signal::Signal;

use super::args::{Format, Global, GroupBy, TimewaitArgs};
use super::events::{Signals, wait_for_signal};
use super::say;
use super::sink::{self, Stream};

/// The kernel side must be asked before it forgets.
const POLL: Duration = Duration::from_secs(1);
/// Polls between two tables of --follow.
const FOLLOW_POLLS: u32 = 2;
const USUAL_DURATION: Duration = Duration::from_secs(5);

pub fn timewait(args: TimewaitArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = super::filter(&args.filter)?;
    let mut out = Sink::new(sink::open(global, Stream::Stdout)?);
    let mut signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let mut closers = Closers::start()?;
    let mut tracker = Tracker::new(closers.since_ns());
    let duration = match (args.duration, args.follow) {
        (Some(duration), _) => Some(duration),
        (None, true) => None,
        (None, false) => Some(USUAL_DURATION),
    };
    if duration != Some(Duration::ZERO) {
        let ending = match duration {
            Some(duration) => format!("for {} s", duration.as_secs_f64()),
            None => "until Ctrl-C".to_owned(),
        };
        say(format_args!("watching who closes connections {ending}"));
    }
    let end = duration.map(|duration| Instant::now() + duration);
    let mut polls = 0;
    loop {
        let left = end.map_or(POLL, |end| end.saturating_duration_since(Instant::now()));
        let stopped = !left.is_zero() && wait_for_signal(&mut signals, left.min(POLL))?;
        let is_last = stopped || end.is_some_and(|end| Instant::now() >= end);
        polls += 1;
        let is_due = is_last || args.follow && polls % FOLLOW_POLLS == 0;
        if !is_due {
            tracker.poll(|key| closers.take(key));
            continue;
        }
        let text = told(&mut tracker, &mut closers, filter.as_ref(), &args, global)?;
        if out.write(&text)? == Reader::Closed || is_last {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn told(
    tracker: &mut Tracker,
    closers: &mut Closers,
    filter: Option<&Filter>,
    args: &TimewaitArgs,
    global: &Global,
) -> anyhow::Result<String> {
    let watched = Duration::from_nanos(now_ns().saturating_sub(closers.since_ns()));
    let mut look = tracker.look(|key| closers.take(key));
    if let Some(filter) = filter {
        look.keep(|socket| {
            let owner = socket.whose.closer().map(|closer| (closer.pid, closer.comm.as_str()));
            socket.held.is_wanted_of(filter, owner)
        });
    }
    let by = match args.by {
        GroupBy::Process => By::Process,
        GroupBy::Destination => By::Destination,
        GroupBy::Netns => By::Netns,
        GroupBy::Container => By::Container,
    };
    let rows = group(look.sockets.iter(), by);
    let verdict = verdict(&look);
    let told = Told {
        time: Timestamp::now(),
        by,
        rows: &rows,
        ports: &look.ports,
        verdict: &verdict,
        missed: look.missed(),
        incomplete: look.incomplete,
        watched,
    };
    Ok(match global.format {
        Format::Json => time_wait_json(&told)?,
        Format::Text => {
            let text = time_wait_text(&told, &sink::look(global, Stream::Stdout));
            if args.follow { format!("{}  {text}\n", told.time.strftime("%H:%M:%S")) } else { text }
        }
    })
}
