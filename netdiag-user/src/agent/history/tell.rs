//! What `netdiag history` tells, read from the store: by the command itself, or by an agent for it.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::fold::fold;
use super::query::{Past, Query, Row, past};
use crate::output::{Gap, Head, PastSummary, Report};

/// One thing after the other, with the summary at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Failures of one cause between one pair: the latest, with the count and the times of all.
    Problem {
        report: Box<Report>,
        /// More than one process of that name.
        several: bool,
    },
    /// As it was stored.
    Diagnosis(Box<Report>),
    /// Stored, and not to be read any more.
    Unreadable,
    Summary(PastSummary),
}

/// Tells of problems, the most frequent first, or with `details` of each diagnosis, the oldest first. Of more than
/// `most` the latest diagnoses, or the first problems, are told. `each` may end it.
///
/// # Errors
/// When the store cannot be read.
pub fn tell(
    query: &Query,
    details: bool,
    most: usize,
    now: Timestamp,
    mut each: impl FnMut(Told) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut folded = fold(most);
    let mut rows: VecDeque<Row> = VecDeque::new();
    let (mut left_out, mut ahead) = (0, 0);
    let past = past(query, |row| {
        folded.add(row);
        // What failed since the question was asked is not meant.
        if row.first.duration_since(now) > SignedDuration::from_secs(1) {
            ahead += row.count;
        }
        if details {
            if rows.len() >= most {
                rows.pop_front();
                left_out += 1;
            }
            rows.push_back(row.clone());
        }
    })?;
    if !details {
        left_out = folded.left_out();
    }
    let groups = folded.groups();
    let failures = groups.iter().map(|group| group.count).sum();
    let summary = PastSummary {
        failures,
        problems: groups.len() as u64,
        ahead,
        left_out,
        ..summary(query, &past, now)
    };
    let diagnoses = rows.iter().map(|row| past.report(row).map(|report| Told::Diagnosis(Box::new(report))));
    let problems = groups.iter().map(|group| {
        group.report(&past).map(|report| Told::Problem { report: Box::new(report), several: group.several })
    });
    let all: Box<dyn Iterator<Item = _>> = if details { Box::new(diagnoses) } else { Box::new(problems) };
    for told in all {
        if each(told.unwrap_or(Told::Unreadable)).is_break() {
            return Ok(());
        }
    }
    // What it says is not waited for.
    let _ = each(Told::Summary(summary));
    Ok(())
}

fn summary(query: &Query, past: &Past, now: Timestamp) -> PastSummary {
    let until = if query.until == Timestamp::MAX { now } else { query.until };
    let gaps = past.gaps(query.since, until);
    PastSummary {
        head: Head::new("history", now),
        since: query.since,
        until,
        ahead: 0,
        failures: 0,
        problems: 0,
        not_stored: past.not_stored,
        gaps: gaps.into_iter().map(|(from, until)| Gap { from, until }).collect(),
        unreadable: past.unreadable.clone(),
        left_out: 0,
    }
}
