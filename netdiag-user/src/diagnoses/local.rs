//! Symptom `local`.

use super::Diagnosis;

pub const ALL: &[Diagnosis] = &[];
