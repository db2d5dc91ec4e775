//! Times as people write them: "30s", "3h", "03:00", "2026-11-26 03:00".

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// "30s", "5m", "1h30m", "14d", "250ms", or a number of seconds.
///
/// # Errors
/// In words, if it is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("`{text}` is no duration: write 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| problem());
    }
    let span: jiff::Span = text.parse().map_err(|_| problem())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| problem())?;
    Duration::try_from(duration).map_err(|_| problem())
}

/// A moment: a duration before `now` ("3h"), a time of day ("03:00", UTC, the last one that was), a date, a date with
/// a time (UTC), or RFC 3339.
///
/// # Errors
/// In words, if it is none of these.
pub fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let problem =
        || format!("`{text}` is no time: write 3h, 03:00, 2026-11-26, \"2026-11-26 03:00\" or RFC 3339");
    // A time of day would be a duration, too, as jiff has it.
    let is_clock = text.contains(':');
    if !is_clock && let Ok(before) = parse_duration(text) {
        return now.checked_sub(before).map_err(|_| problem());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let utc = |civil: DateTime| civil.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).ok();
    if is_clock
        && !text.contains('-')
        && let Ok(time) = text.parse::<Time>()
    {
        let today = now.to_zoned(TimeZone::UTC).date();
        let moment = utc(today.to_datetime(time)).ok_or_else(problem)?;
        return if moment <= now {
            Ok(moment)
        } else {
            moment.checked_sub(24.hours()).map_err(|_| problem())
        };
    }
    if let Ok(date) = text.parse::<Date>() {
        // A date with a time is a date, too: the time must not be lost.
        let whole = text.parse::<DateTime>().unwrap_or_else(|_| date.to_datetime(Time::midnight()));
        return utc(whole).ok_or_else(problem);
    }
    text.parse::<DateTime>().ok().and_then(utc).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("-5s").is_err());
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2026-11-26T04:30:00Z".parse().unwrap();
        for (text, expected) in [
            ("3h", "2026-11-26T01:30:00Z"),
            ("03:00", "2026-11-26T03:00:00Z"),
            ("05:00", "2026-11-25T05:00:00Z"),
            ("04:10:30", "2026-11-26T04:10:30Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20 03:00", "2026-11-20T03:00:00Z"),
            ("2026-11-20T03:00:05", "2026-11-20T03:00:05Z"),
            ("2026-11-20T03:00:00+01:00", "2026-11-20T02:00:00Z"),
        ] {
            assert_eq!(parse_moment(text, now), Ok(expected.parse().unwrap()), "{text}");
        }
        assert!(parse_moment("yesterday at noon", now).is_err());
    }
}
