//! How many local ports are left for each destination.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::{RATE_OVER, age};
use crate::enrich::port_range::PortRange;
use crate::enrich::sockets::State;
use crate::enrich::{netns, sysctl};
use crate::whose::{Held, Side};

/// What a network namespace has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub range: Option<PortRange>,
    /// `net.ipv4.tcp_tw_reuse`: 0 never, 1 always, 2 on loopback.
    pub reuse: Option<u8>,
    /// `net.ipv4.tcp_max_tw_buckets`: the kernel destroys what is above.
    pub max: Option<u64>,
    /// How often it did since the namespace was made.
    pub overflows: u64,
}

impl Room {
    /// Reads those of these namespaces.
    pub(super) fn of(namespaces: HashSet<u64>) -> HashMap<u64, Self> {
        let read = |inode| {
            let handle = netns::find(inode)?;
            let room = netns::enter(&handle, || {
                let setting = |key| sysctl::read(None, key);
                let range = setting(PortRange::RANGE)
                    .and_then(|range| PortRange::parse(&range, setting(PortRange::RESERVED).as_deref()));
                let number = |key| setting(key).and_then(|text| text.parse::<u64>().ok());
                let overflows = sysctl::netstat(None).remove("TcpExt.TCPTimeWaitOverflow");
                Self {
                    range,
                    reuse: number("net.ipv4.tcp_tw_reuse").and_then(|value| u8::try_from(value).ok()),
                    max: number("net.ipv4.tcp_max_tw_buckets"),
                    overflows: overflows.unwrap_or(0),
                }
            });
            Some((inode, room.ok()?))
        };
        namespaces.into_iter().filter_map(read).collect()
    }
}

/// The local ports that connections of one address to one destination take.
#[derive(Debug, Clone, PartialEq)]
pub struct PortUse {
    pub netns: u64,
    pub netns_name: Option<Rc<str>>,
    pub source: IpAddr,
    pub destination: SocketAddr,
    /// Ports of the range.
    pub size: u64,
    /// Those of them that are taken, in whatever state.
    pub used: u64,
    /// Those of them in TIME_WAIT.
    pub time_wait: u64,
    /// New ones in TIME_WAIT a second.
    pub rate: f64,
}

impl PortUse {
    pub fn left(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }

    pub fn used_percent(&self) -> u64 {
        (self.used * 100).checked_div(self.size).unwrap_or(100)
    }
}

/// For each source and destination of connections that were made from here and are in TIME_WAIT; the fullest first.
pub(super) fn uses<'a>(
    rooms: &HashMap<u64, Room>,
    waiting: impl Iterator<Item = &'a Held>,
    open: &[Held],
) -> Vec<PortUse> {
    let key = |held: &Held| (held.netns, held.socket.local.ip(), held.socket.peer);
    let mut uses: HashMap<(u64, IpAddr, SocketAddr), PortUse> = HashMap::new();
    let in_range = |held: &Held| {
        let range = rooms.get(&held.netns)?.range.as_ref()?;
        (held.side == Side::Outbound && range.contains(held.socket.local.port())).then(|| range.size())
    };
    let mut recent: HashMap<(u64, IpAddr, SocketAddr), u32> = HashMap::new();
    for held in waiting {
        let Some(size) = in_range(held) else { continue };
        let one = uses.entry(key(held)).or_insert_with(|| PortUse {
            netns: held.netns,
            netns_name: held.netns_name.clone(),
            source: held.socket.local.ip(),
            destination: held.socket.peer,
            size,
            used: 0,
            time_wait: 0,
            rate: 0.0,
        });
        one.used += 1;
        one.time_wait += 1;
        if age(held.socket.timer_ms) < RATE_OVER {
            *recent.entry(key(held)).or_default() += 1;
        }
    }
    for held in open.iter().filter(|held| held.socket.state != State::Listen && in_range(held).is_some()) {
        if let Some(one) = uses.get_mut(&key(held)) {
            one.used += 1;
        }
    }
    for (key, count) in recent {
        if let Some(one) = uses.get_mut(&key) {
            one.rate = f64::from(count) / RATE_OVER.as_secs_f64();
        }
    }
    let mut uses: Vec<PortUse> = uses.into_values().collect();
    uses.sort_by_key(|one| (std::cmp::Reverse(one.used), one.netns, one.source, one.destination));
    uses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::sockets::{Family, Protocol, SocketInfo};

    fn held(state: State, port: u16, peer: &str, left_ms: u32) -> Held {
        let local = SocketAddr::from(([10, 0, 0, 1], port));
        let (peer, timer_ms) = (peer.parse().unwrap(), left_ms);
        let socket =
            SocketInfo { local, peer, timer_ms, ..SocketInfo::new(Family::Inet, Protocol::Tcp, state) };
        Held { netns: 1, netns_name: None, socket, side: Side::Outbound, holders: Vec::new() }
    }

    #[test]
    fn each_destination_has_the_whole_range() {
        let range = PortRange::parse("40000 40099", None);
        let rooms = HashMap::from([(1, Room { range, reuse: Some(2), max: None, overflows: 0 })]);
        let waiting = [
            held(State::TimeWait, 40000, "10.0.0.2:80", 59_000),
            held(State::TimeWait, 40001, "10.0.0.2:80", 1_000),
            held(State::TimeWait, 40001, "10.0.0.3:80", 59_000),
            held(State::TimeWait, 50000, "10.0.0.2:80", 59_000),
        ];
        let open = [
            held(State::Established, 40002, "10.0.0.2:80", 0),
            held(State::Established, 40002, "10.0.0.9:80", 0),
        ];
        let uses = uses(&rooms, waiting.iter(), &open);
        assert_eq!(uses.len(), 2);
        assert_eq!((uses[0].used, uses[0].time_wait, uses[0].size, uses[0].left()), (3, 2, 100, 97));
        assert!((uses[0].rate - 0.1).abs() < 1e-9);
        assert_eq!((uses[1].used, uses[1].used_percent()), (1, 1));
    }
}
