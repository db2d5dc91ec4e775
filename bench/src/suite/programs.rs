//! Time in netdiag's programs for each connection that works, and records that it sends.

use anyhow::Result;
use aya::sys::{Stats, enable_stats};
use netdiag_tests::net::Namespace;
use serde_json::json;

use super::fresh_namespace;
use crate::bpf::Usages;
use crate::bpf::empty::{Empties, Hook};
use crate::context::{Context, tell};
use crate::load::churn::Churned;
use crate::report::Row;
use crate::stats::{Spread, thousands};
use crate::tracer::{Tracer, hooks};

const NAME: &str = "programs";
const TARGET_NS: f64 = 1000.0;

fn connections(context: &Context) -> u64 {
    context.pick(50_000, 10_000)
}

pub fn seconds(context: &Context) -> f64 {
    let run = connections(context) as f64 / 18_000.0;
    context.rounds() as f64 * (2.0 * run + 1.5) + 100_000.0 / 20_000.0 + 2.0
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let hooks = hooks(context)?;
    let count = connections(context);
    let statistics = enable_stats(Stats::RunTime)?;
    let (mut own, mut empty) = (Vec::new(), Vec::new());
    let (mut last_own, mut last_empty) = (Usages::default(), Usages::default());
    for round in 1..=context.rounds() {
        let namespace = fresh_namespace()?;
        let empties = Empties::attach(&hooks)?;
        let before = empties.usages();
        churn(context, &namespace, count)?;
        last_empty = empties.usages().since(&before);
        drop(empties);
        let namespace = fresh_namespace()?;
        let tracer = Tracer::start(context)?;
        let before = tracer.usages()?;
        churn(context, &namespace, count)?;
        last_own = tracer.usages()?.since(&before);
        tracer.stop()?;
        let per = |usages: &Usages| usages.total().nanoseconds as f64 / count as f64;
        own.push(per(&last_own));
        empty.push(per(&last_empty));
        tell(format_args!(
            "{NAME}: round {round} of {}: {:.0} ns, empty {:.0} ns",
            context.rounds(),
            per(&last_own),
            per(&last_empty)
        ));
    }
    drop(statistics);
    let above: Vec<f64> = own.iter().zip(&empty).map(|(own, empty)| own - empty).collect();
    let (above, own, empty) = (Spread::of(&above), Spread::of(&own), Spread::of(&empty));
    let mut rows = vec![
        Row::measured(
            NAME,
            "time in programs for each connection, both ends, above empty programs",
            format!("≤ {} ns", thousands(TARGET_NS)),
            format!("{} ns", above.text(0)),
            above.median <= TARGET_NS,
        )
        .with(json!({ "above_ns": above, "own_ns": own, "empty_ns": empty,
            "programs": last_own, "empty_programs": last_empty, "connections": count })),
        Row::shown(
            NAME,
            "as counted by the kernel, netdiag's programs and empty ones",
            format!("{:.0} ns and {:.0} ns", own.median, empty.median),
        ),
    ];
    rows.extend(by_program(&hooks, &last_own, &last_empty, count));
    rows.extend(records(context)?);
    Ok(rows)
}

fn churn(context: &Context, namespace: &Namespace, count: u64) -> Result<Churned> {
    context.run_load(namespace, &["churn", "--connections", &count.to_string()])
}

/// The programs that ran, by their share.
fn by_program(hooks: &[(String, Hook)], own: &Usages, empty: &Usages, count: u64) -> Vec<Row> {
    let mut ran: Vec<(&String, f64, f64, f64)> = own
        .0
        .iter()
        .filter(|(_, usage)| usage.runs as f64 / count as f64 >= 0.05)
        .map(|(name, usage)| {
            let a_run = |usage: crate::bpf::Usage| usage.nanoseconds as f64 / usage.runs.max(1) as f64;
            (name, usage.runs as f64 / count as f64, a_run(*usage), a_run(empty.of(name)))
        })
        .collect();
    ran.sort_by(|a, b| (b.1 * b.2).total_cmp(&(a.1 * a.2)));
    ran.into_iter()
        .map(|(name, runs, own, empty)| {
            // The kernel keeps only the beginning of a name.
            let whole =
                hooks.iter().map(|(program, _)| program).find(|program| program.starts_with(name.as_str()));
            let name = whole.unwrap_or(name);
            let result = format!("{runs:.1} runs of {own:.0} ns, empty {empty:.0} ns");
            Row::shown(NAME, format!("`{name}`, for each connection"), result)
        })
        .collect()
}

fn records(context: &Context) -> Result<Vec<Row>> {
    const COUNT: u64 = 100_000;
    let namespace = fresh_namespace()?;
    let tracer = Tracer::start(context)?;
    churn(context, &namespace, COUNT)?;
    let told = tracer.stop()?;
    let sent = told.counter("records_sent");
    let seen = told.counter("connections_opened");
    Ok(vec![
        Row::measured(NAME, "records for 100,000 connections that work", "0", sent.to_string(), sent == 0)
            .with(json!({ "counters": told.status["counters"] })),
        Row::measured(
            NAME,
            "connections that netdiag counted of these 100,000",
            "100,000 or more (others may connect)",
            thousands(seen as f64),
            seen >= COUNT,
        ),
    ])
}
