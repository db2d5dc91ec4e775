//! Connections per second, without and with `netdiag watch`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{fresh_namespace, pairs};
use crate::context::{Context, pause};
use crate::load::churn::Churned;
use crate::report::Row;
use crate::stats::{Spread, thousands};
use crate::tracer::Tracer;

const NAME: &str = "churn";
const TARGET: f64 = 0.97;

fn run_seconds(context: &Context) -> f64 {
    context.pick(1.5, 0.6)
}

pub fn seconds(context: &Context) -> f64 {
    let pairs = context.pairs + context.rounds() + 2;
    pairs as f64 * (2.0 * run_seconds(context) + 2.0)
}

/// The kernel takes a namespace and its connections in TIME_WAIT down in the background: the next run must not
/// pay for it, and the run without a tracer would come first.
const SETTLE: Duration = Duration::from_millis(400);

/// One run in a namespace of its own.
///
/// # Errors
/// When it fails or the user interrupts.
pub fn churn_once(context: &Context, seconds: f64) -> Result<Churned> {
    let namespace = fresh_namespace()?;
    pause(SETTLE)?;
    context.run_load(&namespace, &["churn", "--seconds", &seconds.to_string()])
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let seconds = run_seconds(context);
    let rate = |churned: &Churned| churned.connections as f64 / churned.seconds;
    let nothing = || churn_once(context, seconds).map(|churned| rate(&churned));
    let control = pairs("churn, nothing beside nothing", context.rounds(), nothing, nothing)?;
    let (mut slices_without, mut slices_with) = (Vec::new(), Vec::new());
    let paired = pairs(
        NAME,
        context.pairs,
        || {
            let churned = churn_once(context, seconds)?;
            slices_without.push(churned.fast_slice_rate);
            Ok(rate(&churned))
        },
        || {
            let tracer = Tracer::start(context)?;
            let churned = churn_once(context, seconds)?;
            tracer.stop()?;
            slices_with.push(churned.fast_slice_rate);
            Ok(rate(&churned))
        },
    )?;
    let ratios: Vec<f64> =
        slices_with.iter().zip(&slices_without).skip(1).map(|(with, without)| with / without).collect();
    let slices = Spread::of(&ratios);
    Ok(vec![
        Row::ratio(
            NAME,
            "connections per second, with `netdiag watch` to without",
            format!("≥ {TARGET}"),
            &paired.ratio,
            TARGET,
        )
        .with(json!({ "ratio": paired.ratio, "without": paired.without, "with": paired.with })),
        Row::shown(
            NAME,
            "the same, of the fastest tenth of slices of 500 connections in each run (hardly interrupted)",
            slices.text(3),
        )
        .with(json!({ "ratio": slices })),
        Row::shown(
            NAME,
            "the same comparison without netdiag on either side: what chance does",
            control.ratio.text(3),
        )
        .with(json!({ "ratio": control.ratio })),
        Row::shown(
            NAME,
            "connections per second on one core, without and with",
            format!("{} and {}", thousands(paired.without.median), thousands(paired.with.median)),
        ),
    ])
}
