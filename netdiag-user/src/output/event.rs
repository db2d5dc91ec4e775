//! What happened, for programs and in words: one function gives both.

mod what;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Clock;
use crate::diagnoses::words::{duration, errno_name};
use crate::track::{Connection, End, Moment, Side, What};

/// An entry of `evidence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds from connect(), or from the first sign of trouble.
    pub offset_us: i64,
    /// Kind of event; names are only added.
    pub event: String,
    /// The same in words.
    pub text: String,
    /// Further fields of this kind; what is not known is left out.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

impl Event {
    /// `detail` must be an object; its nulls are left out.
    fn new(event: impl Into<String>, text: impl Into<String>, detail: Value) -> Self {
        let mut detail = match detail {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        detail.retain(|_, value| !value.is_null());
        Self { offset_us: 0, event: event.into(), text: text.into(), detail }
    }

    fn at(mut self, connection: &Connection, time_ns: u64) -> Self {
        self.offset_us = (time_ns as i64).wrapping_sub(connection.start_ns as i64) / 1000;
        self
    }

    pub(super) fn detail_str(&self, name: &str) -> Option<&str> {
        self.detail.get(name).and_then(Value::as_str)
    }
}

/// The timeline with its beginning and end.
pub(super) fn events(
    connection: &Connection,
    timeline: &[Moment],
    comm: Option<&str>,
    clock: &Clock,
) -> Vec<Event> {
    let begin = (connection.from_start && connection.side == Side::Outbound && is_connected(connection))
        .then(|| Event::new("connect", "connect()", Value::Null));
    let middle =
        timeline.iter().map(|moment| what::event(&moment.what, connection).at(connection, moment.time_ns));
    let end = end(connection, timeline, comm).map(|event| event.at(connection, connection.end_ns));
    let sleeps = clock.sleeps(connection.start_ns, connection.end_ns);
    let sleeps = sleeps.map(|(time_ns, length)| suspended(length).at(connection, time_ns));
    let mut events: Vec<Event> = begin.into_iter().chain(middle).chain(sleeps).chain(end).collect();
    events.sort_by_key(|event| event.offset_us);
    events
}

fn suspended(length: Duration) -> Event {
    let text = format!("this machine was suspended for {}, which no time here counts", duration(length));
    Event::new("suspended", text, json!({ "length_us": u64::try_from(length.as_micros()).ok() }))
}

/// Whether there was a connect() that did something.
fn is_connected(connection: &Connection) -> bool {
    matches!(connection.end, End::State { .. })
}

fn end(connection: &Connection, timeline: &[Moment], comm: Option<&str>) -> Option<Event> {
    if connection.is_of_listener() {
        return None;
    }
    let who = comm.unwrap_or("the application");
    let (from, to) = match connection.end {
        End::CallFailed { call } => {
            let errno = connection.errno?;
            let told = timeline.iter().any(|moment| matches!(moment.what, What::CallFailed { .. }));
            return (!told).then(|| what::event(&What::CallFailed { call, errno }, connection));
        }
        End::State { from, to } => (Some(from), Some(to)),
        End::SocketError => (None, None),
    };
    let closer = connection.closer.as_ref();
    let text = match (connection.errno, closer) {
        (Some(errno), _) => format!("{who} got {}", errno_name(errno)),
        (None, Some(closer)) if closer.exiting => {
            format!("{} exited, and the kernel closed the socket", closer.comm)
        }
        (None, Some(closer)) => format!("{} closed the socket", closer.comm),
        (None, None) => "the socket was closed".to_owned(),
    };
    let silent = connection.errno.is_none() && connection.died_connecting();
    let text = if silent { format!("{text}: it never got an error from the kernel") } else { text };
    let detail = json!({
        "errno": connection.errno.map(errno_name),
        "from": from,
        "to": to,
        "closer": closer,
    });
    Some(Event::new("ended", text, detail))
}

/// "5.0 s" of microseconds.
pub(super) fn duration_us(us: u64) -> String {
    duration(Duration::from_micros(us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn the_end_is_told_once() {
        let mut evidence = testing::outbound();
        evidence.connection.end = End::CallFailed { call: crate::probes::Call::Connect };
        evidence.connection.errno = Some(libc::ENETUNREACH);
        let names = |timeline: &[Moment]| -> Vec<String> {
            events(&evidence.connection, timeline, Some("curl"), &Clock::new(0))
                .into_iter()
                .map(|event| event.text)
                .collect()
        };
        assert_eq!(names(&[]), ["connect() failed with ENETUNREACH"]);
        let what = What::CallFailed { call: crate::probes::Call::Connect, errno: libc::ENETUNREACH };
        assert_eq!(names(&[Moment { time_ns: 5, what }]), ["connect() failed with ENETUNREACH"]);
    }

    #[test]
    fn a_sleep_is_told() {
        let mut connection = testing::outbound().connection;
        (connection.start_ns, connection.end_ns) = (1_000_000_000, 6_000_000_000);
        let told = |until_ns| -> Vec<(i64, String)> {
            let clock = Clock::after_a_sleep(until_ns, Duration::from_mins(90));
            let events = events(&connection, &[], Some("curl"), &clock).into_iter();
            events
                .filter(|event| event.event == "suspended")
                .map(|event| (event.offset_us, event.text))
                .collect()
        };
        let text = "this machine was suspended for 90 min 0 s, which no time here counts".to_owned();
        assert_eq!(told(3_000_000_000), [(2_000_000, text)]);
        assert_eq!((told(500_000_000), told(6_000_000_000)), (vec![], vec![]));
    }
}
