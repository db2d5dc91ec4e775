//! The drops that an agent has counted: kind `past-drops`.

use jiff::Timestamp;
use serde::Serialize;

use super::clock::rfc3339;
use super::past::when;
use super::report::Head;

/// The last object of `netdiag drops --since-agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastDropsReport {
    #[serde(flatten)]
    pub head: Head,
    /// Since when the agent counts.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    /// Drops that were told, and how many groups they are.
    pub losses: u64,
    pub groups: u64,
    pub normal: u64,
    /// Of flows that are no longer told apart: whether they are asked for is not known.
    pub not_told_apart: u64,
    /// Above the rate of their flow, and not told by a later record: nothing is known of them.
    pub not_recorded: u64,
}

impl PastDropsReport {
    /// A line, without its end.
    pub fn text(&self) -> String {
        let Self { losses, groups, normal, not_told_apart, not_recorded, .. } = self;
        let word = |number: u64, word: &str, words: &str| {
            format!("{number} {}", if number == 1 { word } else { words })
        };
        let losses = word(*losses, "loss", "losses");
        let groups = word(*groups, "group", "groups");
        let since = when(self.since, self.head.time);
        let apart = match not_told_apart {
            0 => String::new(),
            some => format!("; {some} more are of flows that it no longer tells apart"),
        };
        let records = match not_recorded {
            0 => String::new(),
            some => format!("; of {some} more, in floods, nothing is known"),
        };
        format!(
            "netdiag: {losses} in {groups}, {normal} normal, since {since}, from the agent{apart}{records}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let now: Timestamp = "2026-11-26T04:00:00Z".parse().unwrap();
        let since: Timestamp = "2026-11-26T03:01:58Z".parse().unwrap();
        let head = Head::new("past-drops", now);
        let report = PastDropsReport {
            head,
            since,
            losses: 1,
            groups: 1,
            normal: 2,
            not_told_apart: 0,
            not_recorded: 0,
        };
        let line = "netdiag: 1 loss in 1 group, 2 normal, since 03:01:58 UTC, from the agent";
        assert_eq!(report.text(), line);
        let more = PastDropsReport { losses: 9, groups: 2, not_told_apart: 7, not_recorded: 8, ..report };
        assert_eq!(
            more.text(),
            "netdiag: 9 losses in 2 groups, 2 normal, since 03:01:58 UTC, from the agent; 7 more are of flows that it \
             no longer tells apart; of 8 more, in floods, nothing is known"
        );
    }
}
