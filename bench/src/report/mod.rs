//! Results: one row each, as a table, as JSON Lines, and as docs/benchmarks.md.

pub mod machine;
pub mod page;

use serde::Serialize;
use serde_json::Value;

use crate::stats::Spread;

/// How a result stands to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    Miss,
    /// The runs scatter so much that it cannot be said.
    Unclear,
    /// There is no target: it is there to be known.
    Shown,
    /// It could not be measured here; the result says why.
    Skipped,
}

impl Verdict {
    pub fn of(pass: bool) -> Self {
        if pass { Self::Pass } else { Self::Miss }
    }

    /// Of a ratio that should be at least `target`. Where the target lies between the quartiles and these are
    /// far apart, neither "pass" nor "miss" would be true.
    pub fn of_ratio(ratio: &Spread, target: f64) -> Self {
        const WIDE: f64 = 0.05;
        let undecided = ratio.low < target && target < ratio.high && ratio.high - ratio.low > WIDE;
        if undecided { Self::Unclear } else { Self::of(ratio.median >= target) }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Miss => "MISS",
            Self::Unclear => "????",
            Self::Shown => "",
            Self::Skipped => "SKIP",
        }
    }
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The benchmark that it is of.
    pub bench: &'static str,
    pub what: String,
    pub target: Option<String>,
    pub result: String,
    pub verdict: Verdict,
    /// The numbers behind it.
    pub values: Value,
    /// Sentences for below the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// A result with a target.
    pub fn measured(
        bench: &'static str,
        what: impl Into<String>,
        target: impl Into<String>,
        result: impl Into<String>,
        pass: bool,
    ) -> Self {
        Self {
            bench,
            what: what.into(),
            target: Some(target.into()),
            result: result.into(),
            verdict: Verdict::of(pass),
            values: Value::Null,
            note: None,
        }
    }

    /// A result without a target.
    pub fn shown(bench: &'static str, what: impl Into<String>, result: impl Into<String>) -> Self {
        Self {
            bench,
            what: what.into(),
            target: None,
            result: result.into(),
            verdict: Verdict::Shown,
            values: Value::Null,
            note: None,
        }
    }

    /// What could not be measured.
    pub fn skipped(bench: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::shown(bench, what, why) }
    }

    /// A ratio of paired runs that should be at least `least`; `target` says so in words.
    pub fn ratio(
        bench: &'static str,
        what: impl Into<String>,
        target: impl Into<String>,
        ratio: &Spread,
        least: f64,
    ) -> Self {
        let verdict = Verdict::of_ratio(ratio, least);
        Self { verdict, ..Self::measured(bench, what, target, ratio.text(3), false) }
    }

    /// Adds the numbers behind it.
    pub fn with(mut self, values: Value) -> Self {
        self.values = values;
        self
    }
}

/// A table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let cells: Vec<[&str; 4]> = rows
        .iter()
        .map(|row| {
            [row.what.as_str(), row.target.as_deref().unwrap_or(""), row.result.as_str(), row.verdict.text()]
        })
        .collect();
    let mut widths = [0; 4];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[&str; 4]| {
        let [what, target, result, verdict] = row;
        let [a, b, c, _] = widths;
        format!("{verdict:<4}  {what:<a$}  {target:<b$}  {result:<c$}").trim_end().to_owned()
    };
    cells.iter().map(|row| line(row) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_verdict() {
        let of = |low, median, high| Spread { low, median, high, runs: 9 };
        assert_eq!(Verdict::of_ratio(&of(0.975, 0.98, 1.1), 0.97), Verdict::Pass);
        assert_eq!(Verdict::of_ratio(&of(0.96, 0.98, 0.99), 0.97), Verdict::Pass);
        assert_eq!(Verdict::of_ratio(&of(0.90, 0.93, 0.96), 0.97), Verdict::Miss);
        assert_eq!(Verdict::of_ratio(&of(0.64, 0.94, 1.25), 0.97), Verdict::Unclear);
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [Row::measured("a", "one", "≤ 1", "2", false), Row::shown("b", "a longer name", "12 kB")];
        assert_eq!(table(&rows), "MISS  one            ≤ 1  2\n      a longer name       12 kB\n");
    }
}
