//! What comes to the listeners of a network namespace, by the kernel's counters.

/// A flood has at least so many SYNs a second that the queue has no room for.
const MIN_RATE: f64 = 10.0;
/// And of those that are dropped so few are finished, in percent: a crowd of real clients comes back, and gets in.
const MAX_FINISHED_PERCENT: f64 = 10.0;
/// The same of those that are answered with a cookie: whoever is real finishes at once.
const MAX_ANSWERED_PERCENT: f64 = 33.0;
/// Looks that are closer together say nothing about a rate.
const MIN_SECONDS: f64 = 0.2;

/// All a second, of the whole namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// SYNs dropped because the SYN queue was full (TCPReqQFullDrop).
    pub dropped: f64,
    /// SYNs answered with a cookie (SyncookiesSent).
    pub cookies: f64,
    /// Cookies that came back and were right (SyncookiesRecv), and ACKs that had none (SyncookiesFailed).
    pub valid: f64,
    pub failed: f64,
    /// Handshakes finished, those by cookie too (PassiveOpens).
    pub finished: f64,
}

impl Rates {
    /// What the counters that both looks know by these names grew, in a second. `None` where the looks are too close, or
    /// what decides is not counted.
    pub fn between(
        before: impl Fn(&str) -> Option<u64>,
        after: impl Fn(&str) -> Option<u64>,
        seconds: f64,
    ) -> Option<Self> {
        if seconds < MIN_SECONDS {
            return None;
        }
        let rate = |name: &str| Some(after(name)?.saturating_sub(before(name)?) as f64 / seconds);
        Some(Self {
            dropped: rate("TCPReqQFullDrop")?,
            cookies: rate("SyncookiesSent").unwrap_or(0.0),
            valid: rate("SyncookiesRecv").unwrap_or(0.0),
            failed: rate("SyncookiesFailed").unwrap_or(0.0),
            finished: rate("PassiveOpens")?,
        })
    }

    /// SYNs beyond what the queue holds.
    pub fn excess(&self) -> f64 {
        self.cookies + self.dropped
    }

    /// Whether that is a flood. A cookie alone is none: a crowd answers it, and with tcp_syncookies=2 every SYN gets
    /// one.
    pub fn is_flood(&self) -> bool {
        let answered = self.finished.max(self.valid) * 100.0;
        let ignored = self.cookies - self.finished.max(self.valid);
        let cookies = ignored >= MIN_RATE && answered < self.cookies * MAX_ANSWERED_PERCENT;
        let drops = self.excess() >= MIN_RATE && answered < self.excess() * MAX_FINISHED_PERCENT;
        cookies || drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_finishes_and_a_flood_does_not() {
        let rates =
            |dropped, cookies, valid, finished| Rates { dropped, cookies, valid, finished, failed: 0.0 };
        assert!(rates(100.0, 0.0, 0.0, 9.0).is_flood());
        assert!(!rates(100.0, 0.0, 0.0, 11.0).is_flood());
        assert!(!rates(9.0, 0.0, 0.0, 0.0).is_flood(), "a trickle");
        assert!(rates(0.0, 6000.0, 1000.0, 1000.0).is_flood(), "a busy server below a flood");
        assert!(!rates(0.0, 1000.0, 990.0, 990.0).is_flood(), "tcp_syncookies=2");
        assert!(!rates(0.0, 1000.0, 400.0, 400.0).is_flood(), "many come back a moment later");
        assert!(!rates(0.0, 5.0, 0.0, 0.0).is_flood());
    }

    #[test]
    fn what_is_not_counted_is_not_said() {
        let before = |name: &str| (name != "PassiveOpens").then_some(0);
        assert_eq!(Rates::between(before, |_| Some(9), 1.0), None);
        assert_eq!(Rates::between(|_| Some(0), |_| Some(9), 0.1), None);
        let all = Rates::between(|_| Some(1), |_| Some(5), 2.0);
        assert_eq!(all, Some(Rates { dropped: 2.0, cookies: 2.0, valid: 2.0, failed: 2.0, finished: 2.0 }));
    }
}
