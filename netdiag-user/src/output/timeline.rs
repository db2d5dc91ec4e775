//! The rows of a card that say when: the evidence, with repeats folded.

use super::event::Event;
use super::report::Report;

/// Rows of a card at most.
const MAX_ROWS: usize = 10;
/// Rows kept at the end of a timeline that is too long.
const LAST_ROWS: usize = 4;
/// Times written out of a row that repeats.
const MAX_TIMES: usize = 4;
/// A retransmit and what became of the packet are this close.
const SAME_PACKET_US: i64 = 2_000;

#[derive(Debug, PartialEq, Eq)]
struct Row {
    times_us: Vec<i64>,
    text: String,
}

/// Times and texts, oldest first.
pub(super) fn rows(report: &Report) -> Vec<(String, String)> {
    let mut rows: Vec<Row> = Vec::new();
    for (offset_us, text) in joined(report) {
        match rows.iter_mut().find(|row| row.text == text) {
            Some(row) => row.times_us.push(offset_us),
            None => rows.push(Row { times_us: vec![offset_us], text }),
        }
    }
    let mut shown: Vec<(String, String)> =
        rows.iter().map(|row| (times(&row.times_us), row.text.clone())).collect();
    if rows.len() > MAX_ROWS {
        let cut = MAX_ROWS - LAST_ROWS - 1..rows.len() - LAST_ROWS;
        let events: usize = rows[cut.clone()].iter().map(|row| row.times_us.len()).sum();
        shown.splice(cut, [("…".to_owned(), format!("{events} more events"))]);
    }
    shown
}

/// Events that say something new, each retransmit as one with what became of its packet.
fn joined(report: &Report) -> Vec<(i64, String)> {
    let events: Vec<&Event> =
        report.evidence.iter().filter(|event| !is_told_elsewhere(event, report)).collect();
    let mut joined: Vec<(i64, String)> = Vec::new();
    let mut taken = vec![false; events.len()];
    for (index, event) in events.iter().enumerate() {
        if taken[index] {
            continue;
        }
        let partner = (index + 1..events.len())
            .take_while(|other| events[*other].offset_us - event.offset_us <= SAME_PACKET_US)
            .filter(|other| !taken[*other])
            .find_map(|other| {
                fate(event, events[other]).or_else(|| fate(events[other], event)).map(|t| (other, t))
            });
        match partner {
            Some((other, text)) => {
                taken[other] = true;
                joined.push((event.offset_us, text));
            }
            None => joined.push((event.offset_us, event.text.clone())),
        }
    }
    joined
}

/// "SYN retransmitted, dropped", if `packet` is what `retransmit` sent.
fn fate(retransmit: &Event, packet: &Event) -> Option<String> {
    let expected = match retransmit.event.as_str() {
        "syn-retransmit" => "syn",
        "syn-ack-retransmit" => "syn-ack",
        "retransmit" => "segment",
        _ => return None,
    };
    if packet.detail_str("sender") != Some("local") {
        return None;
    }
    let what = packet.event.strip_prefix(expected)?;
    match what {
        "-dropped" => Some(format!("{}, dropped", retransmit.text)),
        "-on-wire" if packet.detail_str("direction") == Some("egress") => {
            let way = packet.text.split_once(' ').map_or("seen on the wire", |(_, way)| way);
            Some(format!("{}, {way}", retransmit.text))
        }
        _ => None,
    }
}

/// connect() and the last row tell these too.
fn is_told_elsewhere(event: &Event, report: &Report) -> bool {
    let ended = report.evidence.iter().any(|event| event.event == "ended");
    match event.event.as_str() {
        "state" => match event.detail_str("to") {
            Some("SYN_SENT") => true,
            Some("CLOSE") => ended,
            _ => false,
        },
        "error" => {
            let errno = event.detail_str("errno");
            ended && errno.is_some() && errno == report.errno.as_deref()
        }
        _ => false,
    }
}

fn times(times_us: &[i64]) -> String {
    match times_us {
        [one] => format!("{} s", seconds(*one, 3)),
        many => {
            let mut text: Vec<String> =
                many.iter().take(MAX_TIMES).map(|us| format!("{} s", seconds(*us, 2))).collect();
            if many.len() > MAX_TIMES
                && let Some(last) = many.last()
            {
                text.push(format!("… {} s ({} times)", seconds(*last, 2), many.len()));
            }
            text.join(", ")
        }
    }
}

/// Below a second always with milliseconds.
fn seconds(us: i64, digits: usize) -> String {
    let digits = if us.unsigned_abs() < 1_000_000 { 3 } else { digits };
    format!("{:+.digits$}", us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn times_read_well() {
        assert_eq!(times(&[0]), "+0.000 s");
        assert_eq!(times(&[5_000_123]), "+5.000 s");
        assert_eq!(times(&[1_021_000, 3_041_000]), "+1.02 s, +3.04 s");
        let many: Vec<i64> = (1..=7).map(|s| s * 1_000_000).collect();
        assert_eq!(times(&many), "+1.00 s, +2.00 s, +3.00 s, +4.00 s, … +7.00 s (7 times)");
    }

    #[test]
    fn long_timelines_are_cut_in_the_middle() {
        let mut report = testing::firewall_drop();
        let event = report.evidence[0].clone();
        report.evidence =
            (0..30).map(|n| Event { offset_us: n, text: format!("event {n}"), ..event.clone() }).collect();
        let rows = rows(&report);
        assert_eq!(rows.len(), MAX_ROWS);
        assert_eq!(rows[5], ("…".to_owned(), "21 more events".to_owned()));
        assert_eq!(rows[9].1, "event 29");
    }

    #[test]
    fn a_retransmit_that_was_dropped_is_one_thing_in_either_order() {
        let texts = |report: &Report| rows(report).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        let mut report = testing::firewall_drop();
        assert!(texts(&report).contains(&"SYN retransmitted, dropped".to_owned()));
        for event in &mut report.evidence {
            if event.event == "syn-retransmit" {
                event.offset_us -= 500;
            }
        }
        report.evidence.sort_by_key(|event| event.offset_us);
        assert!(texts(&report).contains(&"SYN retransmitted, dropped".to_owned()));
        assert_eq!(texts(&report).len(), 4);
    }
}
