//! Kernel times to wall time.

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Maps `CLOCK_MONOTONIC` to wall time.
///
/// The wall clock may be set while the program runs: a program that stays up takes a new one now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    offset_ns: i128,
}

impl Clock {
    /// `offset_ns`: wall time (nanoseconds since 1970, UTC) less `CLOCK_MONOTONIC`.
    pub const fn new(offset_ns: i128) -> Self {
        Self { offset_ns }
    }

    /// Reads both clocks.
    ///
    /// # Errors
    /// That of clock_gettime(2).
    pub fn read() -> nix::Result<Self> {
        let nanoseconds = |clock| {
            clock_gettime(clock).map(|t| i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec()))
        };
        let before = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
        let wall = nanoseconds(ClockId::CLOCK_REALTIME)?;
        let after = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
        Ok(Self::new(wall - (before + after) / 2))
    }

    /// Wall time of a kernel time, cut to the years that can be written.
    pub fn at(&self, monotonic_ns: u64) -> Timestamp {
        let wall = self.offset_ns + i128::from(monotonic_ns);
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

    #[test]
    fn agrees_with_the_wall_clock() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        let error = Timestamp::now().duration_since(Clock::read().unwrap().at(now_ns));
        assert!(error.abs() < jiff::SignedDuration::from_secs(1), "{error:?}");
    }
}
