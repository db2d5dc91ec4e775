//! Holds the catalogue together: code, page, probes, scenarios and vectors of each diagnosis.

// A test may panic; clippy takes only functions marked #[test] for one.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{documents, files, none, pages, read, root};
use netdiag::diagnoses::{self, Diagnosis};
use netdiag::drops::reasons::REASONS;
use netdiag::kernel::registry::PROBES;

const HEADINGS: [&str; 5] = [
    "## What it means",
    "## How netdiag knows",
    "## Check it yourself",
    "## How to fix it",
    "## When it is a false alarm",
];

/// Symptoms that a code may begin with, those without a diagnosis yet too.
const SYMPTOMS: [&str; 10] =
    ["refused", "timeout", "unreachable", "reset", "local", "stalled", "leak", "dns", "drop", "flood"];

/// Codes that texts may speak of before they exist. A code leaves the list when its diagnosis comes.
const PLANNED: [&str; 0] = [];

/// What follows the dot of a file name or of a field, not of a code.
const NOT_CAUSES: [&str; 4] = ["rs", "md", "json", "cause"];

fn codes() -> BTreeSet<&'static str> {
    diagnoses::catalogue().map(|diagnosis| diagnosis.code).collect()
}

/// Complaints about each entry.
fn check(of: impl Fn(&'static Diagnosis) -> Vec<String>) {
    let complaints: Vec<String> = diagnoses::catalogue().flat_map(of).collect();
    none(&complaints);
}

#[test]
fn codes_are_symptom_dot_cause_and_unique() {
    let mut seen = BTreeSet::new();
    check(|diagnosis| {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let parts = diagnosis.code.split_once('.');
        let good = parts.is_some_and(|(symptom, cause)| SYMPTOMS.contains(&symptom) && word(cause));
        if good { vec![] } else { vec![format!("{} is not symptom.cause", diagnosis.code)] }
    });
    for diagnosis in diagnoses::catalogue() {
        assert!(seen.insert(diagnosis.code), "{} is there twice", diagnosis.code);
        assert_eq!(diagnoses::find(diagnosis.code).map(|found| found.code), Some(diagnosis.code));
    }
}

#[test]
fn pages_have_their_headings_in_order() {
    check(|diagnosis| {
        let mut fenced = false;
        let mut headings = Vec::new();
        for line in diagnosis.page.lines() {
            fenced ^= line.starts_with("```");
            if !fenced && line.starts_with('#') {
                headings.push(line.to_owned());
            }
        }
        let mut expected = vec![format!("# {}: {}", diagnosis.code, diagnosis.title)];
        expected.extend(HEADINGS.map(str::to_owned));
        if headings == expected {
            return vec![];
        }
        vec![format!("{}: the headings are {headings:#?}, not {expected:#?}", diagnosis.code)]
    });
}

#[test]
fn every_page_belongs_to_a_code() {
    let mut complaints = Vec::new();
    for page in pages() {
        let cause = page.file_stem().unwrap().to_string_lossy().into_owned();
        let symptom = page.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let code = format!("{symptom}.{cause}");
        match diagnoses::find(&code) {
            None => complaints.push(format!("no diagnosis {code} for {}", page.display())),
            Some(found) if found.page != read(&page) => complaints.push(format!("{code} shows another page")),
            Some(_) => {}
        }
    }
    none(&complaints);
    assert_eq!(pages().len(), codes().len());
}

#[test]
fn needs_are_signals_of_the_registry() {
    check(|diagnosis| {
        let unknown = diagnosis.needs.iter().filter(|need| PROBES.iter().all(|probe| probe.signal != **need));
        unknown.map(|need| format!("{}: no probe tells {need}", diagnosis.code)).collect()
    });
}

/// Words of a text that look like codes.
fn mentioned(text: &str) -> BTreeSet<String> {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
    let words = text.split(|c: char| !part_of_word(c)).map(|word| word.trim_end_matches(['.', '-']));
    let code = |word: &&str| {
        word.split_once('.').is_some_and(|(symptom, cause)| {
            SYMPTOMS.contains(&symptom)
                && cause.starts_with(|c: char| c.is_ascii_lowercase())
                && cause.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !NOT_CAUSES.contains(&cause)
        })
    };
    words.filter(code).map(str::to_owned).collect()
}

#[test]
fn codes_in_texts_exist() {
    let known = codes();
    let mut complaints = Vec::new();
    for path in documents() {
        for code in mentioned(&read(&path)) {
            if !known.contains(code.as_str()) && !PLANNED.contains(&code.as_str()) {
                complaints.push(format!("{}: there is no {code}", path.display()));
            }
        }
    }
    none(&complaints);
    let done: Vec<_> = PLANNED.iter().filter(|code| known.contains(*code)).collect();
    assert!(done.is_empty(), "no longer only planned: {done:?}");
}

#[test]
fn codes_in_findings_exist() {
    // `netdiag explain` must know what a finding names as an alternative.
    let known = codes();
    let mut complaints = Vec::new();
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/diagnoses"), ".rs") {
        for literal in read(&path).split('"').skip(1).step_by(2) {
            for code in mentioned(literal).into_iter().filter(|code| code == literal) {
                if !known.contains(code.as_str()) {
                    complaints.push(format!("{}: there is no {code}", path.display()));
                }
            }
        }
    }
    none(&complaints);
}

/// Whether a file of scenarios has `Scenario::KIND(CODE, ...)`, also under another name of `Scenario`.
fn names(text: &str, kind: &str, code: &str) -> bool {
    let start = format!("::{kind}(");
    text.match_indices(&start).any(|(at, _)| {
        let arguments = text[at + start.len()..].trim_start();
        let first = arguments.split(',').next().unwrap_or(arguments).trim();
        // The code itself, or the file's constant that holds it.
        first == format!("\"{code}\"") || text.contains(&format!("const {first}: &str = \"{code}\";"))
    })
}

#[test]
fn every_code_has_scenarios() {
    let texts: Vec<String> =
        files(&root().join("tests/scenarios"), ".rs").iter().map(|path| read(path)).collect();
    let named = |kind: &str, code: &str| texts.iter().any(|text| names(text, kind, code));
    check(|diagnosis| {
        let missing = ["hit", "near_miss"].into_iter().filter(|kind| !named(kind, diagnosis.code));
        missing.map(|kind| format!("{}: no Scenario::{kind} in tests/scenarios", diagnosis.code)).collect()
    });
}

#[test]
fn every_code_has_a_vector() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    check(|diagnosis| {
        // Found in drops and not in a connection's evidence: each code is a row of the table of reasons.
        if diagnosis.symptom() == "drop" {
            let is_row = REASONS.iter().any(|reason| reason.class.code() == Some(diagnosis.code));
            return if is_row {
                vec![]
            } else {
                vec![format!("{}: no reason stands for it", diagnosis.code)]
            };
        }
        let found = files(&vectors.join(diagnosis.code), ".json");
        if found.is_empty() {
            vec![format!("{}: no vector in tests/vectors", diagnosis.code)]
        } else {
            vec![]
        }
    });
}

#[test]
fn codes_are_found_in_text() {
    let text = "see `timeout.no-reply`, timeout.no-reply. not net.local.port, reset.rs or timeout.*; \
                unreachable.no-ipv6";
    let found: Vec<_> = mentioned(text).into_iter().collect();
    assert_eq!(found, ["timeout.no-reply", "unreachable.no-ipv6"]);
}
