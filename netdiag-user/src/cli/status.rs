//! The tool about itself, at the end of `run` and `watch`.

use jiff::Timestamp;
use netdiag::engine::Engine;
use netdiag::kernel::counters::Counts;
use netdiag::kernel::stats::RunStats;
use netdiag::output::{Closing, Cost, DropCounts, Lost};
use netdiag_ebpf::counters::Counter;
use serde::Serialize;

use super::sink::Sink;

/// What each counter of loss means to a reader.
const LOSSES: &[(Counter, &str)] = &[
    (Counter::LostRing, "ring buffer full"),
    (Counter::LostSocket, "more open sockets than the map holds"),
    (Counter::LostTimeline, "more sockets in trouble than the map holds"),
];

/// Whether the cost is shown to people, and whether the kernel counts the runs of programs for it.
#[derive(Debug)]
pub struct OwnCost {
    shown: bool,
    counted: bool,
    /// Held: the kernel counts until it is closed.
    _stats: Option<RunStats>,
}

impl OwnCost {
    /// Before the programs are loaded, so that no run is missing. What is not counted is no reason to fail.
    pub fn begin(wanted: bool) -> Self {
        let stats = wanted.then(RunStats::enable).and_then(Result::ok);
        let counted = stats.is_some() || RunStats::enabled_by_sysctl();
        Self { shown: wanted, counted, _stats: stats }
    }
}

/// kind = "status" of the contract.
#[derive(Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub closing: Closing,
    /// In `drops` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<DropCounts>,
    probes: Vec<Probe>,
    counters: Counts,
    #[serde(flatten)]
    cost: Cost,
}

#[derive(Debug, Serialize)]
struct Probe {
    name: &'static str,
    program: &'static str,
    attached: Option<String>,
}

impl Status {
    pub fn new(engine: &mut Engine, seen: u64, failed: u64, cost: &OwnCost) -> anyhow::Result<Self> {
        let counters = engine.counters()?;
        let mut lost: Vec<Lost> = LOSSES
            .iter()
            .map(|(counter, cause)| Lost { cause: (*cause).to_owned(), records: counters.get(*counter) })
            .collect();
        lost.push(Lost { cause: "not understood".to_owned(), records: engine.undecoded() });
        let cause = "changes of the network: too many at once".to_owned();
        lost.push(Lost { cause, records: engine.changes_lost() });
        let probes = engine.session().probes.iter().map(|state| Probe {
            name: state.probe.name,
            program: state.probe.signal,
            attached: state.attached.map(|way| way.to_string()),
        });
        let probes = probes.collect();
        let closing = Closing::new(Timestamp::now(), seen, failed, lost);
        let cost = Cost::read(engine.session(), cost.counted);
        Ok(Self { closing, drops: None, probes, counters, cost })
    }

    /// What programs cost until a moment before they were taken away.
    pub fn with_cost_of(self, before: Self) -> Self {
        Self { cost: before.cost, ..self }
    }

    /// The cost for people, on standard error.
    pub fn tell_cost(&self) {
        let sent = self.counters.get(Counter::Sent);
        super::line(&format!("\n{}", self.cost.text(sent, self.closing.lost_events)));
    }

    /// Ends a report: an object for programs, a line on standard error for people, and below it the cost where
    /// that was asked for. `seen`: connections.
    pub fn tell(engine: &mut Engine, sink: &mut Sink, seen: u64, cost: &OwnCost) -> anyhow::Result<()> {
        let status = Self::new(engine, seen, sink.failed, cost)?;
        sink.object(&status)?;
        if sink.is_text() || status.closing.lost_events > 0 {
            super::line(&status.closing.text());
        }
        if sink.is_text() && cost.shown {
            status.tell_cost();
        }
        Ok(())
    }
}
