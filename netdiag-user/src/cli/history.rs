//! `netdiag history [FILTER]`

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use netdiag::agent::ask::{Agent, NotAsked, Request};
use netdiag::agent::config::Config;
use netdiag::agent::history::{Query, Told, tell};
use netdiag::output::{Look, PastHead, PastSummary, Report, Stream as Reader, card, problem};

use super::args::{By, Global, HistoryArgs};
use super::sink::{self, Language};
use super::{line, say};

pub fn history(args: HistoryArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let config = match &args.dir {
        Some(_) => None,
        None => Some(Config::load(args.config.as_deref())?),
    };
    let query = query(&args, config.as_ref(), now)?;
    let mut show = Show::new(&args, global, now)?;
    let told = tell(&query, args.details, usize::MAX, now, |told| show.take(told));
    match told {
        Ok(()) => {}
        Err(error) => {
            // The files are root's; the agent reads them for its group.
            let denied = error.kind() == io::ErrorKind::PermissionDenied && !args.ask.no_agent;
            let socket = config.filter(|_| denied).and_then(|config| config.query_path());
            let Some(socket) = socket else { return Err(unreadable(&error, &query)) };
            let agent = match Agent::find(&socket) {
                Ok(agent) => agent,
                Err(NotAsked::NoAgent) => return Err(unreadable(&error, &query)),
                Err(why) => bail!("cannot read {}: {error}; and {why}", query.dir.display()),
            };
            let request = Request::History {
                since_us: query.since.as_microsecond(),
                until_us: (query.until != Timestamp::MAX).then(|| query.until.as_microsecond()),
                code: args.code.clone(),
                filter: args.filter.clone(),
                details: args.details,
            };
            agent.ask(&request, |told| show.take(told))?;
        }
    }
    show.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn unreadable(error: &io::Error, query: &Query) -> anyhow::Error {
    let place = query.dir.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return anyhow!(
            "cannot read {place}: {error}: that takes root, or an agent that runs and may be asked"
        );
    }
    anyhow!("no history in {place}: `netdiag agent` writes one, and --dir says where else it is: {error}")
}

fn query(args: &HistoryArgs, config: Option<&Config>, now: Timestamp) -> anyhow::Result<Query> {
    let filter = super::filter(&args.filter)?;
    let moment = |text: &str| netdiag::when::parse_moment(text, now).map_err(anyhow::Error::msg);
    let since = moment(&args.since)?;
    let until = args.until.as_deref().map_or(Ok(Timestamp::MAX), moment)?;
    anyhow::ensure!(since <= until, "--since is after --until");
    let dir = args.dir.clone().or_else(|| Some(config?.history.dir.clone())).context("no directory")?;
    Ok(Query { dir, since, until, code: args.code.clone(), filter })
}

/// Shows what is told, from the files or by the agent.
struct Show {
    out: Language,
    look: Look,
    by: By,
    now: Timestamp,
    /// Where problems are listed under something else than their cause, they are sorted first.
    problems: Vec<(Report, bool)>,
    summary: Option<PastSummary>,
    unreadable: u64,
    failed: Option<anyhow::Error>,
    closed: bool,
}

impl Show {
    fn new(args: &HistoryArgs, global: &Global, now: Timestamp) -> anyhow::Result<Self> {
        Ok(Self {
            out: Language::open(global, sink::Stream::Stdout)?,
            look: sink::look(global, sink::Stream::Stdout),
            by: args.by,
            now,
            problems: Vec::new(),
            summary: None,
            unreadable: 0,
            failed: None,
            closed: false,
        })
    }

    fn take(&mut self, told: Told) -> ControlFlow<()> {
        let shown = match told {
            Told::Problem { report, several } if self.by == By::Cause || !self.out.is_text() => {
                self.problem(&report, several, "")
            }
            Told::Problem { report, several } => {
                self.problems.push((*report, several));
                Ok(())
            }
            Told::Diagnosis(report) => {
                let last = report.last.strftime("%Y-%m-%d %H:%M:%S UTC");
                let text = format!("{last}\n{}\n", card(&report, &self.look));
                self.show(&report, &text)
            }
            Told::Unreadable => {
                self.unreadable += 1;
                Ok(())
            }
            Told::Summary(summary) => {
                self.summary = Some(summary);
                Ok(())
            }
        };
        self.failed = shown.err();
        if self.closed || self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn problem(&mut self, report: &Report, several: bool, head: &str) -> anyhow::Result<()> {
        let text = format!("{head}{}\n", problem(report, several, self.now, &self.look));
        self.show(report, &text)
    }

    fn show(&mut self, report: &Report, text: &str) -> anyhow::Result<()> {
        self.closed = self.out.object(report)? == Reader::Closed || self.out.text(text)? == Reader::Closed;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.closed {
            return Ok(());
        }
        self.listed()?;
        if let Some(summary) = &self.summary {
            let _ = self.out.object(summary)?;
            if self.out.is_text() {
                line(&summary.text());
            }
        }
        if self.unreadable > 0 {
            say(format_args!("{} stored diagnoses could not be read", self.unreadable));
        }
        Ok(())
    }

    /// Problems below a line for each destination or process.
    fn listed(&mut self) -> anyhow::Result<()> {
        let mut totals: HashMap<String, u64> = HashMap::new();
        let problems = std::mem::take(&mut self.problems);
        for (report, _) in &problems {
            *totals.entry(name(report, self.by)).or_default() += report.count;
        }
        let mut sorted: Vec<(u64, String, Report, bool)> = problems
            .into_iter()
            .map(|(report, several)| {
                let name = name(&report, self.by);
                (totals.get(&name).copied().unwrap_or(0), name, report, several)
            })
            .collect();
        // A stable sort: the most frequent problems stay first below each line.
        sorted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut last = None;
        for (failures, name, report, several) in sorted {
            let head = if last.as_ref() == Some(&name) {
                String::new()
            } else {
                PastHead { name: &name, failures }.text(&self.look)
            };
            self.problem(&report, several, &head)?;
            if self.closed {
                return Ok(());
            }
            last = Some(name);
        }
        Ok(())
    }
}

/// What a problem is listed under.
fn name(report: &Report, by: By) -> String {
    let connection = &report.connection;
    match by {
        By::Cause => report.code.clone(),
        By::Process => report
            .process
            .as_ref()
            .map_or_else(|| "unknown process".to_owned(), |process| process.comm.clone()),
        By::Destination if connection.direction == "inbound" => connection.local.to_string(),
        By::Destination => connection.peer.to_string(),
    }
}
