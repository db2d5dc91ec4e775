//! A flood of packets that this machine drops.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use netdiag_ebpf::records::kind;
use netdiag_tests::net::Namespace;
use serde_json::{Value, json};

use super::recording::Recording;
use super::{drop_at_input, fresh_namespace};
use crate::bpf::empty::Empties;
use crate::bpf::{Usage, Usages};
use crate::context::{Context, pause, result_of, tell};
use crate::load::fail::Failed;
use crate::load::flood::Flooded;
use crate::report::Row;
use crate::stats::{Spread, thousands};
use crate::tracer::{Told, Tracer, hooks, memory};

const NAME: &str = "drops";
const TARGET_NS: f64 = 250.0;
/// Per processor and second. Above it the flood would set the rate of records, and not netdiag.
const TARGET_RECORDS: f64 = 20_000.0;
const TARGET_MB: f64 = 30.0;
const UDP: &str = "127.0.0.1:5353";
const SYN: &str = "127.0.0.1:9";
const FIRST_REFUSED: u16 = 4001;
const REFUSED: u16 = 10;

fn run_seconds(context: &Context) -> f64 {
    context.pick(2.0, 1.0)
}

pub fn seconds(context: &Context) -> f64 {
    (context.rounds() + 1) as f64 * (2.0 * run_seconds(context) + 2.5)
}

/// A namespace where datagrams to [`UDP`] are dropped.
fn firewalled() -> Result<Namespace> {
    let namespace = fresh_namespace()?;
    drop_at_input(&namespace, "udp dport 5353")?;
    Ok(namespace)
}

fn flood(context: &Context, namespace: &Namespace) -> Result<Flooded> {
    let seconds = run_seconds(context).to_string();
    context.run_load(namespace, &["flood", "--seconds", &seconds, "--udp", UDP, "--syn", SYN])
}

