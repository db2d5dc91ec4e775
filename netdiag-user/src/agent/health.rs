//! Whether the agent does its work: what /healthz and /readyz say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The main loop comes by once a second; a search of /proc and all namespaces takes seconds at the very worst.
const STUCK: Duration = Duration::from_secs(30);
/// Heartbeats that may go missing before the agent says that it is not ready.
const MISSED: u32 = 3;
/// Time for the record of the first heartbeat, and of one that is on its way.
const GRACE: Duration = Duration::from_secs(2);

/// How the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// It works, but not all of it.
    Degraded,
    /// Its first heartbeat is on its way.
    Starting,
    Failing,
    Stopping,
}

impl From<Status> for &'static str {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Starting => "starting",
            Status::Failing => "failing",
            Status::Stopping => "stopping",
        }
    }
}

impl Status {
    /// Whether it can be relied on.
    pub fn is_fit(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

/// What both pages are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    pub problems: Vec<String>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    turned: Instant,
    seen: Option<Instant>,
    every: Duration,
    /// By part of the agent.
    problems: BTreeMap<&'static str, String>,
    stopping: bool,
}

/// Shared by the agent, which reports, and the pages.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<Inner>>);

impl Health {
    pub fn new(heartbeat: Duration) -> Self {
        let now = Instant::now();
        let inner = Inner {
            began: now,
            turned: now,
            seen: None,
            every: heartbeat,
            problems: BTreeMap::new(),
            stopping: false,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop came by.
    pub fn turned(&self) {
        self.lock().turned = Instant::now();
    }

    /// The record of a heartbeat arrived.
    pub fn seen(&self) {
        self.lock().seen = Some(Instant::now());
    }

    pub fn heartbeat_every(&self, every: Duration) {
        self.lock().every = every;
    }

    pub fn stopping(&self) {
        self.lock().stopping = true;
    }

    /// A part's problem, or that it has none. Whether that is new.
    pub fn part(&self, part: &'static str, problem: Option<String>) -> bool {
        let mut inner = self.lock();
        match problem {
            Some(text) if inner.problems.get(part) == Some(&text) => false,
            Some(text) => inner.problems.insert(part, text).is_none_or(|_| true),
            None => inner.problems.remove(part).is_some(),
        }
    }

    /// Alive: failing only where a restart would help.
    pub fn alive(&self) -> State {
        self.alive_at(Instant::now())
    }

    fn alive_at(&self, now: Instant) -> State {
        let inner = self.lock();
        let mut problems: Vec<String> =
            inner.problems.iter().map(|(part, text)| format!("{part}: {text}")).collect();
        let still = now.saturating_duration_since(inner.turned);
        if still > STUCK {
            problems.insert(0, format!("the main loop has not come by for {} s", still.as_secs()));
            return State { status: Status::Failing, problems };
        }
        let status = if problems.is_empty() { Status::Ok } else { Status::Degraded };
        State { status, problems }
    }

    /// Ready: probes are attached and records flow. There is no agent without the probes it must have.
    pub fn ready(&self) -> State {
        self.ready_at(Instant::now())
    }

    fn ready_at(&self, now: Instant) -> State {
        let alive = self.alive_at(now);
        let inner = self.lock();
        let late = inner.every * MISSED + GRACE;
        let (status, problem) = match inner.seen {
            _ if inner.stopping => (Status::Stopping, "it is stopping".to_owned()),
            Some(seen) if now.saturating_duration_since(seen) > late => {
                let ago = now.saturating_duration_since(seen).as_secs();
                (Status::Failing, format!("the last record of its own heartbeat arrived {ago} s ago"))
            }
            Some(_) => return alive,
            None => {
                let is_late = now.saturating_duration_since(inner.began) > late;
                let status = if is_late { Status::Failing } else { Status::Starting };
                (status, "no record of its own heartbeat has arrived yet".to_owned())
            }
        };
        State { status, problems: std::iter::once(problem).chain(alive.problems).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_a_heartbeat_was_seen_and_as_long_as_they_come() {
        let health = Health::new(Duration::from_secs(10));
        let now = Instant::now();
        assert_eq!(health.alive_at(now).status, Status::Ok);
        assert_eq!(health.ready_at(now).status, Status::Starting);
        assert_eq!(health.ready_at(now + Duration::from_secs(34)).status, Status::Failing);
        health.seen();
        let now = Instant::now();
        assert_eq!(health.ready_at(now).status, Status::Ok);
        assert_eq!(health.ready_at(now + Duration::from_secs(25)).status, Status::Ok);
        let late = health.ready_at(now + Duration::from_secs(33));
        assert_eq!(late.status, Status::Failing);
        assert!(late.problems.iter().any(|text| text.contains("arrived 33 s ago")), "{late:?}");
        health.stopping();
        assert_eq!(health.ready_at(now).status, Status::Stopping);
    }

    #[test]
    fn a_part_that_fails_degrades_and_a_loop_that_hangs_fails() {
        let health = Health::new(Duration::from_secs(10));
        assert!(health.part("history", Some("disk full".into())));
        assert!(!health.part("history", Some("disk full".into())));
        let now = Instant::now();
        let state = health.alive_at(now);
        assert_eq!((state.status, state.problems), (Status::Degraded, vec!["history: disk full".to_owned()]));
        assert_eq!(health.alive_at(now + STUCK * 2).status, Status::Failing);
        assert!(health.part("history", None));
        assert!(!health.part("history", None));
        assert_eq!(health.alive_at(Instant::now()).status, Status::Ok);
    }
}
