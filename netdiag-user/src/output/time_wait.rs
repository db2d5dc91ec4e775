//! Sockets in TIME_WAIT: kinds `owner` and `time-wait`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::clock::rfc3339;
use super::owner::{Destination, destinations};
use super::report::{Endpoint, Head, ProcessPart};
use crate::whose::time_wait::{By, Closer, Key, Level, PortUse, Row, Verdict};

/// Destinations that are told.
const MAX_PORTS: usize = 64;

/// What is told at one moment.
#[derive(Debug)]
pub struct Told<'a> {
    pub time: Timestamp,
    pub by: By,
    pub rows: &'a [Row],
    pub ports: &'a [PortUse],
    pub verdict: &'a Verdict,
    /// Closed while netdiag watched, and yet not known by whom.
    pub missed: u64,
    pub incomplete: bool,
    /// How long closes have been watched.
    pub watched: Duration,
    /// Since when that is.
    pub since: Timestamp,
    /// It is an agent that watches.
    pub from_agent: bool,
}

impl Told<'_> {
    pub(super) fn count(&self) -> u64 {
        self.rows.iter().map(|row| row.count).sum()
    }

    pub(super) fn exact(&self) -> u64 {
        self.rows.iter().map(|row| row.exact).sum()
    }

    pub(super) fn rate(&self) -> f64 {
        self.rows.iter().map(|row| row.rate).sum()
    }
}

#[derive(Debug, Serialize)]
struct OwnerReport {
    #[serde(flatten)]
    head: Head,
    state: &'static str,
    process: Option<ProcessPart>,
    /// How many processes of that name; the one named is one of them.
    processes: usize,
    ended: bool,
    kernel_thread: bool,
    count: u64,
    exact_count: u64,
    rate: f64,
    share: f64,
    destinations: Vec<Destination>,
    netns: Option<u64>,
    netns_name: Option<String>,
    exact: bool,
    candidates: Vec<ProcessPart>,
}

#[derive(Debug, Serialize)]
struct GroupReport {
    #[serde(flatten)]
    head: Head,
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns_name: Option<String>,
    /// Of rows by container: the owner is known.
    known: bool,
    count: u64,
    exact_count: u64,
    rate: f64,
    share: f64,
}

#[derive(Debug, Serialize)]
struct SummaryReport {
    #[serde(flatten)]
    head: Head,
    by: &'static str,
    count: u64,
    exact_count: u64,
    rate: f64,
    missed: u64,
    incomplete: bool,
    watched_us: u64,
    #[serde(with = "rfc3339")]
    owners_since: Timestamp,
    from_agent: bool,
    level: Level,
    explanation: String,
    next_steps: Vec<Step>,
    avoid: Vec<&'static str>,
    ports: Vec<PortsReport>,
}

#[derive(Debug, Serialize)]
struct Step {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

#[derive(Debug, Serialize)]
struct PortsReport {
    netns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns_name: Option<String>,
    source: std::net::IpAddr,
    destination: Endpoint,
    size: u64,
    used: u64,
    left: u64,
    time_wait: u64,
    rate: f64,
}

pub(super) fn process(closer: &Closer) -> ProcessPart {
    let read = closer.process.as_ref().filter(|process| process.pid == closer.pid);
    ProcessPart::new(None, read).unwrap_or_else(|| ProcessPart {
        pid: closer.pid,
        comm: closer.comm.to_string(),
        uid: closer.uid,
        ..ProcessPart::default()
    })
}

pub(super) fn share(row: &Row, told: &Told<'_>) -> f64 {
    row.count as f64 / told.count().max(1) as f64
}

/// Objects, one a line: the rows, then the whole.
///
/// # Errors
/// None that is expected: the structs have no maps with odd keys.
pub fn time_wait_json(told: &Told<'_>) -> serde_json::Result<String> {
    let mut text = String::new();
    for row in told.rows {
        let line = match told.by {
            By::Process => serde_json::to_string(&owner(row, told))?,
            by => serde_json::to_string(&group(row, by, told))?,
        };
        text += &line;
        text.push('\n');
    }
    text += &serde_json::to_string(&summary(told))?;
    text.push('\n');
    Ok(text)
}

fn netns(row: &Row) -> (Option<u64>, Option<String>) {
    let inode = row.netns.as_ref().map(|(inode, _)| *inode);
    (inode, row.netns.as_ref().and_then(|(_, name)| name.as_deref().map(str::to_owned)))
}

fn owner(row: &Row, told: &Told<'_>) -> OwnerReport {
    let (netns, netns_name) = netns(row);
    OwnerReport {
        head: Head::new("owner", told.time),
        state: "time-wait",
        process: row.closer.as_deref().map(process),
        processes: row.processes,
        ended: matches!(row.key, Key::Ended(..)),
        kernel_thread: row.closer.as_ref().is_some_and(|closer| closer.by_kernel),
        count: row.count,
        exact_count: row.exact,
        rate: row.rate,
        share: share(row, told),
        destinations: destinations(&row.destinations),
        netns,
        netns_name,
        exact: row.exact == row.count,
        candidates: row.candidates.iter().map(|closer| process(closer)).collect(),
    }
}

fn group(row: &Row, by: By, told: &Told<'_>) -> GroupReport {
    let (netns, netns_name) = netns(row);
    GroupReport {
        head: Head::new("time-wait", told.time),
        by: name(by),
        destination: match &row.key {
            Key::Destination(end) => Some((*end).into()),
            _ => None,
        },
        container: match &row.key {
            Key::Container(id) => id.clone(),
            _ => None,
        },
        netns,
        netns_name,
        known: row.key != Key::Unknown,
        count: row.count,
        exact_count: row.exact,
        rate: row.rate,
        share: share(row, told),
    }
}

fn name(by: By) -> &'static str {
    match by {
        By::Process => "process",
        By::Destination => "destination",
        By::Netns => "netns",
        By::Container => "container",
    }
}

