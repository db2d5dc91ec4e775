//! Symptom `leak`: a program keeps what it should give back.

mod close_wait;

use super::Diagnosis;

pub use close_wait::{OLD, time_in_close_wait};

pub const ALL: &[Diagnosis] = &[Diagnosis {
    code: "leak.close-wait",
    title: "the peer has closed, and the program does not close its end",
    specificity: 30,
    needs: &["inet_sock_set_state"],
    page: include_str!("../pages/leak/close-wait.md"),
    check: close_wait::close_wait,
}];
