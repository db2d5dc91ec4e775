//! A ruleset of a thousand rules: what packets that it accepts pay, and what it takes to name the last rule.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::process::Process;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use super::packets::{Pair, SINK};
use super::pairs;
use crate::context::{Context, finish, go_on, tell};
use crate::report::Row;
use crate::stats::Spread;
use crate::tracer::die_with_parent;

const NAME: &str = "ruleset";
const RULES: usize = 1000;
/// As in `packets`: below this the loss would be measurable.
const ACCEPTED: f64 = 0.98;
/// A port that the last rule drops.
const DROPPED: &str = "9";
const RUN_LIMIT: Duration = Duration::from_secs(20);

pub fn seconds(context: &Context) -> f64 {
    let run = context.pick(1.0, 0.3) + 0.3;
    (context.pairs + 1) as f64 * (2.0 * run + 1.0) + 4.0 * context.rounds() as f64
}

/// `count` rules in one chain of which the last drops [`DROPPED`] and no other matches.
fn ruleset(count: usize) -> String {
    let mut text =
        "table inet bench {\nchain input {\ntype filter hook input priority 0; policy accept;\n".to_owned();
    for number in 1..count {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "tcp dport {} counter drop", 10_000 + number);
    }
    text + "tcp dport " + DROPPED + " drop comment \"the last\"\n}\n}\n"
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let pair = Pair::new()?;
    pair.server.nft(&ruleset(RULES))?;
    let accepted = pairs(
        "ruleset, packets it accepts",
        context.pairs,
        || pair.bulk(context),
        || pair.bulk_traced(context),
    )?;
    let many = naming(context, &pair)?;
    pair.server.run(&["nft", "flush", "ruleset"])?;
    pair.server.nft(&ruleset(1))?;
    let one = naming(context, &pair)?;
    let more: Vec<f64> = many.iter().zip(&one).map(|(many, one)| many - one).collect();
    let (many, one, more) = (Spread::of(&many), Spread::of(&one), Spread::of(&more));
    Ok(vec![
        Row::ratio(
            NAME,
            format!("throughput through {RULES} rules that accept, to without netdiag"),
            format!("no measurable loss: ≥ {ACCEPTED}"),
            &accepted.ratio,
            ACCEPTED,
        )
        .with(json!({ "ratio": accepted.ratio, "without": accepted.without, "with": accepted.with })),
        Row::shown(
            NAME,
            format!(
                "CPU time of `netdiag run` that names the last of {RULES} rules, above that for the only rule"
            ),
            format!("{} ms", more.text(1)),
        )
        .with(json!({ "above_ms": more, "many_ms": many, "one_ms": one })),
    ])
}

/// CPU time in milliseconds of runs whose connection meets the rule that drops, the tools included that netdiag starts.
fn naming(context: &Context, pair: &Pair) -> Result<Vec<f64>> {
    let (server, _port) = SINK.rsplit_once(':').context("no port")?;
    let mut times = Vec::new();
    for round in 1..=context.rounds() {
        go_on()?;
        let mut command: Command = pair.client.command(&context.netdiag.to_string_lossy());
        command.args(["--format", "json", "run", "--", "nc", "-w", "1", server, DROPPED]);
        die_with_parent(&mut command);
        let before = spent_by_children()?;
        let output = finish(Process::spawn(command)?, RUN_LIMIT)?;
        let spent = spent_by_children()? - before;
        let objects: Vec<Value> =
            output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let named = objects.iter().any(|object| object["firewall"]["comment"] == "the last");
        ensure!(named, "the rule was not named: {output}");
        tell(format_args!("{NAME}: run {round}: {spent:.0} ms of CPU time"));
        times.push(spent);
    }
    Ok(times)
}

/// Milliseconds of CPU time of all children that have ended, and of theirs.
fn spent_by_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let milliseconds = |time: TimeVal| time.num_microseconds() as f64 / 1000.0;
    Ok(milliseconds(usage.user_time()) + milliseconds(usage.system_time()))
}
