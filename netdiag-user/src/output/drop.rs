//! Drops as both languages tell them: kind `drop` of the output contract.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock::{Clock, rfc3339};
use super::report::{Endpoint, FirewallPart, Head, ProcessPart};
use crate::diagnoses::drop::finding;
use crate::diagnoses::{NextStep, Where};
use crate::drops::{By, Group, ReasonTotal, Way, Whose};
use crate::enrich::process;
use crate::probes::protocol;

/// One packet of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplePart {
    /// `tcp`, `udp`, `icmp`, or the IP protocol number as text.
    pub protocol: String,
    /// `SYN`, `segment`, `UDP datagram`...
    pub packet: String,
    pub source: Endpoint,
    pub destination: Endpoint,
    /// `outbound`, `inbound`, `forwarded`; `incoming` where it is not known whether it was for this host.
    pub direction: String,
    /// The interface that it was at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub netns: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
}

/// Kind `drop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DropReport {
    #[serde(flatten)]
    pub head: Head,
    /// In the catalogue; `None` of what is normal.
    pub code: Option<String>,
    /// No loss, or one that TCP expects.
    pub normal: bool,
    /// What drops are put together by.
    pub by: String,
    pub summary: String,
    /// The kernel's name, without its prefix.
    pub reason: String,
    pub meaning: String,
    /// Kernel function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Since it was last told; those of all objects of a group add up.
    pub count: u64,
    /// Since the start.
    pub total: u64,
    /// Drops a second, over the time that `count` is for.
    pub rate: f64,
    /// False: nothing but the reason is known of them.
    pub sampled: bool,
    /// Those of `count` that are no IP packets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_ip: u64,
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Different protocols, addresses and destination ports; of more than 1,024 that many.
    pub flows: u64,
    /// Different rules of the firewall; `firewall` is that of `sample`.
    #[serde(default)]
    pub rules: u64,
    pub sample: Option<SamplePart>,
    pub process: Option<ProcessPart>,
    /// Whether there was time to look for the process.
    pub process_looked_up: bool,
    #[serde(rename = "where")]
    pub place: Option<Where>,
    pub firewall: Option<FirewallPart>,
    #[serde(default)]
    pub explanation: String,
    #[serde(default)]
    pub next_steps: Vec<NextStep>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod optional_time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::rfc3339;

    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => rfc3339::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        #[derive(Deserialize)]
        struct Time(#[serde(with = "rfc3339")] Timestamp);
        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(time)| time))
    }
}

impl DropReport {
    /// What was not told of a group yet. `seconds`: how long that took.
    pub fn of_group(group: &Group, by: By, seconds: f64, clock: &Clock) -> Self {
        let drop = &group.sample;
        let count = group.count.saturating_sub(group.told);
        let found = finding(drop);
        let tuple = drop.packet.tuple;
        let sample = SamplePart {
            protocol: protocol_name(tuple.protocol),
            packet: drop.packet.name(),
            source: tuple.source.into(),
            destination: tuple.destination.into(),
            direction: drop.way.as_str().to_owned(),
            interface: (!drop.packet.interface.is_empty()).then(|| drop.packet.interface.to_string()),
            netns: drop.packet.netns,
            netns_name: drop.netns_name.clone(),
        };
        let owner = drop.whose.owner();
        let details = owner.and_then(process::of_owner);
        let time = clock.at(group.last_ns);
        let mut report = Self {
            head: Head::new("drop", time),
            code: drop.class.code().map(str::to_owned),
            normal: drop.class.is_normal(),
            by: by.as_str().to_owned(),
            summary: String::new(),
            reason: drop.reason_name.clone(),
            meaning: drop.meaning.to_owned(),
            symbol: drop.symbol.clone(),
            count,
            total: group.count,
            rate: rate(count, seconds),
            sampled: true,
            not_ip: 0,
            first: Some(clock.at(group.first_ns)),
            last: Some(time),
            flows: group.flows() as u64,
            rules: group.rules() as u64,
            sample: Some(sample),
            process: ProcessPart::new(owner, details.as_ref()),
            process_looked_up: drop.whose != Whose::Unknown || drop.way == Way::Forwarded,
            place: found.as_ref().map(|(_, finding)| finding.place.clone()),
            firewall: found
                .as_ref()
                .and_then(|(_, finding)| finding.firewall.as_ref())
                .map(FirewallPart::from),
            explanation: found.as_ref().map(|(_, finding)| finding.explanation.clone()).unwrap_or_default(),
            next_steps: found.as_ref().map(|(_, finding)| finding.next_steps.clone()).unwrap_or_default(),
        };
        report.summary = match found {
            Some((_, finding)) => format!("{} × {}: {}", count, finding.headline, finding.cause),
            None => format!("{count} × {}: {}", report.reason, report.meaning),
        };
        report
    }

    /// Drops of which the count by reason tells, and nothing else does. `None` if there are none.
    pub fn of_rest(total: &ReasonTotal, by: By, seconds: f64, time: Timestamp) -> Option<Self> {
        let count = total.not_sampled() + total.not_ip;
        if count == 0 {
            return None;
        }
        let normal = total.class.is_normal();
        let which = if normal { "" } else { "not sampled " };
        Some(Self {
            head: Head::new("drop", time),
            code: total.class.code().map(str::to_owned),
            normal,
            by: by.as_str().to_owned(),
            summary: format!("{count} × {} {which}({})", total.name, total.meaning),
            reason: total.name.clone(),
            meaning: total.meaning.to_owned(),
            symbol: None,
            count,
            total: count,
            rate: rate(count, seconds),
            sampled: false,
            not_ip: total.not_ip,
            first: None,
            last: None,
            flows: 0,
            rules: 0,
            sample: None,
            process: None,
            process_looked_up: false,
            place: None,
            firewall: None,
            explanation: String::new(),
            next_steps: Vec::new(),
        })
    }
}

/// One decimal is all that a rate is good for.
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 { 0.0 } else { (count as f64 / seconds * 10.0).round() / 10.0 }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP | protocol::ICMPV6 => "icmp".into(),
        other => other.to_string(),
    }
}
