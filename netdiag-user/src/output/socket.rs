//! An open socket and who holds it: kind `socket`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::clock::rfc3339_option;
use super::report::{Endpoint, Head, ProcessPart};
use super::time_wait;
use crate::diagnoses::flood::Rates;
use crate::enrich::sockets::{Protocol, State};
use crate::enrich::{behaviour, process};
use crate::whose::pressure::Pressure;
use crate::whose::remarks::{self, Kind, Remark};
use crate::whose::time_wait::Closer;
use crate::whose::{Held, Side};

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HolderPart {
    #[serde(flatten)]
    pub process: ProcessPart,
    /// When it was started; the socket may be younger, and older where it was inherited.
    #[serde(with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
}

/// Who closed a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloserPart {
    pub process: ProcessPart,
    pub ended: bool,
    pub kernel_thread: bool,
}

/// What is wrong with a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemarkPart {
    pub remark: Kind,
    /// For `netdiag explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    pub text: String,
}

impl From<Remark> for RemarkPart {
    fn from(remark: Remark) -> Self {
        Self { remark: remark.kind, code: remark.kind.code(), text: remark.text }
    }
}

/// What comes to the listeners of the network namespace, all a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatesPart {
    pub dropped: f64,
    pub cookies_sent: f64,
    pub cookies_valid: f64,
    pub cookies_failed: f64,
    pub finished: f64,
}

impl From<Rates> for RatesPart {
    fn from(rates: Rates) -> Self {
        Self {
            dropped: rates.dropped,
            cookies_sent: rates.cookies,
            cookies_valid: rates.valid,
            cookies_failed: rates.failed,
            finished: rates.finished,
        }
    }
}

/// See docs/output.md.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SocketReport {
    #[serde(flatten)]
    pub head: Head,
    pub protocol: Protocol,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    pub local: Endpoint,
    /// Of a socket on all addresses of IPv6: whether it takes no IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Endpoint>,
    pub netns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    pub processes: Vec<HolderPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<CloserPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queue: Option<u32>,
    /// In its whole life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
    /// In a row, now.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeouts: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_at_least_us: Option<u64>,
    /// Of a listener whose queues are full: handshakes that are not finished, and from how many addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open_sources: Option<u32>,
    /// Where SYNs come in that the queue does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_rates: Option<RatesPart>,
    /// Connections of this listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    pub uid: u32,
    /// Index of the interface that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    pub remarks: Vec<RemarkPart>,
    /// No process can hold it.
    #[serde(skip)]
    unowned: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u8) -> bool {
    *count == 0
}

impl SocketReport {
    pub fn new(held: &Held, time: Timestamp) -> Self {
        let socket = &held.socket;
        let listens = socket.state == State::Listen;
        let info = socket.tcp.as_ref();
        let part = |process: &std::rc::Rc<process::Process>| ProcessPart::new(None, Some(process.as_ref()));
        Self {
            head: Head::new("socket", time),
            protocol: socket.protocol,
            state: match socket.state {
                State::NewSynRecv => State::SynRecv,
                other => other,
            },
            direction: match held.side {
                Side::Outbound => Some("outbound"),
                Side::Inbound => Some("inbound"),
                Side::Unconnected => None,
            },
            local: socket.local.into(),
            v6only: socket.v6only.filter(|_| socket.local.is_ipv6() && socket.local.ip().is_unspecified()),
            peer: (socket.peer.port() != 0).then(|| socket.peer.into()),
            netns: held.netns,
            netns_name: held.netns_name.as_deref().map(str::to_owned),
            processes: held
                .holders
                .iter()
                .filter_map(part)
                .map(|process| HolderPart { process, started: None })
                .collect(),
            closed_by: None,
            accept_queue: socket.accept_queue().map(|(waiting, _)| waiting),
            backlog: socket.accept_queue().map(|(_, backlog)| backlog),
            receive_queue: (!listens).then_some(socket.rqueue),
            send_queue: (!listens).then_some(socket.wqueue),
            retransmits: info.map(|info| info.total_retrans),
            timeouts: socket.retransmits,
            rtt_us: info.map(|info| info.rtt_us).filter(|us| *us > 0),
            bytes_sent: info.and_then(|info| info.bytes_acked),
            bytes_received: info.and_then(|info| info.bytes_received),
            age_at_least_us: remarks::age_at_least(held).map(micros),
            half_open: None,
            half_open_sources: None,
            syn_rates: None,
            connections: None,
            uid: socket.uid,
            interface: (socket.interface != 0).then_some(socket.interface),
            remarks: remarks::of(held).into_iter().map(RemarkPart::from).collect(),
            unowned: held.is_unowned(),
        }
    }

