//! How much was lost while a connection lasted.

use super::{Engine, now_ns};

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

    /// Records lost between these times, `CLOCK_MONOTONIC`, and maybe some more. To read the counts of all programs
    /// costs some 0.1 ms: what was read after the end serves, too.
    pub(super) fn lost_between(&mut self, start_ns: u64, end_ns: u64) -> u64 {
        let read = self.lost_now.filter(|(time, _)| *time > end_ns);
        let read = read.or_else(|| Some((now_ns(), self.lost_so_far()?)));
        self.lost_now = read;
        let before = self.lost.iter().rev().find(|(time, _)| *time <= start_ns).map_or(0, |(_, lost)| *lost);
        read.map_or(0, |(_, lost)| lost.saturating_sub(before))
    }
}
