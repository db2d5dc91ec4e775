//! Counts what passes, for the metrics.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::heartbeat::Heartbeat;
use super::metrics::{self, Board};
use crate::engine::Explained;
use crate::kernel::reasons::Reasons;
use crate::probes::{Event, Packet, Step, StepKind};
use crate::track::{Connection, Side};

/// A failure that no diagnosis fits.
const UNEXPLAINED: &str = "unexplained";
const UNKNOWN: &str = "unknown";

/// Counts records as they come, and connections as they are explained.
#[derive(Debug, Clone)]
pub struct Tally {
    board: Arc<Board>,
    heartbeat: Rc<RefCell<Heartbeat>>,
}

impl Tally {
    pub fn new(board: Arc<Board>, heartbeat: Rc<RefCell<Heartbeat>>) -> Self {
        Self { board, heartbeat }
    }

    /// One record of the kernel side.
    pub fn record(&self, event: &Event, reasons: &Reasons) {
        match event {
            Event::Drop(drop) if !self.is_own(&drop.packet) => {
                let packets = 1.0 + f64::from(drop.suppressed);
                self.board.add(&metrics::DROPS, &[&reasons.drop_name(drop.reason)], packets);
                if let Some(rule) = &drop.rule {
                    self.board.add(&metrics::FIREWALL_DROPS, &[&rule.label()], packets);
                }
            }
            Event::ResetSent(reset) if !self.is_own(&reset.packet) => {
                self.board.inc(&metrics::RESETS, &["sent"]);
            }
            Event::Connection(end) => {
                let own = self.heartbeat.borrow().touches(end.tuple.source, end.tuple.destination);
                if own {
                    return;
                }
                let received = |step: &&Step| matches!(step.kind, StepKind::ResetReceived);
                let number = end.steps.iter().filter(received).count();
                self.board.add(&metrics::RESETS, &["received"], number as f64);
                let again = end.tcp.total_retrans.unwrap_or(0);
                self.board.add(&metrics::RETRANSMITS, &[], again.into());
            }
            _ => {}
        }
    }

    /// Whether it is the heartbeat's.
    pub fn is_own(&self, packet: &Packet) -> bool {
        self.heartbeat.borrow().touches(packet.tuple.source, packet.tuple.destination)
    }

    /// One connection that failed.
    pub fn failure(&self, explained: &Explained) {
        let connection = &explained.evidence.connection;
        let (code, symptom) = match &explained.diagnosis {
            Some((diagnosis, _)) => (diagnosis.code, diagnosis.symptom()),
            None => (UNEXPLAINED, UNEXPLAINED),
        };
        let direction = match connection.side {
            Side::Outbound => "outbound",
            Side::Inbound => "inbound",
        };
        self.board.inc(&metrics::FAILURES, &[code, direction]);
        let process = connection.owner.as_ref().map_or(UNKNOWN, |owner| owner.comm.as_str());
        self.board.inc(&metrics::FAILURES_BY_PROCESS, &[process, symptom]);
        self.board.inc(&metrics::FAILURES_BY_DESTINATION, &[&destination(connection), symptom]);
    }
}

/// The end that was connected to.
fn destination(connection: &Connection) -> String {
    match connection.side {
        Side::Outbound => connection.asked().peer.to_string(),
        Side::Inbound => connection.asked().local.to_string(),
    }
}
