//! CPU time while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::context::{Context, pause};
use crate::report::Row;
use crate::tracer::{Tracer, cpu_seconds};

const NAME: &str = "idle";
const TARGET_PERCENT: f64 = 0.1;

fn span(context: &Context) -> Duration {
    Duration::from_secs(context.pick(20, 6))
}

pub fn seconds(context: &Context) -> f64 {
    span(context).as_secs_f64() + 2.0
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let tracer = Tracer::start(context)?;
    pause(Duration::from_secs(1))?;
    let gone = "netdiag is gone";
    let before = cpu_seconds(tracer.pid()).context(gone)?;
    let start = Instant::now();
    pause(span(context))?;
    let used = cpu_seconds(tracer.pid()).context(gone)? - before;
    let elapsed = start.elapsed().as_secs_f64();
    let told = tracer.stop()?;
    let percent = used / elapsed * 100.0;
    let result = format!("{percent:.3} % ({:.1} ms in {elapsed:.0} s)", used * 1e3);
    let target = format!("≤ {TARGET_PERCENT} % of a core");
    Ok(vec![
        Row::measured(NAME, "CPU time of the process", target, result, percent <= TARGET_PERCENT)
            .with(json!({ "percent": percent, "connections_meanwhile": told.counter("connections_opened") })),
    ])
}
