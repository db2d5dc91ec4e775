//! Repeats: the first report of a flow and cause is shown at once, those after it are counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::report::{Endpoint, Report};

/// Flows that are remembered; beyond, the one that was quiet for longest is forgotten.
const MAX_KEYS: usize = 1024;
/// Repeats are told this often.
const INTERVAL: Duration = Duration::from_secs(10);
/// It is looked this often which are due: all flows are gone through.
const LOOK: Duration = Duration::from_millis(200);
/// A flow that was quiet for so long is new again, with a full card.
const FORGET: Duration = Duration::from_mins(10);

/// What makes two reports the same problem. Processes count by name, so that a loop that starts one after
/// the other is one; the port that the kernel chose does not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    code: String,
    comm: Option<String>,
    netns: u32,
    protocol: String,
    local: (IpAddr, Option<u16>),
    peer: (IpAddr, Option<u16>),
    errno: Option<String>,
}

impl Key {
    fn of(report: &Report) -> Self {
        let connection = &report.connection;
        let fixed = |end: Endpoint| (end.address, Some(end.port));
        let chosen = |end: Endpoint| (end.address, None);
        let keeps_local_port = connection.is_inbound() || !connection.has_peer();
        let (local, peer) = if keeps_local_port {
            (fixed(connection.local), chosen(connection.peer))
        } else {
            (chosen(connection.local), fixed(connection.peer))
        };
        Self {
            code: report.code.clone(),
            comm: report.process.as_ref().map(|process| process.comm.clone()),
            netns: connection.netns,
            protocol: connection.protocol.clone(),
            local,
            peer,
            errno: report.errno.clone(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    /// When it was last shown. Not by the wall clock, which may be set meanwhile.
    told: Instant,
    seen: Instant,
    /// The latest repeat, with `count`, `first` and `last` of those not shown yet.
    repeats: Option<Box<Report>>,
}

/// Folds repeats. The counts of all reports that it lets through add up to the number that went in.
#[derive(Debug, Default)]
pub struct Folder {
    entries: HashMap<Key, Entry>,
    /// Repeats of flows that had to be forgotten.
    due: Vec<Report>,
    /// When it was looked last what is due.
    looked: Option<Instant>,
}

impl Folder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The report, if it is to be shown now; a repeat is kept for [`tick`](Self::tick).
    pub fn add(&mut self, report: Report, now: Instant) -> Option<Report> {
        let key = Key::of(&report);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.seen = entry.seen.max(now);
            let repeat = match entry.repeats.take() {
                Some(before) => Report {
                    count: before.count + report.count,
                    first: before.first.min(report.first),
                    last: before.last.max(report.last),
                    ..report
                },
                None => report,
            };
            entry.repeats = Some(Box::new(repeat));
            return None;
        }
        if self.entries.len() >= MAX_KEYS {
            self.forget_oldest();
        }
        self.entries.insert(key, Entry { told: now, seen: now, repeats: None });
        Some(report)
    }

    /// Repeats that are due, oldest first.
    pub fn tick(&mut self, now: Instant) -> Vec<Report> {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return Vec::new();
        }
        self.looked = Some(now);
        let mut due = std::mem::take(&mut self.due);
        for entry in self.entries.values_mut() {
            if now.saturating_duration_since(entry.told) >= INTERVAL
                && let Some(repeats) = entry.repeats.take()
            {
                entry.told = now;
                due.push(*repeats);
            }
        }
        self.entries
            .retain(|_, entry| entry.repeats.is_some() || now.saturating_duration_since(entry.seen) < FORGET);
        due.sort_by_key(|report| report.first);
        due
    }

    /// All repeats that were not shown yet, oldest first; everything is forgotten.
    pub fn finish(&mut self) -> Vec<Report> {
        let mut due = std::mem::take(&mut self.due);
        due.extend(self.entries.drain().filter_map(|(_, entry)| entry.repeats).map(|repeats| *repeats));
        due.sort_by_key(|report| report.first);
        due
    }

