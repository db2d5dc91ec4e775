//! Bulk TCP on a veth pair, with tc not armed and armed.

use std::time::Duration;

use anyhow::Result;
use aya::sys::{Stats, enable_stats};
use netdiag_tests::net::Namespace;
use serde_json::json;

use super::pairs;
use crate::bpf::Usages;
use crate::bpf::empty::Empties;
use crate::context::{Context, go_on, tell};
use crate::load::bulk::Moved;
use crate::report::Row;
use crate::stats::{Spread, thousands};
use crate::tracer::Tracer;

const NAME: &str = "packets";
/// Below this the loss would be measurable: the pairs of runs scatter by about as much.
const UNARMED: f64 = 0.98;
const TARGET_NS: f64 = 40.0;

fn run_seconds(context: &Context) -> f64 {
    context.pick(1.0, 0.3)
}

pub fn seconds(context: &Context) -> f64 {
    let run = run_seconds(context) + 0.3;
    let pairs = 2.0 * (context.pairs + 1) as f64 * (2.0 * run + 1.0);
    pairs + context.rounds() as f64 * (2.0 * run + 1.0)
}

/// Two namespaces joined by a cable.
pub(super) struct Pair {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
}

/// Where the server takes bulk data.
pub(super) const SINK: &str = "10.78.0.2:5001";

impl Pair {
    pub(super) fn new() -> Result<Self> {
        let [client, server] = Namespace::several(["bench-c", "bench-s"])?;
        client.ip(&format!("link add eth0 type veth peer name eth0 netns {}", server.name()))?;
        for (namespace, address) in [(&client, "10.78.0.1/24"), (&server, "10.78.0.2/24")] {
            namespace.ip_batch(&format!("addr add {address} dev eth0\nlink set eth0 up"))?;
        }
        Ok(Self { client, server })
    }

    /// Bytes per second.
    pub(super) fn bulk(&self, context: &Context) -> Result<f64> {
        let sink = context.load(&self.server, context.other_cpu, &["sink", "--listen", SINK])?;
        sink.wait_for_line("\"ready\"", Duration::from_secs(10))?;
        let seconds = run_seconds(context).to_string();
        let _: Moved = context.run_load(&self.client, &["bulk", "--to", SINK, "--seconds", &seconds])?;
        let moved: Moved = crate::context::result_of(sink)?;
        Ok(moved.bytes as f64 / moved.seconds)
    }

    /// The same while `netdiag watch` watches the machine.
    pub(super) fn bulk_traced(&self, context: &Context) -> Result<f64> {
        let tracer = Tracer::start(context)?;
        let rate = self.bulk(context)?;
        tracer.stop()?;
        Ok(rate)
    }
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let pair = Pair::new()?;
    let gigabits = |rate: f64| format!("{:.1} Gbit/s", rate * 8.0 / 1e9);
    let plain =
        pairs("packets, tc not armed", context.pairs, || pair.bulk(context), || pair.bulk_traced(context))?;
    let armed = pairs(
        "packets, tc armed",
        context.pairs,
        || pair.bulk(context),
        || {
            let tracer = Tracer::start_armed(context, &pair.client)?;
            let rate = pair.bulk(context)?;
            tracer.stop()?;
            Ok(rate)
        },
    )?;
    let mut rows = vec![
        Row::ratio(
            NAME,
            "throughput, tc not armed, to without netdiag",
            format!("no measurable loss: ≥ {UNARMED}"),
            &plain.ratio,
            UNARMED,
        )
        .with(json!({ "ratio": plain.ratio, "without": plain.without, "with": plain.with })),
        Row::shown(NAME, "throughput, tc armed, to without netdiag", armed.ratio.text(3))
            .with(json!({ "ratio": armed.ratio, "without": armed.without, "with": armed.with })),
        Row::shown(NAME, "throughput without netdiag", gigabits(plain.without.median)),
    ];
    rows.extend(cost(context, &pair)?);
    Ok(rows)
}

/// What one run of a tc program takes, above one that does nothing.
fn cost(context: &Context, pair: &Pair) -> Result<Vec<Row>> {
    let what = "each packet in a tc program, above an empty one";
    let statistics = enable_stats(Stats::RunTime)?;
    let (mut own, mut empty, mut packets) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=context.rounds() {
        go_on()?;
        let empties = match pair.client.enter(Empties::tc)? {
            Ok(empties) => empties,
            Err(why) => return Ok(vec![Row::skipped(NAME, what, format!("{why:#}"))]),
        };
        pair.bulk(context)?;
        let nothing = a_run(&empties.usages());
        drop(empties);
        let tracer = Tracer::start_armed(context, &pair.client)?;
        let before = tracer.usages()?;
        pair.bulk(context)?;
        let usages = tracer.usages()?.since(&before);
        tracer.stop()?;
        tell(format_args!("packets: round {round}: {:.0} ns, empty {nothing:.0} ns", a_run(&usages)));
        own.push(a_run(&usages));
        empty.push(nothing);
        packets.push((usages.of("wire_ingress").runs + usages.of("wire_egress").runs) as f64);
    }
    drop(statistics);
    let above: Vec<f64> = own.iter().zip(&empty).map(|(own, empty)| own - empty).collect();
    let above = Spread::of(&above);
    let (own, empty, packets) = (Spread::of(&own), Spread::of(&empty), Spread::of(&packets));
    Ok(vec![
        Row::measured(
            NAME,
            what,
            format!("≤ {TARGET_NS} ns"),
            format!("{} ns", above.text(0)),
            above.median <= TARGET_NS,
        )
        .with(json!({ "above_ns": above, "own_ns": own, "empty_ns": empty })),
        Row::shown(
            NAME,
            "packets that the tc programs saw in each run (up to 64 kB each)",
            thousands(packets.median),
        ),
    ])
}

fn a_run(usages: &Usages) -> f64 {
    let (ingress, egress) = (usages.of("wire_ingress"), usages.of("wire_egress"));
    let both = ingress.plus(egress);
    both.nanoseconds as f64 / both.runs.max(1) as f64
}
