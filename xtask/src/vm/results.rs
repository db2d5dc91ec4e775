//! What a virtual machine said on its second serial port, and whether that is all of it.

use std::collections::BTreeMap;

use crate::count::Count;

/// The marks of `nd-init` around the output of each program; the last line says that all of them ran.
const BEGIN: &str = "@@ begin ";
const END: &str = "@@ end ";
const DONE: &str = "@@ done";

/// The output of one program in the virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    pub text: String,
    /// Its exit status, once it ended.
    pub status: Option<i32>,
}

/// Everything that came.
#[derive(Debug, Default)]
pub struct Results {
    pub sections: BTreeMap<String, Section>,
    /// The first process came to the end of its plan.
    pub complete: bool,
}

impl Results {
    pub fn parse(text: &str) -> Self {
        let mut results = Self::default();
        let mut open: Option<String> = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(BEGIN) {
                results.sections.entry(name.to_owned()).or_default();
                open = Some(name.to_owned());
            } else if let Some((name, status)) = line.strip_prefix(END).and_then(|rest| rest.split_once(' '))
            {
                results.sections.entry(name.to_owned()).or_default().status = status.parse().ok();
                open = None;
            } else if line == DONE {
                results.complete = true;
            } else if let Some(section) = open.as_ref().and_then(|name| results.sections.get_mut(name)) {
                section.text.push_str(line);
                section.text.push('\n');
            }
        }
        results
    }
}

/// The outcome of one test, as libtest's format names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// `test NAME ... ok`
pub fn outcome(line: &str) -> Option<(&str, Outcome)> {
    let mut words = line.strip_prefix("test ")?.split_whitespace();
    let (name, dots, word) = (words.next()?, words.next()?, words.next()?);
    let outcome = match word.trim_end_matches(',') {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Skipped,
        _ => return None,
    };
    (dots == "...").then_some((name, outcome))
}

/// The tests of a run: how many, and what is wrong with the run as a whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub count: Count,
    pub problems: Vec<String>,
}

/// Counts outcomes; a test that is missing, or reported twice, or that nobody asked for is a problem.
pub fn judge(text: &str, expected: &[String]) -> Verdict {
    let mut seen: BTreeMap<&str, u32> = expected.iter().map(|name| (name.as_str(), 0)).collect();
    let mut verdict = Verdict::default();
    for (name, outcome) in text.lines().filter_map(outcome) {
        match seen.get_mut(name) {
            Some(times) => *times += 1,
            None => verdict.problems.push(format!("{name} ran, though it was not asked for")),
        }
        match outcome {
            Outcome::Passed => verdict.count.passed += 1,
            Outcome::Failed => verdict.count.failed += 1,
            Outcome::Skipped => verdict.count.skipped += 1,
        }
    }
    let missing: Vec<&str> = seen.iter().filter(|(_, times)| **times == 0).map(|(name, _)| *name).collect();
    if let [first, rest @ ..] = missing.as_slice() {
        let others = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        verdict.problems.push(format!("no result of {first}{others}"));
    }
    for (name, times) in seen.iter().filter(|(_, times)| **times > 1) {
        verdict.problems.push(format!("{times} results of {name}"));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn sections_end_with_their_status() {
        let results = Results::parse("noise\n@@ begin doctor\nfine\n@@ end doctor 1\n@@ begin tests\ntest a");
        assert_eq!(results.sections["doctor"], Section { text: "fine\n".into(), status: Some(1) });
        assert_eq!(results.sections["tests"].status, None);
        assert!(!results.complete);
        assert!(Results::parse("@@ done\n").complete);
    }

    #[test]
    fn counts_outcomes() {
        let text = "test a   ... ok\ntest b ... FAILED\ntest c ... ignored, no such tool\nrunning 3 tests\n";
        let verdict = judge(text, &expected(&["a", "b", "c"]));
        assert_eq!(verdict.count, Count { passed: 1, failed: 1, skipped: 1 });
        assert_eq!(verdict.problems, Vec::<String>::new());
    }

    #[test]
    fn missing_and_doubled_results_are_problems() {
        let verdict = judge("test a ... ok\ntest a ... ok\ntest z ... ok\n", &expected(&["a", "b", "c"]));
        let wanted = ["z ran, though it was not asked for", "no result of b and 1 more", "2 results of a"];
        assert_eq!(verdict.problems, wanted);
    }
}
