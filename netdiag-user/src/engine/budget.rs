//! A limit on the time that goes into one kind of work.

use super::now_ns;

/// Looking through /proc and the sockets of all namespaces costs milliseconds, in which the ring buffer fills:
/// so much time in a second, no more.
#[derive(Debug, Default)]
pub(super) struct Budget {
    window: u64,
    spent_ns: u64,
    total_ns: u64,
}

impl Budget {
    const A_SECOND_NS: u64 = 150_000_000;

    /// The work's result, or `None` if this second's time is used up.
    pub(super) fn within<T>(&mut self, work: impl FnOnce() -> T) -> Option<T> {
        let start = now_ns();
        let window = start / 1_000_000_000;
        if window != self.window {
            *self = Self { window, spent_ns: 0, total_ns: self.total_ns };
        }
        if self.spent_ns >= Self::A_SECOND_NS {
            return None;
        }
        let result = work();
        let spent = now_ns().saturating_sub(start);
        self.spent_ns += spent;
        self.total_ns += spent;
        Some(result)
    }

    /// All time that went into it.
    pub(super) fn total_ns(&self) -> u64 {
        self.total_ns
    }
}
