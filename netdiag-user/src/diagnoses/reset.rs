//! Symptom `reset`.

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[];
