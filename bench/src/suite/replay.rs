//! Decoding and tracking, from a recording.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use netdiag::kernel::reasons::Reasons;
use netdiag::probes::{self, Event};
use netdiag::track::{Limits, Tracker};
use serde_json::json;

use super::recording::{Recording, shift, time_of};
use super::{drop_at_input, fresh_namespace};
use crate::context::{Context, go_on, tell};
use crate::load::cpu_seconds;
use crate::report::Row;
use crate::stats::{Spread, thousands};

const NAME: &str = "replay";
const TARGET: f64 = 1_000_000.0;
/// No further round after this time.
const LIMIT: Duration = Duration::from_secs(15);
/// As the engine takes them.
const BATCH: usize = 4096;
const DROPPED: &str = "127.0.0.1:5353";

fn run_seconds(context: &Context) -> f64 {
    context.pick(4.0, 1.5)
}

pub fn seconds(context: &Context) -> f64 {
    run_seconds(context) + 10.0
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    let namespace = fresh_namespace()?;
    drop_at_input(&namespace, "tcp dport 5353")?;
    let seconds = run_seconds(context).to_string();
    let load =
        context.load(&namespace, context.cpu, &["fail", "--seconds", &seconds, "--dropped", DROPPED])?;
    let recording = Recording::take(load, context.pick(100_000, 25_000))?;
    if recording.records.is_empty() {
        bail!("no records came");
    }
    let (mut decoding, mut both) = (Vec::new(), Vec::new());
    let mut kinds = BTreeMap::new();
    let mut finished = 0;
    let mut tracker = Tracker::new(Limits::default(), recording.reasons.clone());
    let mut records = recording.records.clone();
    let (first, last) = (time_of(&records[0])?, time_of(&records[records.len() - 1])?);
    let span = last.saturating_sub(first) + 2_000_000_000;
    // Connections began before the first record.
    let (mut low, mut high) = (first.saturating_sub(60_000_000_000), last + 1_000_000_000);
    let start = Instant::now();
    for round in 0..=context.rounds() {
        go_on()?;
        if round > 1 && start.elapsed() > LIMIT {
            break;
        }
        let (events, decoded) = decode(&records)?;
        kinds = events;
        // The first round, of a part, reads the symbol table and fills the caches.
        let part = if round == 0 { records.len().min(BATCH) } else { records.len() };
        let (done, tracked) = track(&records[..part], &mut tracker)?;
        finished = done;
        if round > 0 {
            tell(format_args!("{NAME}: round {round}: {} a second", thousands(tracked)));
            decoding.push(decoded);
            both.push(tracked);
        }
        records.iter_mut().for_each(|record| shift(record, low..=high, span));
        (low, high) = (low + span, high + span);
    }
    let (decoding, both) = (Spread::of(&decoding), Spread::of(&both));
    let content: Vec<String> =
        kinds.iter().map(|(kind, count)| format!("{} {kind}", thousands(*count as f64))).collect();
    let window = one_by_one(&recording.records, &recording.reasons)?;
    Ok(vec![
        Row::measured(
            NAME,
            "records decoded and tracked per second, one core",
            format!("≥ {}", thousands(TARGET)),
            spread_text(&both),
            both.median >= TARGET,
        )
        .with(json!({ "per_second": both, "records": records.len(), "finished": finished })),
        Row::shown(NAME, "decoded only", spread_text(&decoding)).with(json!({ "per_second": decoding })),
        Row::shown(NAME, "taken into the tracker, without finishing connections", thousands(window)),
        Row::shown(
            NAME,
            "the recording",
            format!(
                "{} records, {} finished connections: {}",
                thousands(records.len() as f64),
                thousands(finished as f64),
                content.join(", ")
            ),
        )
        .with(json!({ "kinds": kinds, "lost": recording.counter("records_lost_ring_full") })),
    ])
}

fn spread_text(spread: &Spread) -> String {
    format!("{} ({} to {})", thousands(spread.median), thousands(spread.low), thousands(spread.high))
}

/// Records a second, and how many of each kind there are.
fn decode(records: &[Vec<u8>]) -> Result<(BTreeMap<&'static str, u64>, f64)> {
    let start = cpu_seconds()?;
    for record in records {
        std::hint::black_box(probes::decode(record)?);
    }
    let rate = records.len() as f64 / (cpu_seconds()? - start);
    let mut kinds = BTreeMap::new();
    for record in records {
        *kinds.entry(name(&probes::decode(record)?)).or_default() += 1;
    }
    Ok((kinds, rate))
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Connection(_) => "connections that ended",
        Event::Suspect(_) => "suspects",
        Event::Drop(_) => "drops",
        Event::CallFailed(_) => "failed calls",
        Event::RouteFailed(_) => "failed route lookups",
        Event::NeighbourFailed(_) => "failed neighbours",
        Event::IcmpSent(_) => "ICMP errors sent",
        Event::ResetSent(_) => "RSTs sent",
        Event::Wire(_) => "packets on the wire",
        Event::SocketError(_) => "socket errors",
        _ => "others",
    }
}

/// How many connections were finished, and records a second.
fn track(records: &[Vec<u8>], tracker: &mut Tracker) -> Result<(usize, f64)> {
    let start = cpu_seconds()?;
    let mut finished = 0;
    for batch in records.chunks(BATCH) {
        for record in batch {
            tracker.add(probes::decode(record)?);
        }
        let now = batch.last().map(|record| time_of(record)).transpose()?.unwrap_or(0);
        finished += finish(tracker, now);
    }
    finished += finish(tracker, u64::MAX);
    Ok((finished, records.len() as f64 / (cpu_seconds()? - start)))
}

/// Finishes what is due, as the engine does.
fn finish(tracker: &mut Tracker, now_ns: u64) -> usize {
    let mut due = tracker.take_due(now_ns);
    std::iter::from_fn(|| tracker.finish(&mut due, &mut |_, _, _| None).map(std::hint::black_box)).count()
}

fn one_by_one(records: &[Vec<u8>], reasons: &Reasons) -> Result<f64> {
    let mut tracker = Tracker::new(Limits::default(), reasons.clone());
    let part = &records[..records.len().min(BATCH * 4)];
    let start = cpu_seconds()?;
    for record in part {
        tracker.add(probes::decode(record)?);
    }
    Ok(part.len() as f64 / (cpu_seconds()? - start))
}