fn summary(told: &Told<'_>) -> SummaryReport {
    let verdict = told.verdict;
    let step =
        |(text, command): &(String, Option<String>)| Step { text: text.clone(), command: command.clone() };
    let ports = |one: &PortUse| PortsReport {
        netns: one.netns,
        netns_name: one.netns_name.as_deref().map(str::to_owned),
        source: one.source,
        destination: one.destination.into(),
        size: one.size,
        used: one.used,
        left: one.left(),
        time_wait: one.time_wait,
        rate: one.rate,
    };
    SummaryReport {
        head: Head::new("time-wait", told.time),
        by: "all",
        count: told.count(),
        exact_count: told.exact(),
        rate: told.rate(),
        missed: told.missed,
        incomplete: told.incomplete,
        watched_us: u64::try_from(told.watched.as_micros()).unwrap_or(u64::MAX),
        owners_since: told.since,
        from_agent: told.from_agent,
        level: verdict.level,
        explanation: verdict.explanation.clone(),
        next_steps: verdict.next_steps.iter().map(step).collect(),
        avoid: verdict.avoid.clone(),
        ports: told.ports.iter().take(MAX_PORTS).map(ports).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::style::Look;
    use super::super::time_wait_text::time_wait_text;
    use super::*;

    fn closer(pid: u32, comm: &str) -> Rc<Closer> {
        Rc::new(Closer { pid, comm: comm.into(), uid: 0, process: None, cgroup: None, by_kernel: false })
    }

    fn row(key: Key, closer: Option<Rc<Closer>>, count: u64, exact: u64) -> Row {
        Row {
            key,
            netns: Some((7, Some("blue".into()))),
            closer,
            processes: 3,
            count,
            exact,
            rate: 0.5,
            destinations: vec![("10.0.0.2:80".parse().unwrap(), count as u32)],
            candidates: Vec::new(),
        }
    }

    fn with_told(check: impl Fn(&Told<'_>)) {
        let curl = closer(9, "curl");
        let mut unknown = row(Key::Unknown, None, 10, 0);
        unknown.candidates = vec![closer(5, "a"), closer(6, "b")];
        let rows = [
            row(Key::Living(7), Some(closer(7, "php-fpm")), 1200, 1200),
            row(Key::Ended("curl".into(), None), Some(curl), 90, 0),
            unknown,
        ];
        let verdict = Verdict {
            level: Level::Exhausted,
            explanation: "A problem.".to_owned(),
            next_steps: vec![("the cure".to_owned(), Some("sysctl x".to_owned()))],
            avoid: vec!["tcp_fin_timeout"],
        };
        let ports = [PortUse {
            netns: 7,
            netns_name: Some("blue".into()),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            size: 1300,
            used: 1290,
            time_wait: 1290,
            rate: 1.5,
        }];
        check(&Told {
            time: Timestamp::UNIX_EPOCH,
            by: By::Process,
            rows: &rows,
            ports: &ports,
            verdict: &verdict,
            missed: 4,
            incomplete: false,
            watched: Duration::from_secs(5),
            since: Timestamp::UNIX_EPOCH,
            from_agent: true,
        });
    }

    #[test]
    fn text() {
        with_told(|told| {
            let text = time_wait_text(told, &Look::default());
            for part in [
                "1,300 sockets in TIME_WAIT, 1.5 new a second\n",
                "1,200   92 %    0.5  100 %  php-fpm[7]",
                "likely curl, 3 processes that ended",
                "not known; perhaps a[5] or b[6]",
                "note   owners since 00:00:00 UTC, from the agent\n",
                "96 were closed before netdiag watched",
                "4 were closed while netdiag watched, but it missed by whom",
                "ports  10 of 1,300 left from 10.0.0.1 to 10.0.0.2:80 (netns blue)",
                "\nA problem.\ndo     the cure\n         sysctl x\nnot    tcp_fin_timeout\n",
            ] {
                assert!(text.contains(part), "no {part:?} in\n{text}");
            }
        });
    }

    #[test]
    fn json() {
        with_told(|told| {
            let text = time_wait_json(told).unwrap();
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 4);
            assert_eq!((&lines[0]["kind"], &lines[0]["state"]), (&"owner".into(), &"time-wait".into()));
            assert_eq!((&lines[0]["process"]["pid"], &lines[0]["exact"]), (&7.into(), &true.into()));
            assert_eq!((&lines[1]["ended"], &lines[1]["exact"]), (&true.into(), &false.into()));
            assert!(lines[2]["process"].is_null());
            assert_eq!(lines[2]["candidates"][1]["comm"], "b");
            assert_eq!((&lines[3]["kind"], &lines[3]["by"]), (&"time-wait".into(), &"all".into()));
            assert_eq!(
                (&lines[3]["from_agent"], &lines[3]["owners_since"]),
                (&true.into(), &"1970-01-01T00:00:00.000000Z".into())
            );
            assert_eq!((&lines[3]["count"], &lines[3]["missed"]), (&1300.into(), &4.into()));
            assert_eq!(
                (&lines[3]["ports"][0]["left"], &lines[3]["level"]),
                (&10.into(), &"exhausted".into())
            );
        });
    }
}
