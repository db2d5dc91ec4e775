//! How much was lost while a connection lasted.

use super::Engine;

/// Samples of lost records, one a second at most.
const LOST_SAMPLES: usize = 256;

impl Engine {
    /// Remembers how much was lost until now.
    pub(super) fn note_lost(&mut self, now: u64) {
        let recent = self.lost.back().is_some_and(|(time, _)| now.saturating_sub(*time) < 1_000_000_000);
        if recent {
            return;
        }
        let Some(lost) = self.lost_so_far() else { return };
        if self.lost.len() >= LOST_SAMPLES {
            self.lost.pop_front();
        }
        self.lost.push_back((now, lost));
    }

    fn lost_so_far(&self) -> Option<u64> {
        Some(self.session.counters().ok()?.lost() + self.session.missed())
    }

    /// Records lost since then, `CLOCK_MONOTONIC`.
    pub(super) fn lost_since(&mut self, start_ns: u64) -> u64 {
        let now = self.lost_now.or_else(|| self.lost_so_far()).unwrap_or(0);
        self.lost_now = Some(now);
        let before = self.lost.iter().rev().find(|(time, _)| *time <= start_ns).map_or(0, |(_, lost)| *lost);
        now.saturating_sub(before)
    }
}
