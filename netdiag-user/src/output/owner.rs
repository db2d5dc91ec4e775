//! A process and its sockets in one state: kind `owner`.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::Serialize;

use super::report::{Endpoint, Head, ProcessPart};
use super::style::{Look, Tone};
use crate::diagnoses::words::duration;
use crate::whose::close_wait::Keeper;

/// Peers of one owner that are named; the others are in its count.
pub(super) const DESTINATIONS: usize = 16;

/// A remote end and how many sockets go there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destination {
    #[serde(flatten)]
    pub end: Endpoint,
    pub count: u32,
}

pub(super) fn destinations(peers: &[(SocketAddr, u32)]) -> Vec<Destination> {
    let one = |(end, count): &(SocketAddr, u32)| Destination { end: (*end).into(), count: *count };
    peers.iter().take(DESTINATIONS).map(one).collect()
}

/// A process that keeps connections which the peer has closed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeeperReport {
    #[serde(flatten)]
    pub head: Head,
    pub state: &'static str,
    /// Null: the connections wait for accept().
    pub process: Option<ProcessPart>,
    pub count: u32,
    /// Per second, over the last minute, of those that are still there.
    pub rate: f64,
    pub over_minute: u32,
    pub over_ten_minutes: u32,
    pub oldest_at_least_us: u64,
    pub destinations: Vec<Destination>,
    pub netns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    pub exact: bool,
}

impl KeeperReport {
    pub fn new(keeper: &Keeper, time: Timestamp) -> Self {
        Self {
            head: Head::new("owner", time),
            state: "close-wait",
            process: ProcessPart::new(None, keeper.process.as_deref()),
            count: keeper.count,
            rate: f64::from(keeper.count - keeper.over_minute) / 60.0,
            over_minute: keeper.over_minute,
            over_ten_minutes: keeper.over_ten_minutes,
            oldest_at_least_us: u64::try_from(keeper.oldest.as_micros()).unwrap_or(u64::MAX),
            destinations: destinations(&keeper.peers),
            netns: keeper.netns,
            netns_name: keeper.netns_name.as_deref().map(str::to_owned),
            exact: true,
        }
    }
}

/// Some lines with their ends; nothing where they may be on their way.
pub fn keeper_text(keeper: &Keeper, look: &Look) -> String {
    if !keeper.leaks() {
        return String::new();
    }
    let process = ProcessPart::new(None, keeper.process.as_deref());
    let who = match &process {
        Some(process) => ProcessPart::label(Some(process)),
        None => "nobody accepts: the listener's process".to_owned(),
    };
    let place = keeper.netns_name.as_ref().map(|name| format!(" (netns {name})")).unwrap_or_default();
    let mut ages = format!("{} for over a minute", keeper.over_minute);
    if keeper.over_ten_minutes > 0 {
        ages += &format!(", {} for over ten", keeper.over_ten_minutes);
    }
    let others = match keeper.peers.len() {
        0 | 1 => String::new(),
        more => format!(" and {} other peers", more - 1),
    };
    let peer = keeper.peers.first().map(|(peer, _)| format!("; {peer}{others}")).unwrap_or_default();
    let text = format!(
        "{who}{place} keeps {} connections that the peer has closed, {ages}, the oldest for at least {}{peer}",
        keeper.count,
        duration(keeper.oldest)
    );
    let advice = "  the program must close() what it has read to its end: look for paths that return early, and for \
                  pools that never test idle connections";
    format!("{} {}\n{advice}\n", look.paint(Tone::Bad, "leak.close-wait"), look.safe(&text))
}
