//! A diagnosis as both languages tell it: kind `diagnosis` of the output contract.

mod connection;
mod firewall;
mod process;

use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock::{Clock, rfc3339};
use super::event::{self, Event};
use super::held::HeldPart;
use crate::diagnoses::words::errno_name;
use crate::diagnoses::{Confidence, Diagnosis, Evidence, Finding, NextStep, Where};
use crate::enrich::droppers::BpfProgram;
use crate::enrich::listeners::Listener;
use crate::probes::Direction;
use crate::track::What;
pub use connection::{ConnectionPart, Endpoint, Translated};
pub use firewall::FirewallPart;
pub use process::ProcessPart;

/// What every object begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub schema: String,
    pub kind: String,
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    pub host: String,
}

impl Head {
    pub fn new(kind: &str, time: Timestamp) -> Self {
        Self { schema: "netdiag/1".into(), kind: kind.into(), time, host: host().to_owned() }
    }
}

/// Name of this host; empty if it has none.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    })
}

/// What could not be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoveragePart {
    pub lost_events: u64,
    pub missing: Vec<String>,
    /// The connection was seen from its start.
    pub since: bool,
    /// Steps of this connection beyond the bound of its timeline.
    pub lost_steps: u32,
    /// Packets on the wire were watched from the start.
    pub wire: bool,
    /// Packets on the wire were watched from the first SYN retransmit on.
    pub wire_since_suspect: bool,
    /// What the agent did without to keep within its budget: `wire`, `samples`, `owners`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shed: Vec<String>,
    /// What was not looked up, as so many connections failed at once: `listeners`, `route`, `links`, `settings`, `holders`, `nat`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_looked_up: Vec<String>,
}

impl CoveragePart {
    fn new(evidence: &Evidence) -> Self {
        let Evidence { coverage, connection, facts, .. } = evidence;
        Self {
            lost_events: coverage.lost_events,
            missing: coverage.missing.clone(),
            since: connection.from_start,
            lost_steps: connection.lost_steps,
            wire: coverage.wire,
            wire_since_suspect: coverage.wire_since_suspect,
            shed: coverage.shed.clone(),
            not_looked_up: facts.not_looked_up.clone(),
        }
    }
}

/// A problem of one connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub head: Head,
    pub code: String,
    pub symptom: String,
    /// Name of what the application got; `None` where it got none.
    pub errno: Option<String>,
    pub confidence: Confidence,
    pub summary: String,
    /// What happened, to follow "who → whom".
    pub headline: String,
    /// Why, in a clause.
    pub cause: String,
    pub explanation: String,
    pub next_steps: Vec<NextStep>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    pub connection: ConnectionPart,
    pub process: Option<ProcessPart>,
    #[serde(rename = "where")]
    pub place: Where,
    pub firewall: Option<FirewallPart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// Who holds the ports or the address that the call could not have, most sockets first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HeldPart>,
    /// BPF programs of which one dropped the packet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<BpfProgram>,
    /// From connect() (or the first sign of trouble) to the end.
    pub duration_us: u64,
    pub evidence: Vec<Event>,
    /// How often this is since it was last told; the counts of all objects of a flow and cause add up.
    pub count: u64,
    #[serde(with = "rfc3339")]
    pub first: Timestamp,
    #[serde(with = "rfc3339")]
    pub last: Timestamp,
    pub coverage: CoveragePart,
}

impl Report {
    pub fn new(evidence: &Evidence, diagnosis: &Diagnosis, finding: &Finding, clock: &Clock) -> Self {
        let connection = &evidence.connection;
        let time = clock.at(connection.end_ns);
        let process = ProcessPart::new(connection.owner.as_ref(), evidence.facts.process.as_ref());
        let comm = process.as_ref().map(|process| process.comm.as_str());
        let events = event::events(connection, &evidence.timeline, comm, clock);
        let mut report = Self {
            head: Head::new("diagnosis", time),
            code: diagnosis.code.to_owned(),
            symptom: diagnosis.symptom().to_owned(),
            errno: connection.errno.map(errno_name),
            confidence: finding.confidence,
            summary: String::new(),
            headline: finding.headline.clone(),
            cause: finding.cause.clone(),
            explanation: finding.explanation.clone(),
            next_steps: finding.next_steps.clone(),
            alternatives: finding.alternatives.iter().map(|code| (*code).to_owned()).collect(),
            connection: ConnectionPart {
                hostname: evidence.facts.hostname.clone(),
                interface: interface(evidence),
                netns_name: evidence.facts.netns.as_ref().and_then(|netns| netns.name.clone()),
                ..ConnectionPart::new(connection)
            },
            process,
            place: finding.place.clone(),
            firewall: finding.firewall.as_ref().map(FirewallPart::from),
            listener: finding.listener.clone(),
            holders: match diagnosis.symptom() {
                "local" => evidence.facts.holders.iter().flatten().map(HeldPart::from).collect(),
                _ => Vec::new(),
            },
            programs: finding.programs.clone(),
            duration_us: u64::try_from(connection.duration().as_micros()).unwrap_or(u64::MAX),
            evidence: events,
            count: 1,
            first: time,
            last: time,
            coverage: CoveragePart::new(evidence),
        };
        if let Some(translated) = &report.connection.translated {
            let (asked, peer) = (report.connection.peer, translated.peer);
            report.explanation += &format!(" NAT on this machine makes {peer} of {asked}.");
        }
        report.summary = format!("{} {}: {}", report.subject(), report.headline, report.cause);
        report
    }

    /// Who and to whom: `curl[4213] → 10.1.2.3:8080`, `nginx[99] at 10.1.2.3:443 ← 10.0.9.9:51234`,
    /// `nginx[99] on 0.0.0.0:80`.
    pub fn subject(&self) -> String {
        self.subject_of(&ProcessPart::label(self.process.as_ref()))
    }

    /// The same of another name for the process.
    pub(super) fn subject_of(&self, who: &str) -> String {
        let connection = &self.connection;
        if !connection.has_peer() {
            return format!("{who} on {}", connection.end_text(connection.local));
        }
        let peer = connection.end_text(connection.peer);
        let name = connection.hostname.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        if connection.is_inbound() {
            return format!("{who} at {} ← {peer}{name}", connection.local);
        }
        format!("{who} → {peer}{name}")
    }
}

/// Where packets of the local end were seen to leave, or else what the route says.
fn interface(evidence: &Evidence) -> Option<String> {
    let own = evidence.connection.netns;
    let seen = evidence.find(|what| match what {
        What::Wire { packet, outgoing: true, place }
            if packet.direction == Direction::Egress && [0, own].contains(&place.netns) =>
        {
            place.interface.as_deref().or(Some(&packet.interface)).filter(|name| !name.is_empty())
        }
        _ => None,
    });
    let seen = seen.map(|(_, name)| name.to_owned()).next();
    seen.or_else(|| route_interface(evidence))
}

fn route_interface(evidence: &Evidence) -> Option<String> {
    let route = evidence.facts.route.as_ref()?.route()?;
    let links = evidence.facts.links.as_ref()?;
    links.iter().find(|link| Some(link.ifindex) == route.oif).map(|link| link.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn json_can_be_read_back() {
        let report = testing::firewall_drop();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
