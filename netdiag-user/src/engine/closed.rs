//! Who made what is in TIME_WAIT now, of the connections whose end was told: with `run` and `--all` that is each one.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use crate::enrich::facts::Holder;
use crate::enrich::gather::in_the_way;
use crate::enrich::netns;
use crate::enrich::process::{self, Process};
use crate::enrich::sockets::SocketInfo;
use crate::probes::{ConnectionEnd, Owner, TcpState, Tuple};
use crate::track::Connection;

/// A little longer than they wait (include/net/tcp.h, TCP_TIMEWAIT_LEN).
const KEEP_NS: u64 = 65_000_000_000;
const MAX_CLOSED: usize = 65_536;

type Key = (u32, Tuple);

/// By network namespace and ends, local first.
#[derive(Debug, Default)]
pub(super) struct Closed {
    by: HashMap<Key, (u64, Rc<Owner>)>,
    order: VecDeque<(u64, Key)>,
    /// The last one: most come from one process.
    last: Option<Rc<Owner>>,
}

impl Closed {
    pub(super) fn note(&mut self, end: &ConnectionEnd) {
        let closed_first = matches!(end.from, TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing);
        if !closed_first || end.errno.is_some() {
            return;
        }
        // Not who runs when the last packet comes.
        let Some(owner) = end.owner.clone() else { return };
        self.add((end.netns, end.tuple), end.time_ns, owner);
    }

    fn add(&mut self, key: Key, now: u64, owner: Owner) {
        while let Some((at, old)) = self.order.front().copied()
            && (now.saturating_sub(at) > KEEP_NS || self.order.len() >= MAX_CLOSED)
        {
            self.order.pop_front();
            if self.by.get(&old).is_some_and(|(latest, _)| *latest == at) {
                self.by.remove(&old);
            }
        }
        let owner = match &self.last {
            Some(last) if **last == owner => Rc::clone(last),
            _ => Rc::new(owner),
        };
        self.last = Some(Rc::clone(&owner));
        self.order.push_back((now, key));
        self.by.insert(key, (now, owner));
    }

    fn who(&self, key: &Key, now: u64) -> Option<&Rc<Owner>> {
        let (at, owner) = self.by.get(key)?;
        (now.saturating_sub(*at) <= KEEP_NS).then_some(owner)
    }

    /// Names the makers of what is in TIME_WAIT among those that hold a port.
    pub(super) fn name(&self, connection: &Connection, holders: &mut Vec<Holder>, now: u64) {
        let waits = |holder: &Holder| holder.process.is_none() && holder.state == in_the_way::TIME_WAIT;
        let asks_for_any = connection.local.port() == 0 && connection.peer.port() != 0;
        if self.by.is_empty() || !asks_for_any || !holders.iter().any(waits) {
            return;
        }
        let Some(handle) = netns::find(connection.netns.into()) else { return };
        let look = || in_the_way::waiting_towards(connection);
        let Ok(Some(sockets)) = netns::enter(&handle, look) else { return };
        holders.retain(|holder| !waits(holder));
        holders.extend(self.group(connection, &sockets, now));
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.count));
    }

    fn group(&self, connection: &Connection, sockets: &[SocketInfo], now: u64) -> Vec<Holder> {
        let mut groups: HashMap<Option<u32>, Holder> = HashMap::new();
        for socket in sockets {
            let tuple =
                Tuple { protocol: connection.protocol, source: socket.local, destination: socket.peer };
            let maker = self.who(&(connection.netns, tuple), now);
            let fresh = || Holder {
                process: maker.map(|owner| name(owner)),
                state: in_the_way::TIME_WAIT.to_owned(),
                local: SocketAddr::new(socket.local.ip(), 0),
                count: 0,
            };
            groups.entry(maker.map(|owner| owner.pid)).or_insert_with(fresh).count += 1;
        }
        groups.into_values().collect()
    }
}

fn name(owner: &Owner) -> Process {
    process::of_owner(owner).unwrap_or_else(|| Process {
        pid: owner.pid,
        comm: owner.comm.to_string(),
        uid: owner.uid,
        ..Process::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::sockets::{Family, Protocol, State};
    use crate::probes::protocol;

    const SECOND: u64 = 1_000_000_000;

    fn tuple(port: u16) -> Tuple {
        let destination = ([10, 0, 0, 2], 80).into();
        Tuple { protocol: protocol::TCP, source: ([10, 0, 0, 1], port).into(), destination }
    }

    fn owner(pid: u32) -> Owner {
        // No process has this number (PID_MAX_LIMIT is 4,194,304).
        let pid = pid + 5_000_000;
        Owner { pid, tid: pid, uid: 0, cgroup: 1, comm: "gone".into() }
    }

    fn waiting(port: u16) -> SocketInfo {
        let Tuple { source: local, destination: peer, .. } = tuple(port);
        SocketInfo { local, peer, ..SocketInfo::new(Family::Inet, Protocol::Tcp, State::TimeWait) }
    }

    #[test]
    fn by_who_made_them() {
        let mut closed = Closed::default();
        for port in 1..=3 {
            closed.add((7, tuple(port)), 100 * SECOND, owner(1));
        }
        closed.add((8, tuple(4)), 100 * SECOND, owner(2));
        let sockets: Vec<SocketInfo> = (1..=4).map(waiting).collect();
        let connection = Connection::of_flow(tuple(0), 7, 0);
        let mut holders = closed.group(&connection, &sockets, 101 * SECOND);
        holders.sort_by_key(|holder| holder.count);
        let seen: Vec<_> = holders.iter().map(|h| (h.process.as_ref().map(|p| p.pid), h.count)).collect();
        assert_eq!(seen, [(None, 1), (Some(5_000_001), 3)], "the fourth is of another namespace");
        assert_eq!(closed.group(&connection, &sockets, 200 * SECOND).len(), 1, "it was long ago");
    }

    #[test]
    fn memory_is_bounded() {
        let mut closed = Closed::default();
        for count in 0..100_000_u32 {
            closed.add((count, tuple(1)), u64::from(count), owner(1));
        }
        assert_eq!((closed.by.len(), closed.order.len()), (MAX_CLOSED, MAX_CLOSED));
        closed.add((0, tuple(1)), 100 * SECOND, owner(1));
        assert_eq!(closed.by.len(), 1);
    }
}
