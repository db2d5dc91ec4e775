//! What comes in at listeners whose queues are full: half-open connections, from where, and how many are finished.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::Held;
use super::remarks::{self, Kind, Remark};
use crate::diagnoses::flood;
use crate::enrich::sockets::State;
use crate::enrich::{netns, sysctl};

/// Between two looks at the kernel's counters.
const APART: Duration = Duration::from_millis(500);
/// From so many half-open connections on a listener is looked at, whatever its backlog.
const MANY: u32 = 128;

/// What comes in at one port of a namespace. Rates are those of the namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// In SYN_RECV.
    pub half_open: u32,
    /// Different addresses among them.
    pub sources: u32,
    /// SYN cookies a second.
    pub cookies: f64,
    /// SYNs a second that were dropped because the SYN queue was full.
    pub dropped: f64,
    /// Handshakes a second that were finished.
    pub finished: f64,
    /// Connections that found an accept queue full, since the namespace was made.
    pub overflows: u64,
    pub overflows_per_second: f64,
}

impl Pressure {
    /// SYNs a second beyond what the queue holds.
    fn excess(&self) -> f64 {
        self.cookies + self.dropped
    }

    /// What there is to say about a listener in this light.
    pub fn remark(&self, listener: &Held) -> Option<Remark> {
        let (_, backlog) = listener.socket.accept_queue()?;
        if !is_suspect(self.half_open, backlog) {
            return None;
        }
        let from = format!("{} half-open connections from {} addresses", self.half_open, self.sources);
        if flood::is_flood(self.excess(), self.finished) {
            let text = format!(
                "SYN flood: {from}, and {:.0} SYNs a second more than the queue holds ({:.0} answered with a cookie, \
                 {:.0} dropped); only {:.0} handshakes a second are finished",
                self.excess(),
                self.cookies,
                self.dropped,
                self.finished
            );
            return Some(Remark { kind: Kind::SynFlood, text });
        }
        let full = backlog > 0 && self.half_open >= backlog;
        let text = || {
            format!(
                "SYN queue full: {from}; the answers may not reach the clients (more SYNs get a cookie, or none)"
            )
        };
        full.then(|| Remark { kind: Kind::SynQueueFull, text: text() })
    }
}

fn is_suspect(half_open: u32, backlog: u32) -> bool {
    half_open >= MANY || backlog > 0 && half_open >= backlog
}

/// Network namespace and local port.
pub type Place = (u64, u16);

/// Measures what comes in at the listeners among `sockets` that are full or nearly so; takes half a second if there
/// is one, and no time otherwise.
pub fn measure<'a>(sockets: impl Iterator<Item = &'a Held> + Clone) -> HashMap<Place, Pressure> {
    let found = suspects(sockets);
    let namespaces: HashSet<u64> = found.keys().map(|(netns, _)| *netns).collect();
    if namespaces.is_empty() {
        return HashMap::new();
    }
    let counters = || namespaces.iter().map(|netns| (*netns, counters(*netns))).collect::<HashMap<_, _>>();
    let before = counters();
    thread::sleep(APART);
    let after = counters();
    let with_rates = |(place, pressure): (Place, Pressure)| {
        let (Some(before), Some(after)) = (before.get(&place.0), after.get(&place.0)) else {
            return (place, pressure);
        };
        (place, rates(pressure, before, after))
    };
    found.into_iter().map(with_rates).collect()
}

fn suspects<'a>(sockets: impl Iterator<Item = &'a Held> + Clone) -> HashMap<Place, Pressure> {
    let mut half_open: HashMap<Place, (u32, HashSet<IpAddr>)> = HashMap::new();
    let is_half = |held: &&Held| matches!(held.socket.state, State::SynRecv | State::NewSynRecv);
    for held in sockets.clone().filter(is_half) {
        let (count, sources) = half_open.entry((held.netns, held.socket.local.port())).or_default();
        *count += 1;
        sources.insert(held.socket.peer.ip());
    }
    let listeners = sockets.filter(|held| held.socket.state == State::Listen);
    let suspect = |held: &Held| {
        let place = (held.netns, held.socket.local.port());
        let (count, sources) =
            half_open.get(&place).map_or((0, 0), |(count, all)| (*count, all.len() as u32));
        let (_, backlog) = held.socket.accept_queue()?;
        let wanted = is_suspect(count, backlog) || !remarks::of(held).is_empty();
        wanted.then(|| (place, Pressure { half_open: count, sources, ..Pressure::default() }))
    };
    listeners.filter_map(suspect).collect()
}

type Counters = HashMap<String, u64>;

fn counters(netns: u64) -> Counters {
    netns::find(netns).map(|handle| sysctl::netstat(Some(&handle))).unwrap_or_default()
}

fn rates(pressure: Pressure, before: &Counters, after: &Counters) -> Pressure {
    let value = |counters: &Counters, name: &str| counters.get(name).copied().unwrap_or(0);
    let rate = |name: &str| {
        let grew = value(after, name).saturating_sub(value(before, name));
        grew as f64 / APART.as_secs_f64()
    };
    Pressure {
        cookies: rate("TcpExt.SyncookiesSent"),
        dropped: rate("TcpExt.TCPReqQFullDrop"),
        finished: rate("Tcp.PassiveOpens"),
        overflows: value(after, "TcpExt.ListenOverflows"),
        overflows_per_second: rate("TcpExt.ListenOverflows"),
        ..pressure
    }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;
    use crate::enrich::sockets::{Family, Protocol, SocketInfo};

    fn listener(backlog: u32) -> Held {
        let local = "10.0.0.1:80".parse().unwrap();
        let socket = SocketInfo {
            local,
            wqueue: backlog,
            ..SocketInfo::new(Family::Inet, Protocol::Tcp, State::Listen)
        };
        Held { netns: 1, netns_name: None, socket, side: Side::Unconnected, holders: Vec::new() }
    }

    fn half_open(source: u8) -> Held {
        let mut held = listener(0);
        held.socket.state = State::SynRecv;
        held.socket.peer = ([10, 0, 1, source], 999).into();
        held
    }

    #[test]
    fn half_open_connections_by_source() {
        let all = [listener(3), half_open(1), half_open(2), half_open(2)];
        let found = suspects(all.iter());
        assert_eq!((found[&(1, 80)].half_open, found[&(1, 80)].sources), (3, 2));
        assert!(suspects([listener(4), half_open(1)].iter()).is_empty());
    }

    #[test]
    fn a_flood_finishes_no_handshakes() {
        let before = Counters::new();
        let after = |cookies: u64, finished: u64| {
            Counters::from([
                ("TcpExt.SyncookiesSent".to_owned(), cookies),
                ("Tcp.PassiveOpens".to_owned(), finished),
                ("TcpExt.ListenOverflows".to_owned(), 7),
            ])
        };
        let seen = Pressure { half_open: 8, sources: 8, ..Pressure::default() };
        let kind = |after: &Counters| rates(seen, &before, after).remark(&listener(8)).unwrap().kind;
        assert_eq!(kind(&after(500, 10)), Kind::SynFlood);
        assert_eq!(kind(&after(500, 400)), Kind::SynQueueFull);
        assert_eq!(kind(&after(2, 0)), Kind::SynQueueFull);
        assert_eq!(rates(seen, &before, &after(0, 0)).overflows, 7);
        assert_eq!(rates(seen, &before, &after(500, 0)).remark(&listener(9)), None, "the queue has room");
    }
}
