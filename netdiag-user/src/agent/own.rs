//! What the agent costs and what its kernel side says, measured now and then and put on the board.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::histogram::{CONNECT, LOCAL, NETWORK, ROUND_TRIP};

use super::governor::{Usage, WINDOW};
use super::metrics::{self, Board};
use crate::engine::{Engine, Spent};
use crate::kernel::stats::{self, RunStats};

/// Counters of the kernel side, the process' own CPU time and memory.
const OFTEN: Duration = Duration::from_secs(5);
/// Maps (their entries are counted by going through the keys) and programs.
const SELDOM: Duration = Duration::from_secs(60);
/// How long the kernel counts the time of programs, which costs each run some nanoseconds.
const SAMPLE: Duration = Duration::from_secs(1);

/// The signal whose programs tc runs, or the tracepoints that stand in for it.
const WIRE: &str = "wire";

/// What each counter of loss is called.
const LOSSES: &[(Counter, &str)] = &[
    (Counter::LostRing, "ring-full"),
    (Counter::LostSocket, "socket-map-full"),
    (Counter::LostTimeline, "timeline-map-full"),
    (Counter::LostStep, "timeline-full"),
];

/// When what was measured, and the sample that is being taken.
#[derive(Debug, Default)]
pub struct Own {
    /// Whether the kernel side keeps histograms.
    latency: bool,
    often: Option<Instant>,
    seldom: Option<Instant>,
    sample: Option<Sample>,
    window: Option<Window>,
    /// Share of one processor of all kernel programs, and of those of tc, as last sampled.
    programs: f64,
    wire: f64,
    /// Bytes of kernel maps and programs.
    kernel_memory: u64,
}

/// How things were when the window began.
#[derive(Debug)]
struct Window {
    begun: Instant,
    cpu_us: u64,
    spent: Spent,
}

#[derive(Debug)]
struct Sample {
    begun: Instant,
    before: HashMap<String, u64>,
    /// Held: the kernel counts until it is closed.
    _counting: Option<RunStats>,
}

impl Own {
    /// `latency`: the kernel side keeps histograms.
    pub fn new(latency: bool) -> Self {
        Self { latency, ..Self::default() }
    }

    /// Measures what is due.
    pub fn measure(&mut self, engine: &mut Engine, board: &Board) {
        if is_due(&mut self.often, OFTEN) {
            counters(engine, board);
            if self.latency {
                distributions(engine, board);
            }
            if let Some(us) = stats::cpu_us() {
                board.set(&metrics::CPU, &[], us as f64 / 1e6);
            }
            if let Some(bytes) = stats::resident_bytes() {
                board.set(&metrics::RESIDENT, &[], bytes as f64);
            }
        }
        if self.sample.as_ref().is_some_and(|sample| sample.begun.elapsed() >= SAMPLE)
            && let Some(sample) = self.sample.take()
        {
            (self.programs, self.wire) = programs(engine, board, &sample);
        }
        if is_due(&mut self.seldom, SELDOM) {
            self.kernel_memory = maps(engine, board) + program_memory(engine);
            self.sample = begin(engine);
        }
    }
}

impl Own {
    /// What was used in a window that is over.
    pub fn usage(&mut self, spent: Spent, board: &Board) -> Option<Usage> {
        let now = Window { begun: Instant::now(), cpu_us: stats::cpu_us()?, spent };
        let Some(before) = &self.window else {
            self.window = Some(now);
            return None;
        };
        let elapsed = now.begun.saturating_duration_since(before.begun);
        if elapsed < WINDOW {
            return None;
        }
        let share = |ns: u64| ns as f64 / elapsed.as_nanos() as f64;
        let usage = Usage {
            cpu: share(now.cpu_us.saturating_sub(before.cpu_us) * 1_000) + self.programs,
            memory: stats::resident_bytes().unwrap_or(0) + self.kernel_memory,
            parts: [
                self.wire,
                share(now.spent.samples_ns.saturating_sub(before.spent.samples_ns)),
                share(now.spent.owners_ns.saturating_sub(before.spent.owners_ns)),
            ],
        };
        self.window = Some(now);
        board.set(&metrics::COST_CPU, &[], usage.cpu);
        board.set(&metrics::COST_MEMORY, &[], usage.memory as f64);
        Some(usage)
    }
}

fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    if last.is_some_and(|last| last.elapsed() < every) {
        return false;
    }
    *last = Some(Instant::now());
    true
}

fn counters(engine: &mut Engine, board: &Board) {
    let Ok(counts) = engine.counters() else { return };
    let of = |counter| counts.get(counter) as f64;
    board.set(&metrics::OPENED, &[], of(Counter::Opened));
    board.set(&metrics::ESTABLISHED, &[], of(Counter::Established));
    board.set(&metrics::RECORDS, &[], of(Counter::Sent));
    for (counter, cause) in LOSSES {
        board.set(&metrics::RECORDS_LOST, &[cause], of(*counter));
    }
    board.set(&metrics::RECORDS_LOST, &["not-understood"], engine.undecoded() as f64);
    board.set(&metrics::RECORDS_LIMITED, &["drop"], of(Counter::DropLimited));
    board.set(&metrics::RECORDS_LIMITED, &["other"], of(Counter::OtherLimited));
}

/// How long connecting takes, and round-trip times.
fn distributions(engine: &mut Engine, board: &Board) {
    for (metric, number) in [(&metrics::CONNECT_LATENCY, CONNECT), (&metrics::ROUND_TRIP, ROUND_TRIP)] {
        for (path, label) in [(NETWORK, "network"), (LOCAL, "local")] {
            if let Ok(distribution) = engine.session().histograms().read(number + path) {
                board.distribute(metric, label, distribution);
            }
        }
    }
}

/// What is attached does not change while the agent runs.
pub fn probes(engine: &mut Engine, board: &Board) {
    for state in &engine.session().probes {
        let attached = f64::from(u8::from(state.attached.is_some()));
        board.set(&metrics::PROBE, &[state.probe.name, state.probe.signal], attached);
    }
}

/// Bytes of all.
fn maps(engine: &mut Engine, board: &Board) -> u64 {
    let mut total = 0;
    for map in stats::maps(engine.session()) {
        if let Some(bytes) = map.memory_bytes {
            total += bytes;
            board.set(&metrics::MAP_BYTES, &[&map.name], bytes as f64);
        }
        if let Some(entries) = map.entries {
            board.set(&metrics::MAP_ENTRIES, &[&map.name], entries.into());
            board.set(&metrics::MAP_CAPACITY, &[&map.name], map.max_entries.into());
        }
    }
    total
}

fn program_memory(engine: &mut Engine) -> u64 {
    stats::programs(engine.session(), false).iter().filter_map(|program| program.memory_bytes).sum()
}

/// `None` where the kernel does not count: the metric is missing then, and not zero.
fn begin(engine: &mut Engine) -> Option<Sample> {
    let counting = RunStats::enable().ok();
    if counting.is_none() && !RunStats::enabled_by_sysctl() {
        return None;
    }
    Some(Sample { begun: Instant::now(), before: times(engine), _counting: counting })
}

/// Shares of one processor: of all programs, and of those of tc.
fn programs(engine: &mut Engine, board: &Board, sample: &Sample) -> (f64, f64) {
    let probes = engine.session().probes.iter().filter(|state| state.probe.signal == WIRE);
    let ways = probes.filter_map(|state| state.attached).flat_map(|way| way.programs);
    let of_wire: Vec<&str> = ways.map(|(_, name)| *name).collect();
    let elapsed = sample.begun.elapsed().as_nanos() as f64;
    let (mut all, mut wire) = (0.0, 0.0);
    for (name, time) in times(engine) {
        let before = sample.before.get(&name).copied().unwrap_or(0);
        let share = time.saturating_sub(before) as f64 / elapsed;
        board.set(&metrics::PROGRAM_CPU, &[&name], share);
        all += share;
        if of_wire.contains(&name.as_str()) {
            wire += share;
        }
    }
    (all, wire)
}

fn times(engine: &mut Engine) -> HashMap<String, u64> {
    let programs = stats::programs(engine.session(), true).into_iter();
    programs.filter_map(|program| Some((program.name, program.run_time_ns?))).collect()
}
