//! Scenarios of the symptom `local`.

use netdiag_tests::scenario::Scenario;

pub const SCENARIOS: &[Scenario] = &[];
