//! docs/benchmarks.md.

use std::fmt::Write;

use super::machine::Machine;
use super::{Row, Verdict};
use crate::suite::Benchmark;

/// The whole page.
pub fn page(machine: &Machine, benchmarks: &[&Benchmark], rows: &[Row]) -> String {
    let mut text = head(machine);
    let _ = writeln!(text, "## Results\n\n{}", verdicts(rows));
    for benchmark in benchmarks {
        let own: Vec<&Row> = rows.iter().filter(|row| row.bench == benchmark.name).collect();
        let _ = write!(text, "\n### {}\n{}\n\n", benchmark.title, benchmark.means);
        text.push_str("| what | target | result | |\n|---|---|---|---|\n");
        for row in &own {
            let target = row.target.as_deref().unwrap_or("");
            let verdict = row.verdict.text();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                cell(&row.what),
                cell(target),
                cell(&row.result),
                verdict
            );
        }
        for note in own.iter().filter_map(|row| row.note.as_deref()) {
            let _ = write!(text, "\n{note}\n");
        }
    }
    text.push_str(NOISE);
    text
}

fn head(machine: &Machine) -> String {
    let Machine { cpu, cores, memory_bytes, kernel, system, date, commit, command } = machine;
    let memory = (memory_bytes + (1 << 29)) >> 30;
    format!(
        "# What netdiag costs\n\n\
         Written by `cargo xtask bench --write`; not to be edited by hand.\n\n\
         | | |\n|---|---|\n\
         | machine | {cpu}, {cores} cores, {memory} GiB |\n\
         | system | {system}, Linux {kernel} |\n\
         | date, commit | {date}, {commit} |\n\
         | command | `{command}` |\n\n"
    )
}

/// A missed target is said in words, before the tables.
fn verdicts(rows: &[Row]) -> String {
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (passed, missed, skipped) = (count(Verdict::Pass), count(Verdict::Miss), count(Verdict::Skipped));
    let unclear = count(Verdict::Unclear);
    let mut text = format!(
        "{passed} targets reached, {missed} missed, {unclear} unclear, {skipped} not measured here.\n"
    );
    for row in rows.iter().filter(|row| row.verdict == Verdict::Miss) {
        let target = row.target.as_deref().unwrap_or("");
        let _ = writeln!(text, "- **Missed:** {}: {}; the target is {target}.", row.what, row.result);
    }
    for row in rows.iter().filter(|row| row.verdict == Verdict::Unclear) {
        let target = row.target.as_deref().unwrap_or("");
        let _ = writeln!(
            text,
            "- **Unclear:** {}: {}; the target is {target}. The machine was too noisy to tell.",
            row.what, row.result
        );
    }
    for row in rows.iter().filter(|row| row.verdict == Verdict::Skipped) {
        let _ = writeln!(text, "- Not measured: {}: {}.", row.what, row.result);
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

const NOISE: &str = "
## How it is measured
- **Load** comes from generators in the same program, each in a process of its own that stays on one CPU, in network
  namespaces that the benchmark makes and removes. netdiag watches the whole machine, as it does in use; only for
  armed tc it runs inside the namespace.
- **Ratios** are of paired runs, one without and one with the tracer directly after each other; which comes first
  changes from pair to pair, so that a drift of the machine cancels out. A first pair is thrown away. Given are the
  median of the pairs' ratios and in parentheses the quartiles: half of the pairs lay between them.
- **Times of programs** are the kernel's own count (`BPF_ENABLE_STATS`, which is off in all other runs). That count
  costs time itself, so programs that do nothing are attached to the same hooks in rounds that alternate with
  netdiag's, and what they read is taken off.
- **A virtual machine's** clock is slow and its neighbours take time away: single pairs differ by some percent, in bad
  hours by much more. The comparison of nothing with nothing shows how much. A ratio whose quartiles lie on both sides
  of its target, and are more than 0.05 apart, is called unclear.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_told_in_words() {
        let rows = [
            Row::measured("a", "churn", "≥ 0.97", "0.9", false),
            Row::measured("a", "idle", "≤ 1", "0", true),
            Row::skipped("a", "open", "no files"),
        ];
        let text = verdicts(&rows);
        assert!(text.starts_with("1 targets reached, 1 missed, 0 unclear, 1 not measured here."), "{text}");
        assert!(text.contains("**Missed:** churn: 0.9; the target is ≥ 0.97."), "{text}");
        assert!(text.contains("Not measured: open: no files."), "{text}");
    }
}
