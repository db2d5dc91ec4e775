//! What systemd wants to know (sd_notify(3)); nothing where it did not start the agent.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often it is looked whether the status line is another.
const STATUS: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Manager {
    /// Half of the time within which systemd wants to hear something.
    watchdog: Option<Duration>,
    told: Option<Instant>,
    looked: Option<Instant>,
    status: String,
}

impl Manager {
    pub fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().map(|every| every / 2),
            told: None,
            looked: None,
            status: String::new(),
        }
    }

    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// The main loop came by.
    pub fn alive(&mut self, status: impl FnOnce() -> String) {
        let is_due = |last: &Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        if self.watchdog.is_some_and(|every| is_due(&self.told, every)) {
            self.told = Some(Instant::now());
            notify(&[NotifyState::Watchdog]);
        }
        if is_due(&self.looked, STATUS) && std::env::var_os("NOTIFY_SOCKET").is_some() {
            self.looked = Some(Instant::now());
            let status = status().replace('\n', " ");
            if status != self.status {
                notify(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }
}

/// A manager that does not listen is no reason to end.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
