//! Evidence of real connections, replayed: `vectors/CODE/NAME.json` must give CODE and nothing else. So each
//! vector is a near miss of all other codes too. docs/adding-a-diagnosis.md says how to record one.

// A test may panic; clippy takes only functions marked #[test] for one.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{files, none, read};
use netdiag::diagnoses::{self, Evidence};

#[test]
fn each_vector_gives_its_code() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut complaints = Vec::new();
    for path in files(&directory, ".json") {
        let name = path.strip_prefix(&directory).unwrap().display();
        let code = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        if diagnoses::find(&code).is_none() {
            complaints.push(format!("{name}: there is no {code}"));
            continue;
        }
        let evidence: Evidence = match serde_json::from_str(&read(&path)) {
            Ok(evidence) => evidence,
            Err(error) => {
                complaints.push(format!("{name}: {error}"));
                continue;
            }
        };
        let again = serde_json::to_string(&evidence).and_then(|text| serde_json::from_str::<Evidence>(&text));
        if again.ok().as_ref() != Some(&evidence) {
            complaints.push(format!("{name}: changes when it is written and read"));
        }
        match diagnoses::diagnose(&evidence) {
            Some((found, _)) if found.code == code => {}
            Some((found, finding)) => {
                complaints.push(format!("{name}: gives {} ({})", found.code, finding.confidence.as_str()))
            }
            None => complaints.push(format!("{name}: gives nothing; {:?}", diagnoses::undecided(&evidence))),
        }
    }
    none(&complaints);
}
