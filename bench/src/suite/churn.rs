//! Connections per second, without and with `netdiag watch`.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{fresh_namespace, pairs};
use crate::context::{Context, pause};
use crate::load::churn::Churned;
use crate::report::{Row, Verdict};
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
    let (mut call_without, mut call_with) = (f64::INFINITY, f64::INFINITY);
    let paired = pairs(
        NAME,
        context.pairs,
        || {
            call_without = call_without.min(system_call_ns());
            let churned = churn_once(context, seconds)?;
            slices_without.push(churned.fast_slice_rate);
            Ok(rate(&churned))
        },
        || {
            let tracer = Tracer::start(context)?;
            call_with = call_with.min(system_call_ns());
            let churned = churn_once(context, seconds)?;
            tracer.stop()?;
            slices_with.push(churned.fast_slice_rate);
            Ok(rate(&churned))
        },
    )?;
    let ratios: Vec<f64> =
        slices_with.iter().zip(&slices_without).skip(1).map(|(with, without)| with / without).collect();
    let slices = Spread::of(&ratios);
    let mut ratio = Row::ratio(
        NAME,
        "connections per second, with `netdiag watch` to without",
        format!("≥ {TARGET}"),
        &paired.ratio,
        TARGET,
    )
    .with(json!({ "ratio": paired.ratio, "without": paired.without, "with": paired.with }));
    if ratio.verdict == Verdict::Miss {
        ratio.note = why(call_with - call_without, 1e9 / paired.without.median);
    }
    Ok(vec![
        ratio,
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
        Row::shown(
            NAME,
            "a system call that does nothing, without and with",
            format!("{call_without:.0} ns and {call_with:.0} ns"),
        )
        .with(json!({ "without_ns": call_without, "with_ns": call_with })),
    ])
}

/// The shortest time of getppid().
fn system_call_ns() -> f64 {
    const CALLS: u32 = 2000;
    let a_call = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(nix::unistd::getppid());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..100).map(a_call).fold(f64::INFINITY, f64::min)
}

/// What the miss comes from, where every system call has become slower by `call_ns`.
fn why(call_ns: f64, connection_ns: f64) -> Option<String> {
    /// socket, connect, accept4, and of both ends sendto, recvfrom and close.
    const CALLS: f64 = 9.0;
    const SURELY_SLOWER_NS: f64 = 20.0;
    (call_ns > SURELY_SLOWER_NS).then(|| {
        format!(
            "**Why the target is missed here.** connect(), bind(), listen() and sends that fail at once are told by \
             the end of the call, and this kernel offers netdiag no fexit for it. With tracepoints at the end of system \
             calls the kernel takes its slow path at every system call of every process: {call_ns:.0} ns each, as \
             measured above, so {:.1} % of the time of a connection, which makes nine, before a program runs. Each \
             of its connect() and send() pays for the tracepoint's own record besides. An address in use, or a \
             connect() that a cgroup program or a security module forbids, is told by nothing else, so the \
             tracepoints stay. Where the kernel has fexit, only these calls pay for it, and all others cost what they \
             cost without netdiag.",
            CALLS * call_ns / connection_ns * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_given_only_where_it_is_one() {
        assert!(why(2.0, 50_000.0).is_none());
        assert!(
            why(54.0, 50_000.0).is_some_and(|text| text.contains("54 ns each") && text.contains("1.0 %"))
        );
    }
}
