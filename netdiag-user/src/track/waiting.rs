//! Connections that ended and wait for the last of their evidence.

use std::collections::VecDeque;
use std::rc::Rc;

use super::connection::{Connection, End};
use super::index::{Index, Key, Keys};
use crate::probes::{Call, CallFailed, Owner, Step};

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Pending {
    /// Shared with what is remembered of ended connections.
    pub(super) connection: Rc<Connection>,
    /// Of its flow.
    pub(super) flow: Key,
    pub(super) sock: u64,
    pub(super) steps: Vec<Step>,
    pub(super) call: Option<(u64, Call, i32)>,
    pub(super) error_taken: bool,
    pub(super) due_ns: u64,
}

/// How long one waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grace {
    Short,
    Long,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    short: Queue,
    long: Queue,
    arrived: u64,
    keys: Keys,
}

/// Those with the same grace: as they came, so they are due.
#[derive(Debug, Default)]
struct Queue {
    /// With the number of its arrival; `None`: it moved to the other queue.
    pending: VecDeque<Option<(u64, Pending)>>,
    /// Number of the first of `pending` in this queue.
    first: u64,
    count: usize,
    /// Those that a failed connect() may turn out to be.
    unexplained: Index,
}

impl Waiting {
    pub(super) fn push(&mut self, pending: Pending, grace: Grace) {
        self.arrived += 1;
        let queue = if grace == Grace::Short { &mut self.short } else { &mut self.long };
        queue.push(self.arrived, pending, &self.keys);
    }

    pub(super) fn len(&self) -> usize {
        self.short.count + self.long.count
    }

    /// When the first is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        [&self.short, &self.long].into_iter().filter_map(Queue::front).map(|(_, due_ns)| due_ns).min()
    }

    /// Takes the first to arrive of those that are due; of all, if `any`.
    pub(super) fn take(&mut self, now_ns: u64, any: bool) -> Option<Pending> {
        let arrival = |queue: &Queue| {
            queue.front().filter(|(_, due_ns)| any || *due_ns <= now_ns).map(|(arrived, _)| arrived)
        };
        let queue = match (arrival(&self.short), arrival(&self.long)) {
            (Some(short), Some(long)) if long < short => &mut self.long,
            (Some(_), _) => &mut self.short,
            (None, Some(_)) => &mut self.long,
            (None, None) => return None,
        };
        queue.pop(&self.keys)
    }

    /// The state change of the same connect() came just before: one failure, told once. Whether there was one.
    pub(super) fn takes(&mut self, call: &CallFailed, grace_ns: u64) -> bool {
        if call.call != Call::Connect {
            return false;
        }
        let key = key_of_call(&self.keys, call);
        let failed = Some((call.time_ns, call.call, call.errno));
        let (short, long) = (self.short.find(key, call), self.long.find(key, call));
        let queue = if short.map(|(arrived, _)| arrived) > long.map(|(arrived, _)| arrived) {
            &mut self.short
        } else {
            &mut self.long
        };
        let Some((_, number)) = short.max(long) else { return false };
        queue.unexplained.remove(key, number);
        let Some(place) = queue.place(number) else { return false };
        let Some((_, pending)) = place else { return false };
        pending.call = failed;
        if pending.connection.errno.is_some() {
            return true;
        }
        let connection = Rc::make_mut(&mut pending.connection);
        connection.end = End::CallFailed { call: call.call };
        connection.errno = Some(call.errno);
        pending.due_ns = call.time_ns.saturating_add(grace_ns);
        if short < long
            && let Some((arrived, pending)) = place.take()
        {
            self.long.forget_moved();
            self.short.push(arrived, pending, &self.keys);
        }
        true
    }
}

impl Queue {
    fn push(&mut self, arrived: u64, pending: Pending, keys: &Keys) {
        if pending.call.is_none() {
            let number = self.first + self.pending.len() as u64;
            self.unexplained.add(key_of_pending(keys, &pending), number);
        }
        self.pending.push_back(Some((arrived, pending)));
        self.count += 1;
    }

    /// Arrival and time of the first.
    fn front(&self) -> Option<(u64, u64)> {
        self.pending.front()?.as_ref().map(|(arrived, pending)| (*arrived, pending.due_ns))
    }

    fn pop(&mut self, keys: &Keys) -> Option<Pending> {
        let (_, pending) = self.pending.pop_front()??;
        if pending.call.is_none() {
            self.unexplained.remove(key_of_pending(keys, &pending), self.first);
        }
        self.first += 1;
        self.count -= 1;
        self.skip_empty();
        Some(pending)
    }

    /// Arrival and number of the latest that may be this call.
    fn find(&self, key: Key, call: &CallFailed) -> Option<(u64, u64)> {
        self.unexplained.latest(key).find_map(|number| {
            let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
            let (arrived, pending) = self.pending.get(index)?.as_ref()?;
            is_of(pending, call).then_some((*arrived, number))
        })
    }

