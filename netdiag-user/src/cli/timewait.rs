//! `netdiag timewait [FILTER]`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use netdiag::agent::ask::NotAsked;
use netdiag::engine::now_ns;
use netdiag::filter::Filter;
use netdiag::kernel::time_wait::Closers;
use netdiag::output::{Clock, Sink, Stream as Reader, Told, time_wait_json, time_wait_text};
use netdiag::whose::time_wait::{By, Found, Look, Tracker, group, verdict};
use nix::sys::signal::Signal;

use super::args::{AskArgs, Format, Global, GroupBy, TimewaitArgs};
use super::events::{Signals, wait_for_signal};
use super::sink::{self, Stream};
use super::{ask, say};

/// The kernel side must be asked before it forgets.
const POLL: Duration = Duration::from_secs(1);
/// Polls between two tables of --follow.
const FOLLOW_POLLS: u32 = 2;
/// Where this program has to see for itself who closes.
const USUAL_DURATION: Duration = Duration::from_secs(5);

pub fn timewait(args: TimewaitArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = super::filter(&args.filter)?;
    let mut out = Sink::new(sink::open(global, Stream::Stdout)?);
    let mut signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let mut source = Source::find(args.ask)?;
    let duration = match (args.duration, args.follow) {
        (Some(duration), _) => Some(duration),
        (None, true) => None,
        // The agent has watched already.
        (None, false) => Some(if source.is_agent() { Duration::ZERO } else { USUAL_DURATION }),
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
            source.poll();
            continue;
        }
        let text = told(&mut source, filter.as_ref(), &args, global)?;
        if out.write(&text)? == Reader::Closed || is_last {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Who knows who closed what.
enum Source {
    /// It is asked anew each time.
    Agent(AskArgs),
    /// This program, from now on.
    Own(Box<(Closers, Tracker)>),
}

impl Source {
    fn find(args: AskArgs) -> anyhow::Result<Self> {
        match ask::agent(args) {
            Some(agent) if agent.knows_owners() => Ok(Self::Agent(args)),
            _ => Self::own(),
        }
    }

    fn own() -> anyhow::Result<Self> {
        let closers = Closers::start()?;
        let tracker = Tracker::new(closers.since_ns());
        Ok(Self::Own(Box::new((closers, tracker))))
    }

    fn is_agent(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    fn poll(&mut self) {
        if let Self::Own(own) = self {
            let (closers, tracker) = &mut **own;
            tracker.poll(|key| closers.take(key));
        }
    }

    /// What there is, and since when closes are seen, `CLOCK_MONOTONIC`.
    fn look(&mut self) -> anyhow::Result<(Look, u64)> {
        if let Self::Agent(args) = self {
            // First the list, so that the agent knows of all that is on it.
            let mut found = Found::now();
            let owners = ask::find(*args).and_then(|agent| agent.ok_or(NotAsked::NoAgent)?.owners());
            match owners {
                Ok(owners) => {
                    found.outlive();
                    let since_ns = owners.since_ns;
                    return Ok((Tracker::from(owners).look_at(found, |_| None), since_ns));
                }
                Err(error) => ask::not_asked(&error),
            }
            *self = Self::own()?;
        }
        let Self::Own(own) = self else { anyhow::bail!("nobody knows") };
        let (closers, tracker) = &mut **own;
        Ok((tracker.look(|key| closers.take(key)), closers.since_ns()))
    }
}

fn told(
    source: &mut Source,
    filter: Option<&Filter>,
    args: &TimewaitArgs,
    global: &Global,
) -> anyhow::Result<String> {
    let (mut look, since_ns) = source.look()?;
    let watched = Duration::from_nanos(now_ns().saturating_sub(since_ns));
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
        since: Clock::read()?.at(since_ns),
        from_agent: source.is_agent(),
    };
    Ok(match global.format {
        Format::Json => time_wait_json(&told)?,
        Format::Text => {
            let text = time_wait_text(&told, &sink::look(global, Stream::Stdout));
            if args.follow { format!("{}  {text}\n", told.time.strftime("%H:%M:%S")) } else { text }
        }
    })
}