/// What one round with netdiag showed.
struct Round {
    usages: Usages,
    flooded: Flooded,
    told: Told,
    resident: u64,
    explained: usize,
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let hooks = hooks(context)?;
    let statistics = enable_stats(Stats::RunTime)?;
    let (mut own, mut all, mut empty, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut rounds = Vec::new();
    for number in 1..=context.rounds() {
        let nothing = {
            let namespace = firewalled()?;
            let empties = Empties::attach(&hooks)?;
            flood(context, &namespace)?;
            empties.usages()
        };
        let round = traced(context)?;
        let drops = round.usages.of("kfree_skb");
        let a_drop = |usage: Usage, runs: u64| usage.nanoseconds as f64 / runs.max(1) as f64;
        let (with, without) =
            (a_drop(drops, drops.runs), a_drop(nothing.of("kfree_skb"), nothing.of("kfree_skb").runs));
        tell(format_args!(
            "{NAME}: round {number} of {}: {with:.0} ns a drop, empty {without:.0} ns",
            context.rounds()
        ));
        own.push(with);
        empty.push(without);
        all.push(
            a_drop(round.usages.total(), drops.runs) - a_drop(nothing.total(), nothing.of("kfree_skb").runs),
        );
        rates.push(drops.runs as f64 / round.flooded.seconds);
        rounds.push(round);
    }
    drop(statistics);
    let mut rows = times(&own, &empty, &all, &rates);
    rows.extend(bounds(context, &rounds));
    rows.push(accounting(context)?);
    Ok(rows)
}

fn traced(context: &Context) -> Result<Round> {
    let namespace = firewalled()?;
    let tracer = Tracer::start(context)?;
    let before = tracer.usages()?;
    let first = format!("127.0.0.1:{FIRST_REFUSED}");
    let interval = (run_seconds(context) * 800.0 / f64::from(REFUSED)) as u64;
    let own = context.load(
        &namespace,
        context.other_cpu,
        &[
            "refused",
            "--first",
            &first,
            "--count",
            &REFUSED.to_string(),
            "--interval-ms",
            &interval.to_string(),
        ],
    )?;
    let flooded = flood(context, &namespace)?;
    let _: Failed = result_of(own)?;
    let usages = tracer.usages()?.since(&before);
    // Late evidence is waited for, and then explained.
    pause(Duration::from_millis(500))?;
    let resident = memory(tracer.pid(), "VmHWM").context("netdiag is gone")?;
    let told = tracer.stop()?;
    let explained = (0..REFUSED).filter(|number| is_explained(&told, FIRST_REFUSED + number)).count();
    Ok(Round { usages, flooded, told, resident, explained })
}

/// Whether a diagnosis names the refused connection to this port.
fn is_explained(told: &Told, port: u16) -> bool {
    told.objects.iter().any(|object| {
        object["kind"] == "diagnosis"
            && object["connection"]["peer"]["port"] == port
            && object["code"].as_str().is_some_and(|code| code.starts_with("refused."))
    })
}

fn times(own: &[f64], empty: &[f64], all: &[f64], rates: &[f64]) -> Vec<Row> {
    let above: Vec<f64> = own.iter().zip(empty).map(|(own, empty)| own - empty).collect();
    let above = Spread::of(&above);
    let (own, empty, all) = (Spread::of(own), Spread::of(empty), Spread::of(all));
    vec![
        Row::measured(
            NAME,
            "each drop in the program at `kfree_skb`, above an empty one",
            format!("≤ {TARGET_NS} ns"),
            format!("{} ns", above.text(0)),
            above.median <= TARGET_NS,
        )
        .with(json!({ "above_ns": above, "own_ns": own, "empty_ns": empty })),
        Row::shown(
            NAME,
            "all of netdiag's programs together for each drop, above empty ones",
            format!("{} ns", all.text(0)),
        )
        .with(json!({ "above_ns": all })),
        Row::shown(NAME, "drops per second, one core", thousands(Spread::of(rates).median)),
    ]
}

fn bounds(context: &Context, rounds: &[Round]) -> Vec<Row> {
    let records: Vec<f64> = rounds
        .iter()
        .map(|round| round.told.counter("records_sent") as f64 / round.flooded.seconds)
        .collect();
    let records = Spread::of(&records);
    let resident = rounds.iter().map(|round| round.resident).max().unwrap_or(0) as f64 / 1e6;
    let explained: usize = rounds.iter().map(|round| round.explained).sum();
    let tried = rounds.len() * usize::from(REFUSED);
    let lost: u64 = rounds.iter().map(|round| round.told.counter("records_lost_ring_full")).sum();
    let counters: Vec<&Value> = rounds.iter().map(|round| &round.told.status["counters"]).collect();
    let sent: Vec<&Flooded> = rounds.iter().map(|round| &round.flooded).collect();
    vec![
        Row::measured(
            NAME,
            "records per second in the flood",
            format!("bounded: ≤ {} for each processor", thousands(TARGET_RECORDS)),
            format!(
                "{}; {} lost because the ring was full",
                thousands(records.median),
                thousands(lost as f64)
            ),
            records.high <= TARGET_RECORDS * if context.cpu == context.other_cpu { 1.0 } else { 2.0 },
        )
        .with(json!({ "records_per_second": records, "counters": counters, "sent": sent })),
        Row::measured(
            NAME,
            "resident memory at its highest",
            format!("bounded: ≤ {TARGET_MB} MB"),
            format!("{resident:.1} MB"),
            resident <= TARGET_MB,
        ),
        Row::measured(
            NAME,
            "refused connections of another process in the flood, explained",
            "all",
            format!("{explained} of {tried}"),
            explained == tried,
        ),
    ]
}

/// Every run of the program must be a record, a count of what was not sent, or a count of what was lost. Records
/// are counted by their kind here, so the programs are loaded by the benchmark itself.
fn accounting(context: &Context) -> Result<Row> {
    let namespace = firewalled()?;
    let statistics = enable_stats(Stats::RunTime)?;
    let seconds = run_seconds(context).to_string();
    let load = ["flood", "--seconds", &seconds, "--udp", UDP, "--syn", SYN];
    let recording = Recording::take(context.load(&namespace, context.cpu, &load)?, 0)?;
    drop(statistics);
    let runs = recording.usages.of("kfree_skb").runs;
    let drops = recording.count(kind::DROP) + recording.count(kind::DROP_WITH_FRAMES);
    let of = |name: &str| recording.counter(name);
    let (ignored, limited) = (of("drops_ignored_by_reason"), of("drops_over_rate"));
    let (unparsed, lost) = (of("packets_unparsed"), of("records_lost_ring_full"));
    let counted = drops + ignored + limited + unparsed;
    // What was lost may be records of drops or others: the counter does not say.
    let exact = counted <= runs && runs <= counted + lost;
    let result = format!(
        "{} runs = {} records + {} over the rate + {} ignored + {} not read + {} (of {} lost){}",
        thousands(runs as f64),
        thousands(drops as f64),
        thousands(limited as f64),
        thousands(ignored as f64),
        thousands(unparsed as f64),
        thousands(runs as f64 - counted as f64),
        thousands(lost as f64),
        if exact { "" } else { ": does not add up" }
    );
    Ok(Row::measured(NAME, "every drop is sent or counted", "it adds up", result, exact).with(json!({
        "runs": runs, "records": drops, "over_rate": limited, "ignored": ignored, "unparsed": unparsed,
        "lost": lost,
    })))
}
