//! What comes in at listeners whose queues are full: half-open connections, from where, and how many are finished.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::Held;
use super::remarks::{self, Kind, Remark};
use crate::diagnoses::flood::Rates;
use crate::enrich::sockets::State;
use crate::enrich::{netns, sysctl};

/// Between two looks at the kernel's counters.
const APART: Duration = Duration::from_millis(500);
/// The value of tcp_syncookies with which the kernel keeps no half-open connections.
const ALWAYS: u8 = 2;
/// From so many half-open connections on a listener is looked at, whatever its backlog.
const MANY: u32 = 128;

/// What comes in at one port of a namespace. Rates are those of the namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// In SYN_RECV.
    pub half_open: u32,
    /// Different addresses among them.
    pub sources: u32,
    /// `None` where the namespace could not be looked into.
    pub rates: Option<Rates>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the queue is full, 2 for every SYN.
    pub policy: Option<u8>,
    /// TCP listeners on other ports of the namespace; `None`: not known.
    pub others: Option<u32>,
    /// Connections that found an accept queue full, since the namespace was made.
    pub overflows: u64,
    pub overflows_per_second: f64,
}

impl Pressure {
    /// What there is to say about a listener in this light.
    pub fn remark(&self, listener: &Held) -> Option<Remark> {
        let (waiting, backlog) = listener.socket.accept_queue()?;
        // Handshakes of a service that does not accept cannot be finished.
        let flood = self.rates.filter(|rates| rates.is_flood() && waiting <= backlog);
        let from = format!("{} half-open connections from {} addresses", self.half_open, self.sources);
        if self.policy == Some(ALWAYS) && !is_suspect(self.half_open, backlog) {
            // There are no half-open connections by which to tell the listener.
            let rates = flood.filter(|_| self.others == Some(0))?;
            let text = format!("SYN flood: {}; {}", numbers(&rates), effect(Some(ALWAYS)));
            return Some(Remark { kind: Kind::SynFlood, text });
        }
        if !is_suspect(self.half_open, backlog) {
            return None;
        }
        if let Some(rates) = flood {
            let text = format!("SYN flood: {from}, and {}; {}", numbers(&rates), effect(self.policy));
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

fn numbers(rates: &Rates) -> String {
    format!(
        "{:.0} SYNs a second more than the queue holds ({:.0} answered with a cookie, {:.0} dropped); {:.0} cookies a \
         second come back valid, {:.0} ACKs have none, {:.0} handshakes are finished",
        rates.excess(),
        rates.cookies,
        rates.dropped,
        rates.valid,
        rates.failed,
        rates.finished
    )
}

fn effect(policy: Option<u8>) -> &'static str {
    match policy {
        Some(0) => "SYN cookies are off: new clients get no answer",
        Some(_) => {
            "by SYN cookies the service goes on, without window scaling and SACK for clients that use no timestamps"
        }
        None => "whether SYN cookies are on is not known",
    }
}

fn is_suspect(half_open: u32, backlog: u32) -> bool {
    half_open >= MANY || backlog > 0 && half_open >= backlog
}

/// Network namespace and local port.
pub type Place = (u64, u16);

/// Measures what comes in at the listeners among `sockets` that are full or nearly so, or whose namespace has sent
/// cookies to all; takes half a second if there is one, and no time otherwise.
///
/// `every`: all sockets of this machine, if they are known.
pub fn measure<'a>(
    sockets: impl Iterator<Item = &'a Held> + Clone,
    every: Option<&[Held]>,
) -> HashMap<Place, Pressure> {
    let all = listeners(sockets.clone());
    let mut found = suspects(sockets);
    let namespaces: HashSet<u64> = all.iter().map(|(netns, _)| *netns).collect();
    let policies: HashMap<u64, u8> =
        namespaces.iter().filter_map(|netns| Some((*netns, policy(*netns)?))).collect();
    for place in all.iter().filter(|(netns, _)| policies.get(netns) == Some(&ALWAYS)) {
        found.entry(*place).or_default();
    }
    let namespaces: HashSet<u64> = found.keys().map(|(netns, _)| *netns).collect();
    if namespaces.is_empty() {
        return HashMap::new();
    }
    let counters = || namespaces.iter().map(|netns| (*netns, counters(*netns))).collect::<HashMap<_, _>>();
    let before = counters();
    thread::sleep(APART);
    let after = counters();
    let everybody = every.map(|every| listeners(every.iter()));
    let with_rates = |(place, pressure): (Place, Pressure)| {
        let others = everybody
            .as_ref()
            .map(|all| all.iter().filter(|other| other.0 == place.0 && other.1 != place.1).count() as u32);
        let pressure = Pressure { policy: policies.get(&place.0).copied(), others, ..pressure };
        let (Some(before), Some(after)) = (before.get(&place.0), after.get(&place.0)) else {
            return (place, pressure);
        };
        (place, rates(pressure, before, after))
    };
    found.into_iter().map(with_rates).collect()
}

fn listeners<'a>(sockets: impl Iterator<Item = &'a Held>) -> HashSet<Place> {
    let listeners = sockets.filter(|held| held.socket.state == State::Listen);
    listeners.map(|held| (held.netns, held.socket.local.port())).collect()
}

