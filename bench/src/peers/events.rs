//! How many events there were to see, and how many a peer wrote.

use std::path::Path;

use anyhow::Result;
use aya::sys::{Stats, enable_stats};

use crate::bpf::empty::{Empties, Hook};
use crate::context::Context;
use crate::load::churn::Churned;
use crate::suite::fresh_namespace;

/// One run of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub expected: f64,
    pub events: f64,
    /// User and system time of the peer's process while the load ran and it caught up.
    pub cpu_seconds: f64,
    /// How long the load ran.
    pub seconds: f64,
}

/// How a peer's output says how many events it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// A line for each, with this many words at least.
    Lines { words: usize },
    /// bpftrace's map `@`, printed at the end.
    Map,
}

/// How many events a connection that works should give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Each state change of both ends.
    Transitions,
    /// The end of both ends.
    Ends,
    None,
}

impl Expected {
    pub fn of(self, connections: u64, transitions: f64) -> f64 {
        match self {
            Self::Transitions => connections as f64 * transitions,
            Self::Ends => connections as f64 * 2.0,
            Self::None => 0.0,
        }
    }
}

/// Counted by a program that does nothing, at the tracepoint of all state changes.
pub fn transitions_per_connection(context: &Context) -> Result<f64> {
    const CONNECTIONS: u64 = 2_000;
    let name = "inet_sock_set_state".to_owned();
    let namespace = fresh_namespace()?;
    let statistics = enable_stats(Stats::RunTime)?;
    let empties = Empties::attach(&[(name.clone(), Hook::BtfTracepoint(name.clone()))])?;
    let churned: Churned =
        context.run_load(&namespace, &["churn", "--connections", &CONNECTIONS.to_string()])?;
    let runs = empties.usages().of(&name).runs;
    drop(statistics);
    Ok((runs as f64 / churned.connections as f64).round())
}

/// Events in the file that a peer wrote.
pub fn count(output: &Path, counting: Counting) -> Result<f64> {
    let bytes = std::fs::read(output)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match counting {
        Counting::Lines { words } => lines(&text, words),
        Counting::Map => map(&text),
    })
}

/// Lines of that many words; headings have none that is a number.
fn lines(text: &str, words: usize) -> f64 {
    let is_event = |line: &&str| {
        line.split_whitespace().count() >= words
            && line.split_whitespace().any(|word| word.parse::<f64>().is_ok())
    };
    text.lines().filter(is_event).count() as f64
}

/// The sum of "@: N" and "@[KEY]: N".
fn map(text: &str) -> f64 {
    let value = |line: &str| line.strip_prefix('@')?.rsplit_once(':')?.1.trim().parse::<f64>().ok();
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_the_output_of_peers() {
        let table = "PID COMM LADDR\n12 curl 127.0.0.1\n13 curl 127.0.0.1\n";
        assert_eq!(lines(table, 3), 2.0);
        assert_eq!(map("Attaching 1 probe...\n\n@[1]: 20\n@[7]: 22\n"), 42.0);
        assert_eq!(map("@: 5\n"), 5.0);
    }
}
