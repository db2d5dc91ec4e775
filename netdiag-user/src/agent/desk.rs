//! Where connections go that were explained: into numbers, and into the store.

use std::cell::RefCell;
use std::time::Instant;

use jiff::Timestamp;

use super::health::Health;
use super::heartbeat::Heartbeat;
use super::history::Writer;
use super::metrics::{self, Board};
use super::seconds;
use super::tally::Tally;
use crate::engine::{Explained, matches};
use crate::filter::Filter;
use crate::output::{Clock, Folder, Report};

/// What takes a connection that was explained, beside the engine that does so.
pub(super) struct Desk<'a> {
    pub(super) filter: Option<&'a Filter>,
    pub(super) folder: &'a mut Folder,
    pub(super) clock: &'a Clock,
    pub(super) tally: &'a Tally,
    pub(super) heartbeat: &'a RefCell<Heartbeat>,
    pub(super) writer: Option<&'a Writer>,
    pub(super) board: &'a Board,
    pub(super) health: &'a Health,
}

impl Desk<'_> {
    pub(super) fn take(&mut self, explained: &Explained) -> Result<(), std::convert::Infallible> {
        if self.heartbeat.borrow().is_own(&explained.evidence.connection) {
            self.health.seen();
            self.board.inc(&metrics::HEARTBEATS, &["seen"]);
            self.board.set(&metrics::HEARTBEAT_SEEN, &[], seconds(Timestamp::now()));
            return Ok(());
        }
        if self.filter.is_some_and(|filter| !matches(filter, explained)) {
            return Ok(());
        }
        if explained.failed() {
            self.tally.failure(explained);
        }
        if let Some((diagnosis, finding)) = &explained.diagnosis {
            let report = Report::new(&explained.evidence, diagnosis, finding, self.clock);
            if let Some(report) = self.folder.add(report, Instant::now()) {
                store(self.writer, report);
            }
        }
        Ok(())
    }
}

pub(super) fn store(writer: Option<&Writer>, report: Report) {
    if let Some(writer) = writer {
        writer.store(report);
    }
}
