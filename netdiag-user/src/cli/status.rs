//! The tool about itself, at the end of `run` and `watch`.

use jiff::Timestamp;
use netdiag::engine::Engine;
use netdiag::kernel::counters::Counts;
use netdiag::output::{Closing, Lost};
use netdiag_ebpf::counters::Counter;
use serde::Serialize;

use super::sink::Sink;

/// What each counter of loss means to a reader.
const LOSSES: &[(Counter, &str)] = &[
    (Counter::LostRing, "ring buffer full"),
    (Counter::LostSocket, "more open sockets than the map holds"),
    (Counter::LostTimeline, "more sockets in trouble than the map holds"),
];

/// kind = "status" of the contract.
#[derive(Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub closing: Closing,
    probes: Vec<Probe>,
    counters: Counts,
}

#[derive(Debug, Serialize)]
struct Probe {
    name: &'static str,
    program: &'static str,
    attached: Option<String>,
}

impl Status {
    fn new(engine: &mut Engine, seen: u64, failed: u64) -> anyhow::Result<Self> {
        let counters = engine.counters()?;
        let mut lost: Vec<Lost> = LOSSES
            .iter()
            .map(|(counter, cause)| Lost { cause: (*cause).to_owned(), records: counters.get(*counter) })
            .collect();
        lost.push(Lost { cause: "not understood".to_owned(), records: engine.undecoded() });
        let probes = engine.session().probes.iter().map(|state| Probe {
            name: state.probe.name,
            program: state.probe.program,
            attached: state.attached.map(|how| how.to_string()),
        });
        let probes = probes.collect();
        let closing = Closing::new(Timestamp::now(), seen, failed, lost);
        Ok(Self { closing, probes, counters })
    }

    /// Ends a report: an object for programs, a line on standard error for people. `seen`: connections.
    pub fn tell(engine: &mut Engine, sink: &mut Sink, seen: u64) -> anyhow::Result<()> {
        let status = Self::new(engine, seen, sink.failed)?;
        sink.object(&status)?;
        if sink.is_text() || status.closing.lost_events > 0 {
            super::line(&status.closing.text());
        }
        Ok(())
    }
}
