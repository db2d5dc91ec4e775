//! Kernel times to wall time.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Sleeps that are remembered; the older ones count as one with the oldest.
const SLEEPS: usize = 4;
/// The clocks are read one after the other: a shorter difference is no sleep.
const SHORTEST_NS: i128 = 50_000_000;

/// Maps `CLOCK_MONOTONIC` to wall time.
///
/// The wall clock may be set while the program runs, and `CLOCK_MONOTONIC` stands still while the machine is suspended:
/// a program that stays up renews it now and then. What was before a sleep keeps its time then; a clock that was set is
/// taken to have been wrong before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    offset_ns: i128,
    /// When it was read last, and how long the machine had slept since it was started.
    read_ns: i128,
    slept_ns: i128,
    sleeps: [Sleep; SLEEPS],
}

/// A time in which the machine was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sleep {
    /// All before it is older than the sleep, `CLOCK_MONOTONIC`.
    until_ns: i128,
    length_ns: i128,
}

/// All clocks at one moment, nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Reading {
    monotonic: i128,
    /// The same with the time in which the machine was suspended.
    boot: i128,
    wall: i128,
}

impl Reading {
    fn now() -> nix::Result<Self> {
        let nanoseconds = |clock| {
            clock_gettime(clock).map(|t| i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec()))
        };
        let before = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
        let wall = nanoseconds(ClockId::CLOCK_REALTIME)?;
        let boot = nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        let after = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
        Ok(Self { monotonic: (before + after) / 2, boot, wall })
    }
}

impl Clock {
    /// `offset_ns`: wall time (nanoseconds since 1970, UTC) less `CLOCK_MONOTONIC`.
    pub const fn new(offset_ns: i128) -> Self {
        const NONE: Sleep = Sleep { until_ns: i128::MIN, length_ns: 0 };
        Self { offset_ns, read_ns: 0, slept_ns: 0, sleeps: [NONE; SLEEPS] }
    }

    /// With one sleep in its memory.
    #[cfg(test)]
    pub(super) fn after_a_sleep(until_ns: u64, length: Duration) -> Self {
        let mut clock = Self::new(0);
        clock.sleeps[0] = Sleep { until_ns: until_ns.into(), length_ns: length.as_nanos().cast_signed() };
        clock
    }

    /// Reads all clocks.
    ///
    /// # Errors
    /// That of clock_gettime(2).
    pub fn read() -> nix::Result<Self> {
        let Reading { monotonic, boot, wall } = Reading::now()?;
        Ok(Self { read_ns: monotonic, slept_ns: boot - monotonic, ..Self::new(wall - monotonic) })
    }

    /// Reads them again.
    ///
    /// # Errors
    /// As [`Clock::read`].
    pub fn renew(&mut self) -> nix::Result<()> {
        self.renew_by(Reading::now()?);
        Ok(())
    }

    fn renew_by(&mut self, Reading { monotonic, boot, wall }: Reading) {
        let slept_ns = boot - monotonic;
        let length_ns = slept_ns - self.slept_ns;
        if length_ns >= SHORTEST_NS {
            self.sleeps.rotate_left(1);
            let [first, .., last] = &mut self.sleeps;
            let forgotten = std::mem::replace(last, Sleep { until_ns: self.read_ns, length_ns });
            first.length_ns += forgotten.length_ns;
            self.slept_ns = slept_ns;
        }
        self.offset_ns = wall - monotonic;
        self.read_ns = monotonic;
    }

    /// When the machine fell asleep between these two kernel times (as far as that was noticed, to a second or so), and for
    /// how long; neither counts that time.
    pub(super) fn sleeps(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = (u64, Duration)> {
        self.sleeps.iter().filter_map(move |sleep| {
            let at = u64::try_from(sleep.until_ns).ok().filter(|at| (from_ns..to_ns).contains(at))?;
            Some((at, Duration::from_nanos(u64::try_from(sleep.length_ns).ok()?)))
        })
    }

    /// Wall time of a kernel time, cut to the years that can be written.
    pub fn at(&self, monotonic_ns: u64) -> Timestamp {
        let time = i128::from(monotonic_ns);
        let since = self.sleeps.iter().filter(|sleep| time <= sleep.until_ns);
        let wall = self.offset_ns + time - since.map(|sleep| sleep.length_ns).sum::<i128>();
        let bound = if wall < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_nanosecond(wall).unwrap_or(bound)
    }
}

/// RFC 3339, UTC, microseconds.
pub(super) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.6}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same for a time that may not be known.
pub(super) mod rfc3339_option {
    use jiff::Timestamp;
    use serde::Serializer;

    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::rfc3339::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_by_its_offset() {
        let clock = Clock::new(1_700_000_000_000_000_000);
        assert_eq!(format!("{:.6}", clock.at(1_234_567_890)), "2023-11-14T22:13:21.234567Z");
        assert_eq!(Clock::new(i128::MAX / 2).at(0), Timestamp::MAX);
        assert_eq!(Clock::new(i128::MIN / 2).at(0), Timestamp::MIN);
    }

    const SECOND: i128 = 1_000_000_000;

    /// At so many seconds of `CLOCK_MONOTONIC`, when the machine has slept for so many, by a clock that is wrong by
    /// so many.
    fn reading(monotonic: i128, slept: i128, wrong: i128) -> Reading {
        let (monotonic, boot) = (monotonic * SECOND, (monotonic + slept) * SECOND);
        Reading { monotonic, boot, wall: boot + (1_700_000_000 + wrong) * SECOND }
    }

    fn seconds(clock: &Clock, monotonic: u64) -> i64 {
        clock.at(monotonic * 1_000_000_000).as_second() - 1_700_000_000
    }

    #[test]
    fn what_was_before_a_sleep_keeps_its_time() {
        let mut clock = Clock::new(0);
        clock.renew_by(reading(100, 0, 0));
        assert_eq!(seconds(&clock, 90), 90);
        clock.renew_by(reading(101, 3_600, 0));
        assert_eq!((seconds(&clock, 90), seconds(&clock, 100), seconds(&clock, 101)), (90, 100, 3_701));
        let slept =
            |from: u64, to: u64| clock.sleeps(from * 1_000_000_000, to * 1_000_000_000).collect::<Vec<_>>();
        assert_eq!(slept(90, 110), [(100_000_000_000, Duration::from_hours(1))]);
        assert_eq!((slept(90, 100), slept(101, 110)), (vec![], vec![]));
        for second in 2..20 {
            clock.renew_by(reading(100 + second, 3_600 + 60 * second, 0));
        }
        // More sleeps than are remembered one by one.
        assert_eq!((seconds(&clock, 90), seconds(&clock, 119)), (90, 119 + 3_600 + 19 * 60));
    }

    #[test]
    fn a_clock_that_was_set_was_wrong_before() {
        let mut clock = Clock::new(0);
        clock.renew_by(reading(100, 50, 7_200));
        assert_eq!(seconds(&clock, 99), 99 + 50 + 7_200);
        clock.renew_by(reading(101, 50, 0));
        assert_eq!((seconds(&clock, 99), seconds(&clock, 102)), (149, 152));
        clock.renew_by(reading(102, 60, -300));
        assert_eq!((seconds(&clock, 101), seconds(&clock, 102)), (151 - 300, 162 - 300));
    }

    #[test]
    fn agrees_with_the_wall_clock() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        let error = Timestamp::now().duration_since(Clock::read().unwrap().at(now_ns));
        assert!(error.abs() < jiff::SignedDuration::from_secs(1), "{error:?}");
    }
}