    /// With the times at which its processes were started.
    #[must_use]
    pub fn with_start(mut self) -> Self {
        for holder in &mut self.processes {
            holder.started = process::started(holder.process.pid);
        }
        self
    }

    /// With who closed it.
    #[must_use]
    pub fn closed_by(mut self, closer: Option<&Closer>) -> Self {
        self.closed_by = closer.map(|closer| CloserPart {
            process: time_wait::process(closer),
            ended: closer.has_ended(),
            kernel_thread: closer.by_kernel,
        });
        self
    }

    /// With what comes in at this listener, and what its process does about it.
    #[must_use]
    pub fn with_pressure(mut self, held: &Held, pressure: Option<&Pressure>) -> Self {
        let Some(pressure) = pressure else { return self };
        self.syn_rates = pressure.rates.filter(|rates| rates.excess() > 0.0).map(RatesPart::from);
        self.half_open = Some(pressure.half_open);
        self.half_open_sources = Some(pressure.sources);
        for remark in &mut self.remarks {
            if remark.remark == Kind::AcceptQueueFull && pressure.overflows > 0 {
                let (all, rate) = (pressure.overflows, pressure.overflows_per_second);
                remark.text +=
                    &format!("; {all} were in this network namespace until now, {rate:.0} a second");
            }
            if matches!(remark.remark, Kind::AcceptQueueFull | Kind::AcceptQueueFilling)
                && let Some(holder) = self.processes.first()
                && let Some(does) = behaviour::of(holder.process.pid)
            {
                remark.text += &format!(". {} {does}", ProcessPart::label(Some(&holder.process)));
            }
        }
        self.remarks.extend(pressure.remark(held).map(RemarkPart::from));
        self
    }

    /// "nginx[77] +3"
    pub fn who(&self) -> String {
        if let Some(CloserPart { process, .. }) = &self.closed_by {
            return format!("(closed by {})", ProcessPart::label(Some(process)));
        }
        match self.processes.as_slice() {
            [] if self.state == State::TimeWait => "(closed)".to_owned(),
            [] if self.unowned => "-".to_owned(),
            [] => "(not visible)".to_owned(),
            [one] => ProcessPart::label(Some(&one.process)),
            [first, others @ ..] => {
                format!("{} +{}", ProcessPart::label(Some(&first.process)), others.len())
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::enrich::process::Process;
    use crate::enrich::sockets::{Family, SocketInfo};

    /// One whose accept queue is full.
    pub(in crate::output) fn listener() -> SocketReport {
        let socket = SocketInfo {
            local: "0.0.0.0:443".parse().unwrap(),
            rqueue: 5,
            wqueue: 4,
            inode: 9,
            ..SocketInfo::new(Family::Inet, Protocol::Tcp, State::Listen)
        };
        let nginx = |pid| {
            let unit = Some("nginx.service".to_owned());
            Rc::new(Process { pid, comm: "nginx".into(), unit, ..Process::default() })
        };
        let held = Held {
            netns: 7,
            netns_name: Some("blue".into()),
            socket,
            side: Side::Unconnected,
            holders: vec![nginx(77), nginx(78)],
        };
        SocketReport::new(&held, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_listener_as_json() {
        let json = serde_json::to_value(listener()).unwrap();
        assert_eq!(json["kind"], "socket");
        assert_eq!((&json["state"], &json["protocol"]), (&"LISTEN".into(), &"tcp".into()));
        assert_eq!(json["local"]["port"], 443);
        assert_eq!((&json["accept_queue"], &json["backlog"]), (&5.into(), &4.into()));
        assert_eq!(json["processes"][1]["pid"], 78);
        assert_eq!(json["remarks"][0]["remark"], "accept-queue-full");
        assert!(json.get("peer").is_none() && json.get("receive_queue").is_none());
    }
}
