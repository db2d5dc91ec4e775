//! What happened before: `netdiag history`.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::card::rules;
use super::clock::rfc3339;
use super::report::{Head, ProcessPart, Report};
use super::style::{Look, Tone, wrap};

/// A time without an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    #[serde(with = "rfc3339")]
    pub from: Timestamp,
    #[serde(with = "rfc3339")]
    pub until: Timestamp,
}

/// Kind `history`: the last object of `netdiag history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastSummary {
    #[serde(flatten)]
    pub head: Head,
    /// What was asked for.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    #[serde(with = "rfc3339")]
    pub until: Timestamp,
    pub failures: u64,
    /// What they were folded to.
    pub problems: u64,
    /// Failures of times that are still to come: the clock was set back since.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ahead: u64,
    /// Diagnoses that the agent could not store in this time.
    pub not_stored: u64,
    pub gaps: Vec<Gap>,
    /// Files of the store that could not be read, and why.
    pub unreadable: Vec<String>,
    /// Diagnoses that fit and are not told: an agent that is asked tells so many and no more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl PastSummary {
    /// A line, and one for each thing that may be missing; without the last line's end.
    pub fn text(&self) -> String {
        let failures = counted(self.failures, "failure");
        let problems = counted(self.problems, "problem");
        let (since, until) = (self.since, self.until);
        let mut text = format!("netdiag: {failures}, {problems} {}", span(since, until, self.head.time));
        for Gap { from, until } in &self.gaps {
            let _ = write!(text, "\nnetdiag: no agent ran {}", span(*from, *until, self.head.time));
        }
        if self.ahead > 0 {
            let (failures, are) =
                (counted(self.ahead, "failure"), if self.ahead == 1 { "is" } else { "are" });
            let _ = write!(text, "\nnetdiag: {failures} {are} later than now: the clock was set back since");
        }
        let diagnoses = |number| counted(number, "diagnosis").replace("diagnosiss", "diagnoses");
        if self.not_stored > 0 {
            let _ = write!(text, "\nnetdiag: {} could not be stored", diagnoses(self.not_stored));
        }
        if self.left_out > 0 {
            let number = diagnoses(self.left_out);
            let _ = write!(text, "\nnetdiag: {number} more are there: a shorter time or a filter shows them");
        }
        for file in &self.unreadable {
            let _ = write!(text, "\nnetdiag: cannot read {file}");
        }
        text
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn counted(number: u64, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

/// A line above problems that have something in common.
#[derive(Debug, Clone, Copy)]
pub struct PastHead<'a> {
    pub name: &'a str,
    pub failures: u64,
}

impl PastHead<'_> {
    /// Ends in a newline.
    pub fn text(&self, look: &Look) -> String {
        let name = look.paint(Tone::Strong, &look.safe(self.name));
        format!("{name}   {}\n", counted(self.failures, "failure"))
    }
}

/// A problem: who, whom, how often and when; why; and which rule. Ends in a newline. `several`: processes.
pub fn problem(report: &Report, several: bool, now: Timestamp, look: &Look) -> String {
    let subject = match &report.process {
        Some(ProcessPart { comm, .. }) if several => report.subject_of(comm),
        _ => report.subject(),
    };
    let times = if report.count == 1 { "once".to_owned() } else { format!("{} times", report.count) };
    let when = span(report.first, report.last, now);
    let mut text = String::new();
    let width = look.columns() - 2;
    for (index, line) in wrap(&look.safe(&subject), width, width).iter().enumerate() {
        let mark = if index == 0 { look.paint(Tone::Bad, &look.safe("✗")) } else { " ".into() };
        let _ =
            write!(text, "{}{mark} {}", if index == 0 { "" } else { "\n" }, look.paint(Tone::Strong, line));
    }
    let _ = writeln!(text, "   {times} {when}");
    let what = format!("{}: {}", report.headline, report.cause);
    for line in wrap(&look.safe(&what), width, width) {
        let _ = writeln!(text, "  {line}");
    }
    for (index, rule) in report.firewall.iter().flat_map(rules).enumerate() {
        let label = if index == 0 { "rule" } else { "" };
        let _ = writeln!(text, "  {label:<4}   {}", look.paint(Tone::Code, &look.safe(&rule)));
    }
    let tag = format!("{} · {}", report.code, report.confidence.as_str());
    let _ = writeln!(text, "  {}", look.paint(Tone::Faint, &look.safe(&tag)));
    text
}

/// "03:02:11 UTC", with the date where it is not today.
pub fn when(time: Timestamp, now: Timestamp) -> String {
    let day = |time: Timestamp| time.to_zoned(TimeZone::UTC).date();
    let format = if day(time) == day(now) { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S UTC" };
    time.strftime(format).to_string()
}

/// "at 03:02:11 UTC", "from 03:02:11 to 04:10:00 UTC"; with the date where it is not today.
fn span(first: Timestamp, last: Timestamp, now: Timestamp) -> String {
    let day = |time: Timestamp| time.to_zoned(TimeZone::UTC).date();
    let today = day(first) == day(now) && day(last) == day(now);
    let format = if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    let (from, to) = (first.strftime(format), last.strftime(format));
    if first.as_second() == last.as_second() {
        format!("at {from} UTC")
    } else {
        format!("from {from} to {to} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn drop() -> Report {
        let (first, last) = (at("2026-11-26T03:02:00Z"), at("2026-11-26T03:40:00Z"));
        Report { count: 214, first, last, ..testing::firewall_drop() }
    }

    #[test]
    fn a_problem_says_who_whom_how_often_when_and_why() {
        let report = drop();
        let look = Look::default();
        let text = problem(&report, false, at("2026-11-26T04:00:00Z"), &look);
        let first = text.lines().next().unwrap();
        assert_eq!(first, format!("✗ {}   214 times from 03:02:00 to 03:40:00 UTC", report.subject()));
        assert!(text.contains(&report.cause) && text.contains(&report.code), "{text}");
        let several = problem(&report, true, at("2026-11-27T04:00:00Z"), &look);
        let first = several.lines().next().unwrap();
        let comm = &report.process.as_ref().unwrap().comm;
        assert!(first.starts_with(&format!("✗ {comm} → ")), "{first}");
        assert!(first.ends_with("from 2026-11-26 03:02:00 to 2026-11-26 03:40:00 UTC"), "{first}");
    }

    #[test]
    fn the_last_line_says_what_is_missing() {
        let (since, until) = (at("2026-11-26T03:00:00Z"), at("2026-11-26T04:00:00Z"));
        let whole = PastSummary {
            head: Head::new("history", until),
            since,
            until,
            failures: 1,
            problems: 1,
            ahead: 0,
            not_stored: 0,
            gaps: Vec::new(),
            unreadable: Vec::new(),
            left_out: 0,
        };
        assert_eq!(whole.text(), "netdiag: 1 failure, 1 problem from 03:00:00 to 04:00:00 UTC");
        let gap = Gap { from: since, until: at("2026-11-26T03:30:00Z") };
        let unreadable = vec!["/x/2026-11-26.db: damaged".to_owned()];
        let partial =
            PastSummary { failures: 3, gaps: vec![gap], not_stored: 2, ahead: 1, unreadable, ..whole };
        assert_eq!(
            partial.text(),
            "netdiag: 3 failures, 1 problem from 03:00:00 to 04:00:00 UTC\n\
             netdiag: no agent ran from 03:00:00 to 03:30:00 UTC\n\
             netdiag: 1 failure is later than now: the clock was set back since\n\
             netdiag: 2 diagnoses could not be stored\n\
             netdiag: cannot read /x/2026-11-26.db: damaged"
        );
    }
}
