//! Scenarios of the symptom `reset`.

use netdiag_tests::scenario::Scenario;

pub const SCENARIOS: &[Scenario] = &[];
