//! What was looked at, and what was found.

use std::fmt;

use jiff::Timestamp;
use netdiag::output::Head;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Ok,
    Warn,
    Fail,
}

/// kind = "check" of the contract.
#[derive(Debug, Serialize)]
pub struct Check {
    #[serde(flatten)]
    pub head: Head,
    pub layer: &'static str,
    pub name: String,
    pub status: Status,
    pub summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

pub fn check(
    layer: &'static str,
    name: impl Into<String>,
    status: Status,
    summary: impl Into<String>,
) -> Check {
    Check {
        head: Head::new("check", Timestamp::now()),
        layer,
        name: name.into(),
        status,
        summary: summary.into(),
        next_steps: Vec::new(),
    }
}

impl Check {
    /// What to do about it.
    pub fn next(mut self, text: impl Into<String>, command: Option<&str>) -> Self {
        self.next_steps.push(Step { text: text.into(), command: command.map(str::to_owned) });
        self
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        writeln!(f, "{mark}  {:<9} {:<24} {}", self.layer, self.name, self.summary)?;
        for step in &self.next_steps {
            match &step.command {
                Some(command) => writeln!(f, "      → {}: {command}", step.text)?,
                None => writeln!(f, "      → {}", step.text)?,
            }
        }
        Ok(())
    }
}
