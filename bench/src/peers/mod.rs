//! The same churn with tools that people use today.

mod events;
mod tools;

use anyhow::Result;
use serde_json::json;

use crate::context::{Context, tell};
use crate::report::Row;
use crate::stats::{Spread, thousands};
use crate::suite::{churn_once, pairs};
use events::Seen;
use tools::{Peer, Started};

const NAME: &str = "peers";

fn run_seconds(context: &Context) -> f64 {
    context.pick(1.5, 0.4)
}

fn pair_count(context: &Context) -> usize {
    context.pick((context.pairs / 3).max(3), 1)
}

pub fn seconds(context: &Context) -> f64 {
    let run = 2.0 * run_seconds(context) + 2.5;
    tools::PEERS.iter().filter(|peer| peer.program().is_some()).count() as f64
        * (pair_count(context) + 1) as f64
        * run
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let transitions = events::transitions_per_connection(context)?;
    let mut rows = Vec::new();
    for peer in tools::PEERS {
        rows.push(one(context, peer, transitions)?);
    }
    Ok(rows)
}

fn one(context: &Context, peer: &'static Peer, transitions: f64) -> Result<Row> {
    if peer.program().is_none() {
        return Ok(Row::skipped(NAME, peer.title, format!("{} is not installed", peer.package)));
    }
    tell(format_args!("{NAME}: {}", peer.title));
    if let Started::No(why) = peer.start()? {
        return Ok(Row::skipped(NAME, peer.title, format!("does not attach here: {why}")));
    }
    let seconds = run_seconds(context);
    let mut seen: Vec<Seen> = Vec::new();
    let paired = pairs(
        peer.title,
        pair_count(context),
        || {
            let churned = churn_once(context, seconds)?;
            Ok(churned.connections as f64 / churned.seconds)
        },
        || {
            let running = match peer.start()? {
                Started::Yes(running) => running,
                Started::No(why) => anyhow::bail!("{} attached before, and not now: {why}", peer.title),
            };
            let churned = churn_once(context, seconds)?;
            seen.push(running.stop(peer, churned.connections, churned.seconds, transitions)?);
            Ok(churned.connections as f64 / churned.seconds)
        },
    )?;
    let counted = &seen[1.min(seen.len())..];
    let sum = |value: fn(&Seen) -> f64| counted.iter().map(value).sum::<f64>();
    let (expected, events) = (sum(|seen| seen.expected), sum(|seen| seen.events));
    let cpu: Vec<f64> = counted.iter().map(|seen| seen.cpu_seconds / seen.seconds * 100.0).collect();
    let cpu = Spread::of(&cpu);
    let lost = (expected - events).max(0.0);
    let about_events = if expected > 0.0 {
        format!(
            "{} of {} events, {:.1} % lost",
            thousands(events),
            thousands(expected),
            lost / expected * 100.0
        )
    } else {
        format!("{} events, of connections that all work", thousands(events))
    };
    let result = format!(
        "ratio {}; {about_events}; {:.0} % of a core in user space",
        paired.ratio.text(2),
        cpu.median
    );
    Ok(Row::shown(NAME, peer.title, result).with(json!({
        "ratio": paired.ratio, "expected": expected, "events": events, "lost": lost, "cpu_percent": cpu,
    })))
}
