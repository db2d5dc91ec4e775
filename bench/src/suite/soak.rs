//! An agent with its own budget, while one core makes connections as fast as it can and others fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netdiag_tests::netdiag::{Agent, Home};
use serde_json::{Value, json};

use super::{drop_at_input, fresh_namespace};
use crate::agent::{self, Held};
use crate::context::{Context, pause, result_of, tell};
use crate::load::fail::Failed;
use crate::report::Row;
use crate::stats::thousands;

const NAME: &str = "soak";
/// Where a firewall drops what comes.
const DROPPED: &str = "127.0.0.1:7";
/// Between two failures.
const INTERVAL_MS: u64 = 5;
const SETTLE: Duration = Duration::from_secs(60);
const TARGET_MB: f64 = 2.0;

/// What the load lets fail, five in turn, is diagnosed so. Both ends of the connection that is reset are on this machine.
/// The search for a default route has a budget: without it there is simply no route. Drops above their rate are counted
/// and not told, and then nothing but that the program gave up is known.
const EXPECTED: &[(&[&str], u64)] = &[
    (&["refused.no-listener"], 2),
    (&["reset.linger"], 2),
    (&["timeout.firewall-drop", "timeout.gave-up"], 1),
    (&["unreachable.no-default-route", "unreachable.no-route"], 1),
];

fn span(context: &Context) -> Duration {
    Duration::from_secs(context.pick(600, 60))
}

pub fn seconds(context: &Context) -> f64 {
    span(context).as_secs_f64() + 20.0
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let (busy, failing) = (fresh_namespace()?, fresh_namespace()?);
    drop_at_input(&failing, "tcp dport 7")?;
    let home = Home::new()?;
    let filter = format!("netns {} or netns {}", busy.inode(), failing.inode());
    let variables = [("NETDIAG_FILTER", filter.as_str()), ("NETDIAG_BUDGET_CPU", "1%")];
    let agent = agent::start(context, &home, &variables)?;
    let lasts = span(context).as_secs().to_string();
    let churn = context.load(&busy, context.cpu, &["churn", "--seconds", &lasts])?;
    let interval = INTERVAL_MS.to_string();
    let fail = ["fail", "--seconds", &lasts, "--dropped", DROPPED, "--interval-ms", &interval];
    let fail = context.load(&failing, context.other_cpu, &fail)?;
    let memory = watch(context, &agent)?;
    let failed: Failed = result_of(fail)?;
    let churned: Value = result_of(churn)?;
    agent::settled(&agent, SETTLE)?;
    let metric = |name: &str, labels: &[&str]| agent.metric(name, labels);
    let (counted, unexplained) =
        (metric(agent::FAILURES, &[])?, metric(agent::FAILURES, &["code=\"unexplained\""])?);
    let not_stored = metric("netdiag_history_not_stored_total", &[])?;
    let lost = metric("netdiag_records_lost_total", &[])?;
    let (over, cost) = (metric("netdiag_over_budget", &[])?, metric("netdiag_cost_cpu_ratio", &[])?);
    let steps = ["wire", "samples", "owners"];
    let shed: Vec<&str> = steps
        .into_iter()
        .filter(|step| metric("netdiag_shed", &[&format!("what=\"{step}\"")]).is_ok_and(|on| on > 0.0))
        .collect();
    agent.stop()?;
    let found = found(context, &home)?;
    tell(format_args!(
        "{NAME}: {failed:?} {found:?}; counted {counted}, of these without a code {unexplained}; not stored {not_stored}"
    ));
    let rounds = failed.tried / 5;
    let of = |codes: &[&str]| codes.iter().filter_map(|code| found.get(*code)).sum::<u64>();
    let each = EXPECTED.iter().all(|(codes, number)| of(codes) == number * rounds);
    let wanted = EXPECTED.iter().map(|(_, number)| number * rounds).sum::<u64>();
    let all: u64 = found.values().sum();
    let connections = churned["connections"].as_f64().context("no connections")?;
    let (first, last) = (memory.first().copied().unwrap_or(0), memory.last().copied().unwrap_or(0));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let growth = megabytes(last) - megabytes(first);
    Ok(vec![
        Row::measured(
            NAME,
            "failures made, and found in the history under their code",
            "all, and nothing else",
            format!(
                "{} made, {} of {} ends found",
                thousands(failed.tried as f64),
                thousands(all as f64),
                thousands(wanted as f64)
            ),
            each && all == wanted,
        )
        .with(json!({ "found": found, "rounds": rounds, "counted": counted, "unexplained": unexplained })),
        Row::shown(
            NAME,
            "connections that worked meanwhile",
            format!(
                "{}, {} a second",
                thousands(connections),
                thousands(connections / span(context).as_secs_f64())
            ),
        ),
        Row::measured(NAME, "records lost", "0", format!("{lost:.0}"), lost == 0.0),
        Row::measured(
            NAME,
            "memory of the process, without its program, at the end, above that after half of the time",
            format!("≤ {TARGET_MB} MB"),
            format!("{growth:+.1} MB, {:.1} MB in all", megabytes(last)),
            growth <= TARGET_MB,
        )
        .with(json!({ "samples": memory })),
        Row::shown(
            NAME,
            "its budget of 1 % of a core",
            format!(
                "{:.1} % of a core at the end, programs included; did without: {}{}",
                cost * 100.0,
                if shed.is_empty() { "nothing".to_owned() } else { shed.join(", ") },
                if over > 0.0 { "; over it all the same" } else { "" },
            ),
        ),
    ])
}

/// Its memory, from after half of the time to the end: what it remembers has a bound, which is reached then.
fn watch(context: &Context, agent: &Agent) -> Result<Vec<u64>> {
    let (start, span) = (Instant::now(), span(context));
    let mut memory = Vec::new();
    let mut told = 0;
    while start.elapsed() < span {
        pause(Duration::from_secs(2))?;
        let held = Held::by(agent)?;
        if start.elapsed() >= span / 2 {
            memory.push(held.memory);
        }
        if start.elapsed().as_secs() / 60 > told {
            told += 1;
            tell(format_args!("{NAME}: after {told} min: {held:?}"));
        }
    }
    Ok(memory)
}

/// Failures in the history, by code.
fn found(context: &Context, home: &Home) -> Result<BTreeMap<String, u64>> {
    let (problems, _) = agent::history(context, home)?;
    let mut found = BTreeMap::new();
    for problem in &problems {
        let code = problem["code"].as_str().unwrap_or_default().to_owned();
        *found.entry(code).or_default() += problem["count"].as_u64().unwrap_or(0);
    }
    Ok(found)
}