    fn forget_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.seen).map(|(key, _)| key.clone());
        if let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) {
            self.due.extend(entry.repeats.map(|repeats| *repeats));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::output::testing;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn at(second: i64, local_port: u16) -> Report {
        let time = time(second);
        let mut report = testing::firewall_drop();
        report.connection.local.port = local_port;
        Report { first: time, last: time, ..report }
    }

    /// A folder, and the seconds that have passed since it was made.
    struct Passed(Folder, Instant);

    impl Passed {
        fn new() -> Self {
            Self(Folder::new(), Instant::now())
        }

        fn add(&mut self, second: u64, report: Report) -> Option<Report> {
            self.0.add(report, self.1 + Duration::from_secs(second))
        }

        fn tick(&mut self, second: u64) -> Vec<Report> {
            self.0.tick(self.1 + Duration::from_secs(second))
        }
    }

    #[test]
    fn the_first_is_shown_and_repeats_are_counted() {
        let mut folder = Passed::new();
        assert!(folder.add(0, at(0, 40_000)).is_some());
        assert!(folder.add(2, at(2, 40_001)).is_none());
        assert!(folder.add(4, at(4, 40_002)).is_none());
        assert!(folder.tick(5).is_empty());
        let due = folder.tick(10);
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].count, due[0].first, due[0].last), (2, time(2), time(4)));
        assert!(folder.add(11, at(11, 40_003)).is_none());
        assert_eq!(folder.0.finish()[0].count, 1);
        assert!(folder.0.finish().is_empty());
    }

    #[test]
    fn another_peer_or_cause_is_another_problem() {
        let mut folder = Passed::new();
        assert!(folder.add(0, at(0, 1)).is_some());
        let mut other = at(0, 1);
        other.connection.peer.port = 81;
        assert!(folder.add(0, other).is_some());
        assert!(folder.add(0, Report { code: "timeout.no-reply".into(), ..at(0, 1) }).is_some());
        assert!(folder.add(0, Report { errno: Some("ETIMEDOUT".into()), ..at(0, 1) }).is_some());
    }

    #[test]
    fn after_a_long_silence_it_is_new() {
        let mut folder = Passed::new();
        assert!(folder.add(0, at(0, 1)).is_some());
        assert!(folder.tick(599).is_empty());
        assert!(folder.add(599, at(599, 1)).is_none());
        assert_eq!(folder.tick(700).len(), 1);
        assert!(folder.tick(1300).is_empty());
        assert!(folder.add(1300, at(1300, 1)).is_some());
    }

    #[test]
    fn it_is_bounded_and_loses_no_count() {
        let mut folder = Passed::new();
        let mut shown = 0;
        for n in 0..5000u32 {
            let mut report = at(i64::from(n), 1);
            report.connection.peer.port = (n % 2500) as u16;
            shown += u64::from(folder.add(u64::from(n), report.clone()).is_some());
            shown += u64::from(folder.add(u64::from(n), report).is_some());
        }
        assert!(folder.0.entries.len() <= MAX_KEYS);
        shown += folder.0.finish().iter().map(|report| report.count).sum::<u64>();
        assert_eq!(shown, 10_000);
    }

    #[test]
    fn a_clock_that_is_set_delays_and_hurries_nothing() {
        let mut folder = Passed::new();
        assert!(folder.add(0, at(0, 1)).is_some());
        // Set back by an hour.
        assert!(folder.add(2, at(-3598, 2)).is_none());
        assert!(folder.tick(9).is_empty());
        let due = folder.tick(10);
        assert_eq!((due.len(), due[0].count, due[0].last), (1, 1, time(-3598)));
        // And forward by a day: nothing was quiet for that long.
        assert!(folder.add(12, at(86_400, 3)).is_none());
        assert!(folder.add(13, at(-3587, 4)).is_none());
        let due = folder.tick(20);
        assert_eq!((due[0].count, due[0].first, due[0].last), (2, time(-3587), time(86_400)));
    }
}
