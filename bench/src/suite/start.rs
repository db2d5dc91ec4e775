//! From the start of the process until everything is attached.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::context::{Context, go_on};
use crate::report::Row;
use crate::stats::Spread;
use crate::tracer::die_with_parent;

const NAME: &str = "start";
const TARGET: f64 = 0.3;

pub fn seconds(context: &Context) -> f64 {
    0.8 * context.pairs as f64
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let mut times = Vec::new();
    for _ in 0..=context.pairs {
        go_on()?;
        times.push(once(context)?);
    }
    // The first one reads the file from disk.
    let first = times.remove(0);
    let spread = Spread::of(&times);
    let target = format!("≤ {TARGET} s");
    let result = format!("{} s", spread.text(3));
    Ok(vec![
        Row::measured(NAME, "start until all probes are attached", target, result, spread.median <= TARGET)
            .with(json!({ "seconds": spread, "first": first })),
    ])
}

fn once(context: &Context) -> Result<f64> {
    let mut command = Command::new(&context.netdiag);
    command.arg("watch").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    die_with_parent(&mut command);
    let start = Instant::now();
    let mut child = command.spawn().context("starting netdiag")?;
    let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
    let watching = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("netdiag: watching"));
    let elapsed = start.elapsed().as_secs_f64();
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    child.wait()?;
    watching.then_some(elapsed).with_context(|| format!("netdiag did not watch: {}", rest.join("\n")))
}
