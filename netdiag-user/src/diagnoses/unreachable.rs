//! Symptom `unreachable`.

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[];
