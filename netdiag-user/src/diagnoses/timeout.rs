//! Symptom `timeout`.

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[];
