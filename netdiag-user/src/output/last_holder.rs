//! Who held a port before: kind `last-holder`.

use jiff::Timestamp;
use serde::Serialize;

use super::clock::{rfc3339, rfc3339_option};
use super::past::when;
use super::report::{Endpoint, Head, ProcessPart};
use super::style::{Look, Tone};
use crate::enrich::sockets::Protocol;
use crate::whose::last_holders::LastHolder;

/// See docs/output.md.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastHolderReport {
    #[serde(flatten)]
    pub head: Head,
    pub protocol: Protocol,
    pub local: Endpoint,
    pub netns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    pub process: Option<ProcessPart>,
    #[serde(with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(with = "rfc3339")]
    pub until: Timestamp,
    /// The kernel told the end; else it is when it was last seen.
    pub exact: bool,
}

impl LastHolderReport {
    pub fn new(holder: &LastHolder, netns_name: Option<String>, time: Timestamp) -> Self {
        let at = |us| Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            head: Head::new("last-holder", time),
            protocol: holder.protocol,
            local: holder.local.into(),
            netns: holder.netns,
            netns_name,
            process: ProcessPart::new(None, holder.process.as_ref()),
            since: holder.since_us.map(at),
            until: at(holder.until_us),
            exact: holder.exact,
        }
    }

    /// A line, with its end.
    pub fn text(&self, look: &Look) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let who = ProcessPart::label(self.process.as_ref());
        let until = when(self.until, self.head.time);
        let until = if self.exact { format!("until {until}") } else { format!("last seen {until}") };
        let since =
            self.since.map(|since| format!("from {} ", when(since, self.head.time))).unwrap_or_default();
        let netns = self.netns_name.as_ref().map(|name| format!("   netns {name}")).unwrap_or_default();
        let who = look.paint(Tone::Strong, &look.safe(&who));
        format!("{protocol} {}   held before by {who}   {since}{until}{}\n", self.local, look.safe(&netns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::process::Process;

    #[test]
    fn text() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let us = |text: &str| at(text).as_microsecond();
        let process = Process { pid: 77, comm: "nginx".into(), ..Process::default() };
        let holder = LastHolder {
            netns: 7,
            protocol: Protocol::Tcp,
            local: "0.0.0.0:443".parse().unwrap(),
            process: Some(process),
            since_us: Some(us("2026-11-26T03:01:58Z")),
            until_us: us("2026-11-26T03:05:00Z"),
            exact: true,
        };
        let now = at("2026-11-26T04:00:00Z");
        let report = LastHolderReport::new(&holder, Some("blue".into()), now);
        assert_eq!(
            report.text(&Look::default()),
            "tcp 0.0.0.0:443   held before by nginx[77]   from 03:01:58 UTC until 03:05:00 UTC   netns blue\n"
        );
        let seen = LastHolder { since_us: None, exact: false, ..holder };
        assert_eq!(
            LastHolderReport::new(&seen, None, now).text(&Look::default()),
            "tcp 0.0.0.0:443   held before by nginx[77]   last seen 03:05:00 UTC\n"
        );
    }
}
