//! A connection that ended, for those who ask for all: kind `connection`.

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::event::duration_us;
use super::report::{ConnectionPart, Head, ProcessPart};
use super::style::Look;
use crate::diagnoses::words::errno_name;
use crate::enrich::process::Process;
use crate::probes::TcpState;
use crate::track::{Connection, End};

/// What the kernel knew of it at the end; `None` where this kernel does not tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    #[serde(flatten)]
    pub head: Head,
    pub connection: ConnectionPart,
    pub process: Option<ProcessPart>,
    pub duration_us: u64,
    /// Acknowledged by the peer.
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u32>,
    /// Smoothed round-trip time.
    pub rtt_us: Option<u32>,
    pub errno: Option<String>,
    /// TCP states of its last transition.
    pub from: Option<TcpState>,
    pub to: Option<TcpState>,
    /// It was seen from its start.
    pub since: bool,
}

impl ConnectionReport {
    pub fn new(connection: &Connection, process: Option<&Process>, clock: &Clock) -> Self {
        let (from, to) = match connection.end {
            End::State { from, to } => (Some(from), Some(to)),
            End::CallFailed { .. } | End::SocketError => (None, None),
        };
        Self {
            head: Head::new("connection", clock.at(connection.end_ns)),
            connection: ConnectionPart::new(connection),
            process: ProcessPart::new(connection.owner.as_ref(), process),
            duration_us: u64::try_from(connection.duration().as_micros()).unwrap_or(u64::MAX),
            bytes_sent: connection.tcp.bytes_acked,
            bytes_received: connection.tcp.bytes_received,
            retransmits: connection.tcp.total_retrans,
            rtt_us: connection.tcp.srtt_us,
            errno: connection.errno.map(errno_name),
            from,
            to,
            since: connection.from_start,
        }
    }

    /// One line without its end: `12:01:02.123 curl[4213] → 10.1.2.3:8080  20 ms, 512 B sent, ...`.
    pub fn text(&self, look: &Look) -> String {
        let who = ProcessPart::label(self.process.as_ref());
        let way = match self.connection.is_inbound() {
            true => format!("at {} ←", self.connection.local),
            false => "→".to_owned(),
        };
        let peer = self.connection.end_text(self.connection.peer);
        let mut facts = vec![duration_us(self.duration_us)];
        facts.extend(self.bytes_sent.map(|count| format!("{} sent", bytes(count))));
        facts.extend(self.bytes_received.map(|count| format!("{} received", bytes(count))));
        facts.extend(
            self.retransmits.filter(|count| *count > 0).map(|count| format!("{count} retransmitted")),
        );
        facts.extend(self.rtt_us.map(|us| format!("rtt {}", duration_us(us.into()))));
        facts.extend(self.errno.clone());
        if !self.since {
            facts.push("start not seen".to_owned());
        }
        let time = self.head.time.strftime("%H:%M:%S%.3f");
        look.safe(&format!("{time} {who} {way} {peer}   {}", facts.join(", ")))
    }
}

/// Decimal prefixes: "14.2 kB".
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would round to 1000 takes the next unit.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn one_line() {
        let mut connection = testing::outbound().connection;
        connection.end = End::State { from: TcpState::FinWait2, to: TcpState::Close };
        connection.end_ns = connection.start_ns + 20_400_000;
        connection.tcp.bytes_acked = Some(512);
        connection.tcp.bytes_received = Some(14_233);
        connection.tcp.total_retrans = Some(1);
        connection.tcp.srtt_us = Some(1_240);
        let report = ConnectionReport::new(&connection, None, &testing::CLOCK);
        assert_eq!(
            report.text(&Look::default()),
            "22:13:21.020 curl[4213] → 10.0.2.2:8080   20 ms, 512 B sent, 14.2 kB received, 1 retransmitted, rtt 1 ms"
        );
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["kind"], "connection");
        assert_eq!(value["to"], "CLOSE");
        assert_eq!(serde_json::from_value::<ConnectionReport>(value).unwrap(), report);
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!([bytes(0), bytes(999), bytes(1000), bytes(999_960)], ["0 B", "999 B", "1.0 kB", "1.0 MB"]);
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
    }
}
