//! A diagnosis as both languages tell it: kind `diagnosis` of the output contract.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock::{Clock, rfc3339};
use super::event::{self, Event};
use super::held::HeldPart;
use crate::diagnoses::words::errno_name;
use crate::diagnoses::{Confidence, Coverage, Diagnosis, Evidence, Finding, FirewallFact, NextStep, Where};
use crate::enrich::droppers::BpfProgram;
use crate::enrich::listeners::Listener;
use crate::enrich::process::Process;
use crate::probes::{Basis, Call, Direction, DropRule, Owner, protocol};
use crate::track::{Connection, End, Hook, Side, What};

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

/// An address and a port; port 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip(), port: address.port() }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Both ends after NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    pub local: Endpoint,
    pub peer: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPart {
    /// `tcp`, `udp`, `icmp`, or the IP protocol number as text.
    pub protocol: String,
    /// `outbound`, `inbound` or `forwarded`.
    pub direction: String,
    pub local: Endpoint,
    pub peer: Endpoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated: Option<Translated>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Interface that packets to the peer leave through, where it was seen or the route tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub netns: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    pub cookie: Option<u64>,
    /// The system call, where it failed at once: `connect`, `bind`, `sendto`, `sendmsg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
}

impl ConnectionPart {
    pub fn new(connection: &Connection) -> Self {
        Self {
            protocol: match connection.protocol {
                protocol::TCP => "tcp".into(),
                protocol::UDP => "udp".into(),
                protocol::ICMP | protocol::ICMPV6 => "icmp".into(),
                other => other.to_string(),
            },
            direction: match connection.side {
                Side::Outbound => "outbound".into(),
                Side::Inbound => "inbound".into(),
            },
            local: connection.local.into(),
            peer: connection.peer.into(),
            translated: None,
            hostname: None,
            interface: None,
            netns: connection.netns,
            netns_name: None,
            cookie: connection.cookie,
            call: match connection.end {
                End::CallFailed { call } => Some(call),
                End::State { .. } | End::SocketError => None,
            },
        }
    }

    /// The IP protocol number (IANA).
    pub fn protocol_number(&self) -> u8 {
        match self.protocol.as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "icmp" if self.peer.address.is_ipv6() => protocol::ICMPV6,
            "icmp" => protocol::ICMP,
            other => other.parse().unwrap_or(0),
        }
    }

    pub(super) fn is_inbound(&self) -> bool {
        self.direction == "inbound"
    }

    /// A socket that was to be bound has no peer.
    pub(super) fn has_peer(&self) -> bool {
        self.call != Some(Call::Bind) && !(self.peer.address.is_unspecified() && self.peer.port == 0)
    }

    /// `10.1.2.3:8080`, `10.0.0.53:53/udp`; of ICMP without a port.
    pub(super) fn end_text(&self, end: Endpoint) -> String {
        match self.protocol.as_str() {
            "tcp" => end.to_string(),
            "icmp" => format!("{}/icmp", end.address),
            other => format!("{end}/{other}"),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessPart {
    /// Thread group id.
    pub pid: u32,
    pub comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    pub uid: u32,
    /// Path in the cgroup file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl ProcessPart {
    /// What the kernel side saw and, if that is the same process, what `/proc` adds.
    pub fn new(owner: Option<&Owner>, process: Option<&Process>) -> Option<Self> {
        let read = process.filter(|process| owner.is_none_or(|owner| owner.pid == process.pid));
        match (owner, read) {
            (_, Some(process)) => Some(Self {
                pid: process.pid,
                comm: process.comm.clone(),
                exe: process.exe.clone(),
                command_line: process.command_line.clone(),
                uid: owner.map_or(process.uid, |owner| owner.uid),
                cgroup: process.cgroup.clone(),
                unit: process.unit.clone(),
                container: process.container.clone(),
                pod: process.pod.clone(),
            }),
            (Some(owner), None) => {
                Some(Self { pid: owner.pid, comm: owner.comm.to_string(), uid: owner.uid, ..Self::default() })
            }
            (None, None) => None,
        }
    }

    /// `curl[4213]`
    pub(super) fn label(process: Option<&Self>) -> String {
        process.map_or_else(
            || "unknown process".to_owned(),
            |process| format!("{}[{}]", process.comm, process.pid),
        )
    }
}

/// The firewall's verdict; the rule's fields are filled in once the rule is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirewallPart {
    /// `nftables`, `iptables`, `bpf`.
    pub engine: Option<String>,
    pub hook: Option<Hook>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// No rule but the chain's policy decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<bool>,
    /// The kernel named the rule (else it was found by matching); `None` while no rule is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// The rule was not in the ruleset any more when that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<bool>,
    /// `counter` or `matching`: how it was found where it is not exact; `trace` where nftables' tracing named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// All rules that may have dropped it, where there are several; the first is the one above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<FirewallPart>,
}

impl From<&FirewallFact> for FirewallPart {
    fn from(fact: &FirewallFact) -> Self {
        let part = Self { engine: fact.engine.clone(), hook: fact.hook, ..Self::default() };
        let Some(rule) = &fact.rule else { return part };
        let one = |rule: &DropRule| Self { exact: None, basis: None, ..Self::default().with(rule) };
        let several = !rule.others.is_empty();
        let candidates = rule.candidates().filter(|_| several).map(one).collect();
        Self { candidates, ..part.with(rule) }
    }
}

impl FirewallPart {
    fn with(self, rule: &DropRule) -> Self {
        Self {
            family: Some(rule.family.clone()),
            table: Some(rule.table.clone()),
            chain: Some(rule.chain.clone()),
            handle: rule.handle,
            rule_number: rule.number,
            rule: rule.text.clone(),
            comment: rule.comment.clone(),
            policy: Some(rule.is_policy()),
            exact: Some(rule.basis.is_exact()),
            removed: rule.gone.then_some(true),
            basis: match rule.basis {
                Basis::Kernel => None,
                Basis::Trace => Some("trace".into()),
                Basis::Counter => Some("counter".into()),
                Basis::Matching => Some("matching".into()),
            },
            ..self
        }
    }
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
}

impl CoveragePart {
    fn new(coverage: &Coverage, connection: &Connection) -> Self {
        Self {
            lost_events: coverage.lost_events,
            missing: coverage.missing.clone(),
            since: connection.from_start,
            lost_steps: connection.lost_steps,
            wire: coverage.wire,
            wire_since_suspect: coverage.wire_since_suspect,
            shed: coverage.shed.clone(),
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
        let events = event::events(connection, &evidence.timeline, comm);
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
            coverage: CoveragePart::new(&evidence.coverage, connection),
        };
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

    #[test]
    fn what_proc_says_of_another_process_is_not_used() {
        let owner = testing::owner("curl", 4213);
        let other = Process { pid: 1, comm: "init".into(), ..Process::default() };
        assert_eq!(ProcessPart::new(Some(&owner), Some(&other)).unwrap().comm, "curl");
        let same =
            Process { pid: 4213, comm: "curl".into(), unit: Some("a.service".into()), ..Process::default() };
        assert_eq!(ProcessPart::new(Some(&owner), Some(&same)).unwrap().unit.as_deref(), Some("a.service"));
        assert!(ProcessPart::new(None, None).is_none());
    }
}
