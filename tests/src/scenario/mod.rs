//! The registry: a scenario is an entry in a table, and a function that tells a short story.

mod needs;
mod runner;

use std::time::Duration;

use anyhow::Result;

pub use needs::Need;
pub use runner::main;

/// How long a scenario may take before it counts as hanging.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a scenario shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// This diagnosis, and it must be made.
    Hit(&'static str),
    /// Something like this diagnosis, which must not be made.
    NearMiss(&'static str),
    /// Nothing is wrong, so netdiag must say nothing.
    Healthy,
    /// The harness itself works; netdiag has no part in it.
    Harness,
}

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it shows.
    pub shows: Shows,
    /// What tells it from others that show the same: `v4`, `rule_for_other_port`.
    pub name: &'static str,
    /// What the machine must have; where it does not, the scenario is skipped.
    pub needs: &'static [Need],
    /// Its own time limit.
    pub limit: Duration,
    /// Nothing else runs beside it: it counts what happens on the whole machine.
    pub alone: bool,
    /// Only in the sample of this name: it needs a machine that nothing else can run on, or leaves one behind.
    pub only_in: Option<&'static str>,
    /// The story.
    pub run: fn() -> Result<()>,
}

impl Scenario {
    const fn new(shows: Shows, name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { shows, name, needs: &[], limit: LIMIT, alone: false, only_in: None, run }
    }

    /// A scenario in which `code` must be diagnosed.
    pub const fn hit(code: &'static str, name: &'static str, run: fn() -> Result<()>) -> Self {
        Self::new(Shows::Hit(code), name, run)
    }

    /// A scenario that looks like `code` but is not.
    pub const fn near_miss(code: &'static str, name: &'static str, run: fn() -> Result<()>) -> Self {
        Self::new(Shows::NearMiss(code), name, run)
    }

    /// A scenario without a fault.
    pub const fn healthy(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self::new(Shows::Healthy, name, run)
    }

    /// A scenario that proves the harness.
    pub const fn harness(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self::new(Shows::Harness, name, run)
    }

    /// The same, with needs.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// The same, with another time limit.
    #[must_use]
    pub const fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The same, with no other scenario beside it.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// The same, in one sample and nowhere else.
    #[must_use]
    pub const fn only_in(self, sample: &'static str) -> Self {
        Self { only_in: Some(sample), ..self }
    }

    /// The diagnosis that it must hit.
    pub fn code(&self) -> Option<&'static str> {
        match self.shows {
            Shows::Hit(code) => Some(code),
            _ => None,
        }
    }

    /// `timeout_firewall_drop__hit_v4`.
    pub fn full_name(&self) -> String {
        let plain = |code: &str| code.replace(['.', '-'], "_");
        match self.shows {
            Shows::Hit(code) => format!("{}__hit_{}", plain(code), self.name),
            Shows::NearMiss(code) => format!("{}__near_miss_{}", plain(code), self.name),
            Shows::Healthy => format!("healthy__{}", self.name),
            Shows::Harness => format!("harness__{}", self.name),
        }
    }
}

/// A skip that is known and accepted. Any other skip fails the run.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedSkip {
    /// The start of `uname -r` (`5.10.`), or `*`.
    pub kernel: &'static str,
    /// The full name of a scenario, or its start followed by `*`.
    pub scenario: &'static str,
    /// Why that is all right.
    pub reason: &'static str,
}

impl ExpectedSkip {
    fn covers(&self, kernel: &str, scenario: &str) -> bool {
        let matches = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
            Some(start) => text.starts_with(start),
            None => text == pattern,
        };
        (self.kernel == "*" || kernel.starts_with(self.kernel)) && matches(self.scenario, scenario)
    }
}

/// An error that means "cannot be tried here" rather than "failed".
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the scenario as skipped: `return skip("no such module")`.
///
/// # Errors
/// Always.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_code() {
        let run = || Ok(());
        assert_eq!(
            Scenario::hit("timeout.firewall-drop", "v4", run).full_name(),
            "timeout_firewall_drop__hit_v4"
        );
        let miss = Scenario::near_miss("timeout.no-reply", "late", run);
        assert_eq!(miss.full_name(), "timeout_no_reply__near_miss_late");
        assert_eq!(miss.code(), None);
    }

    #[test]
    fn an_expected_skip_covers_its_kernel_and_scenario_only() {
        let skip = ExpectedSkip { kernel: "5.10.", scenario: "reset_*", reason: "" };
        assert!(skip.covers("5.10.0-30-amd64", "reset_linger__hit_v4"));
        assert!(!skip.covers("5.100.0", "reset_linger__hit_v4"));
        assert!(!skip.covers("5.10.0", "timeout_no_reply__hit_v4"));
    }
}
