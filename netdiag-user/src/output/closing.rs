//! The last line of `run`: what was seen, and whether anything was lost.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::report::Head;

/// Records that could not be sent, for one cause ("ring buffer full").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub cause: String,
    pub records: u64,
}

/// Kind `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    #[serde(flatten)]
    pub head: Head,
    pub connections: u64,
    pub failed: u64,
    /// Sum of `lost`.
    pub lost_events: u64,
    pub lost: Vec<Lost>,
}

impl Closing {
    /// Causes with no records are left out.
    pub fn new(time: Timestamp, connections: u64, failed: u64, lost: Vec<Lost>) -> Self {
        let lost: Vec<Lost> = lost.into_iter().filter(|lost| lost.records > 0).collect();
        let lost_events = lost.iter().map(|lost| lost.records).sum();
        Self { head: Head::new("status", time), connections, failed, lost_events, lost }
    }

    /// One line without its end.
    pub fn text(&self) -> String {
        let seen = match self.connections {
            1 => "1 connection seen".to_owned(),
            many => format!("{many} connections seen"),
        };
        let failed = match self.failed {
            0 => "none failed".to_owned(),
            some => format!("{some} failed"),
        };
        let mut lost = self.lost.iter();
        let Some(first) = lost.next() else {
            return format!("netdiag: {seen}, {failed}; nothing lost");
        };
        let records = if first.records == 1 { "record" } else { "records" };
        let mut text = format!("{} {records} lost ({})", first.records, first.cause);
        for more in lost {
            text.push_str(&format!(", {} ({})", more.records, more.cause));
        }
        format!("netdiag: {seen}, {failed}; {text}: something may be missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(connections: u64, failed: u64, lost: &[(&str, u64)]) -> String {
        let lost = lost
            .iter()
            .map(|(cause, records)| Lost { cause: (*cause).to_owned(), records: *records })
            .collect();
        Closing::new(Timestamp::UNIX_EPOCH, connections, failed, lost).text()
    }

    #[test]
    fn one_line() {
        assert_eq!(
            text(12, 1, &[("ring buffer full", 0)]),
            "netdiag: 12 connections seen, 1 failed; nothing lost"
        );
        assert_eq!(text(1, 0, &[]), "netdiag: 1 connection seen, none failed; nothing lost");
        assert_eq!(
            text(12, 1, &[("ring buffer full", 37), ("over the rate", 2)]),
            "netdiag: 12 connections seen, 1 failed; 37 records lost (ring buffer full), 2 (over the rate): \
             something may be missing"
        );
    }
}
