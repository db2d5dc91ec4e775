//! `netdiag history [FILTER]`

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use netdiag::agent::config::Config;
use netdiag::agent::history::{Group, Past, Query, fold, past};
use netdiag::output::{Gap, Head, JsonLines, Look, PastHead, PastSummary, card, problem};
use netdiag::output::{Sink as Pipe, Stream as Reader};
use netdiag::when::parse_moment;

use super::args::{By, Format, Global, HistoryArgs};
use super::{line, say, sink};

pub fn history(args: HistoryArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let query = query(&args, now)?;
    let mut folded = fold();
    let mut rows = Vec::new();
    let mut ahead = 0;
    let past = past(&query, |row| {
        folded.add(row);
        // What failed since the question was asked is not meant.
        if row.first.duration_since(now) > SignedDuration::from_secs(1) {
            ahead += row.count;
        }
        if args.details {
            rows.push(row.clone());
        }
    });
    let place = query.dir.display();
    let past = past.with_context(|| {
        format!("no history in {place}: `netdiag agent` writes one, and --dir says where else it is")
    })?;
    let groups = folded.groups();
    let summary = PastSummary { ahead, ..summary(&query, &groups, &past, now) };
    let out = sink::open(global, sink::Stream::Stdout)?;
    let look = sink::look(global, sink::Stream::Stdout);
    let mut unreadable = 0;
    match global.format {
        Format::Json => {
            let mut lines = JsonLines::new(out);
            let details = rows.iter().map(|row| past.report(row));
            let problems = groups.iter().map(|group| group.report(&past));
            let reports: Box<dyn Iterator<Item = _>> =
                if args.details { Box::new(details) } else { Box::new(problems) };
            for report in reports {
                match report {
                    Ok(report) if lines.write(&report)? == Reader::Closed => return Ok(ExitCode::SUCCESS),
                    Ok(_) => {}
                    Err(_) => unreadable += 1,
                }
            }
            let _ = lines.write(&summary)?;
        }
        Format::Text => {
            let mut pipe = Pipe::new(out);
            let texts: Box<dyn Iterator<Item = Option<String>>> = if args.details {
                Box::new(rows.iter().map(|row| {
                    let report = past.report(row).ok()?;
                    Some(format!(
                        "{}\n{}\n",
                        report.last.strftime("%Y-%m-%d %H:%M:%S UTC"),
                        card(&report, &look)
                    ))
                }))
            } else {
                Box::new(problems(&groups, &past, args.by, now, &look))
            };
            for text in texts {
                match text {
                    Some(text) if pipe.write(&text)? == Reader::Closed => return Ok(ExitCode::SUCCESS),
                    Some(_) => {}
                    None => unreadable += 1,
                }
            }
            line(&summary.text());
        }
    }
    if unreadable > 0 {
        say(format_args!("{unreadable} stored diagnoses could not be read"));
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &HistoryArgs, now: Timestamp) -> anyhow::Result<Query> {
    let filter = super::filter(&args.filter)?;
    let moment = |text: &str| parse_moment(text, now).map_err(anyhow::Error::msg);
    let since = moment(&args.since)?;
    let until = args.until.as_deref().map_or(Ok(Timestamp::MAX), moment)?;
    anyhow::ensure!(since <= until, "--since is after --until");
    let dir: PathBuf = match &args.dir {
        Some(dir) => dir.clone(),
        None => Config::load(args.config.as_deref())?.history.dir,
    };
    Ok(Query { dir, since, until, code: args.code.clone(), filter })
}

fn summary(query: &Query, groups: &[Group], past: &Past, now: Timestamp) -> PastSummary {
    let until = if query.until == Timestamp::MAX { now } else { query.until };
    let gaps = past.gaps(query.since, until);
    PastSummary {
        head: Head::new("history", now),
        since: query.since,
        until,
        ahead: 0,
        failures: groups.iter().map(|group| group.count).sum(),
        problems: groups.len() as u64,
        not_stored: past.not_stored,
        gaps: gaps.into_iter().map(|(from, until)| Gap { from, until }).collect(),
        unreadable: past.unreadable.clone(),
    }
}

/// The texts of all problems, below a line for each destination or process where that is asked for; `None` for one
/// that cannot be read.
fn problems<'a>(
    groups: &'a [Group],
    past: &'a Past,
    by: By,
    now: Timestamp,
    look: &'a Look,
) -> impl Iterator<Item = Option<String>> + 'a {
    let mut totals: HashMap<String, u64> = HashMap::new();
    for group in groups {
        *totals.entry(name(group, by)).or_default() += group.count;
    }
    let mut sorted: Vec<(u64, String, &Group)> = groups
        .iter()
        .map(|group| {
            let name = name(group, by);
            (totals.get(&name).copied().unwrap_or(0), name, group)
        })
        .collect();
    // A stable sort: the most frequent problems stay first below each line.
    if by != By::Cause {
        sorted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    }
    let mut last = None;
    sorted.into_iter().map(move |(failures, name, group)| {
        let text = group.report(past).ok().map(|report| problem(&report, group.several, now, look))?;
        if by == By::Cause {
            return Some(format!("{text}\n"));
        }
        let head = if last.as_ref() == Some(&name) {
            String::new()
        } else {
            PastHead { name: &name, failures }.text(look)
        };
        last = Some(name);
        Some(format!("{head}{text}\n"))
    })
}

/// What a group is listed under.
fn name(group: &Group, by: By) -> String {
    let row = &group.row;
    match by {
        By::Cause => row.code.clone(),
        By::Process => row.comm.clone().unwrap_or_else(|| "unknown process".to_owned()),
        By::Destination if row.is_inbound() => row.local.to_string(),
        By::Destination => row.peer.to_string(),
    }
}
