//! What `netdiag doctor` must say on each kernel, in files below `tests/kernels`.
//!
//! `SERIES.doctor` is what the user sees. `RELEASE.fields` also has where the programs read each field, and the
//! numbers of the drop reasons: of one build of a kernel only, since any update may move them. A release without such a
//! file is not compared, and the run says so.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::Ready;
use super::results::Results;

/// Names of the sections that hold what doctor said.
pub const DOCTOR: &str = "doctor";
pub const FIELDS: &str = "fields";

/// What differs from the files; with `bless` they are written.
///
/// # Errors
/// When a file cannot be written, or a section is missing.
pub fn check(kernel: &Ready, results: &Results, bless: bool) -> Result<Vec<String>> {
    let section = |name: &str| {
        results
            .sections
            .get(name)
            .map(|section| of_the_kernel(&section.text))
            .with_context(|| format!("`netdiag doctor` ({name}) was not run"))
    };
    let doctor = section(DOCTOR)?.replace(&kernel.release, &kernel.series);
    let mut problems = Vec::new();
    problems.extend(compare(&format!("{}.doctor", kernel.series), &doctor, bless, true)?);
    problems.extend(compare(&format!("{}.fields", kernel.release), &section(FIELDS)?, bless, false)?);
    Ok(problems)
}

/// Without what doctor says of the agent, which is the machine's and comes last.
fn of_the_kernel(text: &str) -> String {
    let is_agent = |line: &str| line.split_whitespace().nth(1) == Some("agent");
    text.trim_end().lines().take_while(|line| !is_agent(line)).map(|line| format!("{line}\n")).collect()
}

fn compare(name: &str, found: &str, bless: bool, required: bool) -> Result<Option<String>> {
    let path = directory().join(name);
    if bless {
        std::fs::create_dir_all(directory())?;
        std::fs::write(&path, found).with_context(|| format!("writing {}", path.display()))?;
        return Ok(None);
    }
    match std::fs::read_to_string(&path) {
        Ok(expected) => Ok(difference(&expected, found).map(|line| {
            format!("doctor says other than tests/kernels/{name}: {line}; if that is right: ./x vm --bless")
        })),
        Err(_) if required => Ok(Some(format!("tests/kernels/{name} is missing: ./x vm --bless writes it"))),
        Err(_) => {
            println!("vm: tests/kernels/{name} is not there, so offsets are not compared; --bless writes it");
            Ok(None)
        }
    }
}

/// The first line that only one of the two has there.
fn difference(expected: &str, found: &str) -> Option<String> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return None,
            (wanted, got) if wanted == got => {}
            (wanted, got) => {
                return Some(format!("{:?} instead of {:?}", got.unwrap_or(""), wanted.unwrap_or("")));
            }
        }
    }
}

fn directory() -> PathBuf {
    crate::root().join("tests/kernels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_the_agent_is_left_out() {
        let text = "ok    kernel    release   6.12\nok    wire      tc   attached\nFAIL  agent     store   /x: no\n      → y\n";
        assert_eq!(of_the_kernel(text), "ok    kernel    release   6.12\nok    wire      tc   attached\n");
    }

    #[test]
    fn the_first_difference_is_told() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\nd\n").as_deref(), Some("\"c\" instead of \"b\""));
        assert_eq!(difference("a\n", "a\nc\n").as_deref(), Some("\"c\" instead of \"\""));
    }
}