fn policy(netns: u64) -> Option<u8> {
    let handle = netns::find(netns)?;
    sysctl::read(Some(&handle), "net.ipv4.tcp_syncookies")?.trim().parse().ok()
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
    let value = |counters: &Counters, name: &str| {
        ["TcpExt", "Tcp"].iter().find_map(|table| counters.get(&format!("{table}.{name}")).copied())
    };
    let seconds = APART.as_secs_f64();
    let overflows = |counters: &Counters| value(counters, "ListenOverflows").unwrap_or(0);
    Pressure {
        rates: Rates::between(|name| value(before, name), |name| value(after, name), seconds),
        overflows: overflows(after),
        overflows_per_second: overflows(after).saturating_sub(overflows(before)) as f64 / seconds,
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

    fn counters_with(cookies: u64, valid: u64) -> Counters {
        let all = [
            ("TcpExt.SyncookiesSent", cookies),
            ("TcpExt.SyncookiesRecv", valid),
            ("TcpExt.TCPReqQFullDrop", 0),
            ("Tcp.PassiveOpens", valid),
            ("TcpExt.ListenOverflows", 7),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn pressure(half_open: u32, policy: u8, cookies: u64, valid: u64) -> Pressure {
        let seen = Pressure {
            half_open,
            sources: half_open,
            policy: Some(policy),
            others: Some(0),
            ..Pressure::default()
        };
        rates(seen, &counters_with(0, 0), &counters_with(cookies, valid))
    }

    fn kind(pressure: Pressure) -> Option<Kind> {
        pressure.remark(&listener(8)).map(|remark| remark.kind)
    }

    #[test]
    fn a_flood_finishes_no_handshakes() {
        assert_eq!(kind(pressure(8, 1, 500, 10)), Some(Kind::SynFlood));
        assert_eq!(kind(pressure(8, 1, 500, 400)), Some(Kind::SynQueueFull));
        assert_eq!(kind(pressure(8, 1, 2, 0)), Some(Kind::SynQueueFull));
        assert_eq!(kind(pressure(7, 1, 500, 0)), None, "the queue has room");
        assert_eq!(pressure(8, 1, 0, 0).overflows, 7);
        let text = pressure(8, 1, 500, 10).remark(&listener(8)).unwrap().text;
        assert!(
            text.contains("1000 answered with a cookie") && text.contains("20 cookies a second come back"),
            "{text}"
        );
        assert!(text.contains("the service goes on"), "{text}");
        let mut stuck = listener(8);
        stuck.socket.rqueue = 9;
        let remark = pressure(8, 1, 500, 0).remark(&stuck).map(|remark| remark.kind);
        assert_eq!(remark, Some(Kind::SynQueueFull), "the service does not accept");
    }

    #[test]
    fn cookies_for_every_syn_are_no_flood_if_they_come_back() {
        assert_eq!(kind(pressure(0, 2, 500, 490)), None);
        assert_eq!(kind(pressure(0, 2, 500, 5)), Some(Kind::SynFlood));
        let one_of_two = Pressure { others: Some(1), ..pressure(0, 2, 500, 5) };
        assert_eq!(kind(one_of_two), None, "it may be the other's");
    }
}