    fn place(&mut self, number: u64) -> Option<&mut Option<(u64, Pending)>> {
        self.pending.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn forget_moved(&mut self) {
        self.count -= 1;
        self.skip_empty();
    }

    /// The first is always there.
    fn skip_empty(&mut self) {
        while let Some(None) = self.pending.front() {
            self.pending.pop_front();
            self.first += 1;
        }
    }
}

/// The memory of a closed socket is used again at once, so its address alone says nothing.
fn is_of(pending: &Pending, call: &CallFailed) -> bool {
    let connection = &pending.connection;
    pending.sock == call.sock
        && pending.call.is_none()
        && connection.peer == call.tuple.destination
        && connection.netns == call.netns
        && thread(connection.owner.as_ref()) == thread(call.owner.as_ref())
}

fn thread(owner: Option<&Owner>) -> Option<u32> {
    owner.map(|owner| owner.tid)
}

fn key_of_pending(keys: &Keys, pending: &Pending) -> Key {
    let Connection { peer, netns, owner, .. } = &*pending.connection;
    keys.of((pending.sock, peer, *netns, thread(owner.as_ref())))
}

fn key_of_call(keys: &Keys, call: &CallFailed) -> Key {
    keys.of((call.sock, &call.tuple.destination, call.netns, thread(call.owner.as_ref())))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::probes::{Tuple, protocol};

    fn call(peer: &str, time_ns: u64) -> CallFailed {
        let local: SocketAddr = "10.0.0.1:0".parse().unwrap();
        let tuple = Tuple { protocol: protocol::TCP, source: local, destination: peer.parse().unwrap() };
        let (errno, netns) = (libc::EADDRNOTAVAIL, 1);
        let (owner, bound_interface, asked) = (None, None, false);
        CallFailed {
            time_ns,
            sock: 1,
            owner,
            tuple,
            call: Call::Connect,
            errno,
            netns,
            bound_interface,
            asked,
            ipv6_only: false,
        }
    }

    /// A connection to this peer that nobody has told an error.
    fn pending(peer: &str, due_ns: u64) -> Pending {
        let connection = Connection { errno: None, ..Connection::call_failed(call(peer, 0)) };
        let (connection, steps) = (Rc::new(connection), Vec::new());
        Pending {
            connection,
            flow: Keys::default().of(0),
            sock: 1,
            steps,
            call: None,
            error_taken: false,
            due_ns,
        }
    }

    fn ports(waiting: &mut Waiting, now_ns: u64, any: bool) -> Vec<u16> {
        std::iter::from_fn(|| waiting.take(now_ns, any))
            .map(|pending| pending.connection.peer.port())
            .collect()
    }

    fn is_empty(waiting: &Waiting) -> bool {
        [&waiting.short, &waiting.long]
            .iter()
            .all(|queue| queue.count == 0 && queue.pending.is_empty() && queue.unexplained.is_empty())
    }

    #[test]
    fn the_first_to_arrive_is_the_first_to_leave() {
        let mut waiting = Waiting::default();
        waiting.push(pending("10.0.0.2:1", 100), Grace::Long);
        waiting.push(pending("10.0.0.2:2", 10), Grace::Short);
        waiting.push(pending("10.0.0.2:3", 20), Grace::Short);
        assert_eq!((waiting.len(), waiting.next_due_ns()), (3, Some(10)));
        assert_eq!(ports(&mut waiting, 10, false), [2]);
        assert_eq!(ports(&mut waiting, 0, true), [1, 3]);
        assert!(is_empty(&waiting));
    }

    #[test]
    fn a_failed_call_ends_the_long_wait() {
        let mut waiting = Waiting::default();
        for port in 1..=3 {
            waiting.push(pending(&format!("10.0.0.2:{port}"), 1_000), Grace::Long);
        }
        assert!(waiting.takes(&call("10.0.0.2:1", 5), 60));
        assert!(waiting.takes(&call("10.0.0.2:2", 6), 60));
        assert!(!waiting.takes(&call("10.0.0.2:2", 7), 60), "each is told once");
        assert!(!waiting.takes(&call("10.0.0.2:4", 7), 60));
        assert_eq!((waiting.len(), waiting.next_due_ns()), (3, Some(65)));
        assert_eq!(ports(&mut waiting, 66, false), [1, 2]);
        assert_eq!(ports(&mut waiting, 1_000, false), [3]);
        assert!(is_empty(&waiting));
    }

    #[test]
    fn of_two_the_latest_is_the_one_that_failed() {
        let mut waiting = Waiting::default();
        waiting.push(pending("10.0.0.2:1", 10), Grace::Short);
        waiting.push(pending("10.0.0.2:1", 1_000), Grace::Long);
        assert!(waiting.takes(&call("10.0.0.2:1", 100), 60));
        assert!(waiting.take(10, false).is_some_and(|first| first.call.is_none()));
        assert!(waiting.take(160, false).is_some_and(|second| second.call.is_some()));
        assert!(is_empty(&waiting));
    }
}
