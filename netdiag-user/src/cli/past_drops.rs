//! `netdiag drops --since-agent`

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use jiff::Timestamp;
use netdiag::agent::ask::{Agent, DropsPart, NotAsked, Request};
use netdiag::agent::config::Config;
use netdiag::drops::{By, Groups, Who};
use netdiag::engine::now_ns;
use netdiag::enrich::firewall::Firewall;
use netdiag::filter::Filter;
use netdiag::output::{Clock, DropReport, Head, PastDropsReport, Stream as Reader, drop_block, normal_line};

use super::args::{DropsArgs, Global};
use super::sink::{self, Language, Stream};
use super::{drops, line};

/// Tells what the agent has counted.
pub fn tell(args: &DropsArgs, global: &Global, filter: Option<&Filter>) -> anyhow::Result<ExitCode> {
    let by = drops::by(args.by);
    let of_process = by == By::Process || filter.is_some_and(Filter::mentions_process);
    ensure!(
        !of_process,
        "the agent does not look for the processes of dropped packets: leave out --since-agent"
    );
    let agent = match Config::load(None)?.query_path().map(|path| Agent::find(&path)) {
        Some(Ok(agent)) => agent,
        None | Some(Err(NotAsked::NoAgent)) => {
            bail!(
                "no agent runs that could be asked: start one with `netdiag agent`, or count from now on without --since-agent"
            )
        }
        Some(Err(error)) => bail!("{error}"),
    };
    let since = agent.since();
    let (mut groups, mut who) = (Groups::new(by), Who::default());
    let (mut not_told_apart, mut not_recorded) = (0, 0);
    agent.ask(&Request::Drops, |part: DropsPart| {
        match part {
            DropsPart::Drop(past) => not_told_apart += past.add_to(&mut groups, by, filter, &mut who),
            DropsPart::NotRecorded(number) => not_recorded = number,
        }
        ControlFlow::Continue(())
    })?;
    let now = Timestamp::now();
    let seconds = now.duration_since(since).as_secs_f64();
    // Their times are wall times already: the agent has seen the clock being set, and the machine asleep.
    let clock = Clock::new(0);
    let mut firewall = Firewall::default();
    let mut report = PastDropsReport {
        head: Head::new("past-drops", now),
        since,
        losses: 0,
        groups: 0,
        normal: 0,
        not_told_apart,
        not_recorded,
    };
    let (mut out, look) = (Language::open(global, Stream::Stdout)?, sink::look(global, Stream::Stdout));
    let mut normal = Vec::new();
    for group in groups.all() {
        // It may have been removed since, and its handle be that of another.
        if let Some(rule) = &mut group.sample.rule {
            firewall.look_again(group.sample.packet.netns, rule, now_ns());
        }
        let told = DropReport::of_group(group, by, seconds, &clock);
        if told.normal {
            report.normal += told.count;
            normal.push(told);
            continue;
        }
        report.losses += told.count;
        report.groups += 1;
        let text = drop_block(&told, &look) + "\n";
        if out.object(&told)? == Reader::Closed || out.text(&text)? == Reader::Closed {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if !normal.is_empty() {
        let _ = out.text("normal: no loss, or one that TCP expects\n")?;
    }
    for told in &normal {
        if out.object(told)? == Reader::Closed || out.text(&normal_line(told, &look))? == Reader::Closed {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let _ = out.object(&report)?;
    if out.is_text() {
        line(&report.text());
    }
    Ok(ExitCode::SUCCESS)
}
