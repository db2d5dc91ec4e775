//! `netdiag drops [FILTER]`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use netdiag::drops::{By, Dropped, Group, Groups, Who};
use netdiag::engine::Engine;
use netdiag::filter::Filter;
use netdiag::kernel::loader::Options;
use netdiag::output::{
    Clock, DropCounts, DropReport, Look, Stream as Reader, drop_block, drop_line, normal_line, when,
};
use nix::sys::signal::Signal;

use super::args::{DropsArgs, DropsBy, Global};
use super::events::{Signals, wait};
use super::sink::{self, Language, Stream};
use super::status::{OwnCost, Status};
use super::{ask, line, past_drops, say};

/// How often `--follow` tells what came.
const INTERVAL: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_millis(500);

pub fn drops(args: DropsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = super::filter(&args.filter)?;
    if args.since_agent {
        return past_drops::tell(&args, global, filter.as_ref());
    }
    let mut teller = Teller::new(&args, global, filter)?;
    let cost = OwnCost::begin(args.cost.stats);
    let mut engine = Engine::start(Options { drops: true, ..global.options() })?;
    teller.start = Instant::now();
    teller.told = teller.start;
    let mut signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let what = if teller.filter.is_some() { args.filter.join(" ") } else { "all packets".to_owned() };
    say(format_args!("counting drops of {what}; Ctrl-C ends it"));
    if let Some(agent) = ask::agent(args.ask) {
        let since = when(agent.since(), Timestamp::now());
        say(format_args!("the agent has counted drops since {since} (netdiag drops --since-agent)"));
    }
    let end = args.duration.map(|duration| teller.start + duration);
    while end.is_none_or(|end| Instant::now() < end) && signals.next()?.is_none() && !teller.closed {
        let left = end.map_or(IDLE, |end| end.saturating_duration_since(Instant::now()));
        wait(engine.fd(), &signals, left.min(IDLE))?;
        teller.take(&mut engine)?;
        if args.follow && teller.told.elapsed() >= INTERVAL {
            teller.follow(&mut engine)?;
        }
    }
    let at_end = Status::new(&mut engine, 0, 0, &cost)?;
    engine.end_drops();
    while teller.take(&mut engine)? > 0 {}
    let status = |engine: &mut Engine| Ok(Status::new(engine, 0, 0, &cost)?.with_cost_of(at_end));
    teller.finish(&mut engine, status)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn by(key: DropsBy) -> By {
    match key {
        DropsBy::Rule => By::Rule,
        DropsBy::Reason => By::Reason,
        DropsBy::Flow => By::Flow,
        DropsBy::Process => By::Process,
        DropsBy::Interface => By::Interface,
    }
}

/// Takes drops, and tells of them.
struct Teller {
    out: Language,
    look: Look,
    clock: Clock,
    filter: Option<Filter>,
    follows: bool,
    by: By,
    groups: Groups,
    who: Who,
    start: Instant,
    /// When groups were told last.
    told: Instant,
    closed: bool,
    shows_cost: bool,
}

impl Teller {
    fn new(args: &DropsArgs, global: &Global, filter: Option<Filter>) -> anyhow::Result<Self> {
        Ok(Self {
            out: Language::open(global, Stream::Stdout)?,
            look: sink::look(global, Stream::Stdout),
            clock: Clock::read()?,
            filter,
            follows: args.follow,
            by: by(args.by),
            groups: Groups::new(by(args.by)),
            who: Who::default(),
            start: Instant::now(),
            told: Instant::now(),
            closed: false,
            shows_cost: args.cost.stats,
        })
    }

    fn take(&mut self, engine: &mut Engine) -> anyhow::Result<usize> {
        let Self { out, look, clock, filter, follows, by, groups, who, start, closed, .. } = self;
        let wants = |drop: &Dropped| filter.as_ref().map_or(Some(true), |filter| filter.matches(drop));
        engine.poll_drops(who, wants, |drop, wanted| {
            if !wanted {
                groups.leave_out(&drop);
                return Ok(());
            }
            if let Some(group) = groups.add(drop)
                && *follows
                && !group.sample.class.is_normal()
            {
                let report = DropReport::of_group(group, *by, start.elapsed().as_secs_f64(), clock);
                group.told = group.count;
                *closed |= tell(out, look, &report, true)?;
            }
            Ok(())
        })
    }

    /// What came since the last time, a line each.
    fn follow(&mut self, engine: &mut Engine) -> anyhow::Result<()> {
        let seconds = self.told.elapsed().as_secs_f64();
        self.told = Instant::now();
        self.clock.renew()?;
        for group in self.groups.all() {
            if group.count == group.told || group.sample.class.is_normal() {
                continue;
            }
            look_again(engine, group);
            let report = DropReport::of_group(group, self.by, seconds, &self.clock);
            group.told = group.count;
            self.closed |= tell(&mut self.out, &self.look, &report, false)?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        engine: &mut Engine,
        status: impl FnOnce(&mut Engine) -> anyhow::Result<Status>,
    ) -> anyhow::Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        self.groups.settle(|limit_key| engine.untold_drops(limit_key));
        let kernel_totals = engine.drop_totals()?;
        let mut totals = self.groups.totals(&kernel_totals, |reason| engine.drop_reason(reason));
        if self.filter.is_none() {
            self.groups.complete(&mut totals);
        }
        let since_told = if self.follows { self.told.elapsed().as_secs_f64() } else { seconds };
        let (mut losses, mut normal) = (Vec::new(), Vec::new());
        for group in self.groups.all() {
            if group.count == group.told {
                continue;
            }
            look_again(engine, group);
            let is_normal = group.sample.class.is_normal();
            let span = if is_normal { seconds } else { since_told };
            let report = DropReport::of_group(group, self.by, span, &self.clock);
            if is_normal { normal.push(report) } else { losses.push(report) }
        }
        // What no record tells of may be anything: with a filter it is left to the closing line.
        if self.filter.is_none() {
            let rest = totals
                .iter()
                .filter_map(|total| DropReport::of_rest(total, self.by, seconds, Timestamp::now()));
            for report in rest {
                if report.normal { normal.push(report) } else { losses.push(report) }
            }
        }
        for report in &losses {
            self.closed |= tell(&mut self.out, &self.look, report, !self.follows)?;
        }
        if !normal.is_empty() {
            self.closed |= self.out.text("normal: no loss, or one that TCP expects\n")? == Reader::Closed;
        }
        for report in &normal {
            self.closed |= self.out.object(report)? == Reader::Closed;
            self.closed |= self.out.text(&normal_line(report, &self.look))? == Reader::Closed;
        }
        let counts = DropCounts::new(&self.groups, &totals, seconds);
        let mut status = status(engine)?;
        let lost = status.closing.lost_events;
        if self.out.is_text() || lost > 0 {
            line(&counts.text(lost));
        }
        status.drops = Some(counts);
        self.closed |= self.out.object(&status)? == Reader::Closed;
        if self.shows_cost && self.out.is_text() {
            status.tell_cost();
        }
        Ok(())
    }
}

/// A rule may have been removed since.
fn look_again(engine: &mut Engine, group: &mut Group) {
    let netns = group.sample.packet.netns;
    if let Some(rule) = &mut group.sample.rule {
        engine.look_at_rule(netns, rule);
    }
}

/// Whether the reader has gone.
fn tell(out: &mut Language, look: &Look, report: &DropReport, whole: bool) -> anyhow::Result<bool> {
    let text = if whole { drop_block(report, look) + "\n" } else { drop_line(report, look) };
    Ok(out.object(report)? == Reader::Closed || out.text(&text)? == Reader::Closed)
}
