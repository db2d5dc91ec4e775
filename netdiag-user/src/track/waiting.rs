//! Connections that ended and wait for the last of their evidence.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::connection::{Connection, End};
use super::index::{Index, Key, Keys};
use crate::probes::{Call, CallFailed, Owner, Step};

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) connection: Connection,
    pub(super) sock: u64,
    pub(super) steps: Vec<Step>,
    pub(super) call: Option<(u64, Call, i32)>,
    pub(super) error_taken: bool,
    pub(super) due_ns: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order of arrival. One that was finished leaves its place empty until all before it are gone, which
    /// takes no longer than the longest grace.
    queue: VecDeque<Option<Box<Pending>>>,
    /// Number of the first of `queue`.
    first: u64,
    count: usize,
    /// Times and numbers. One whose time was changed is in it twice.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    /// Those that a failed connect() may turn out to be.
    unexplained: Index,
    keys: Keys,
}

impl Waiting {
    pub(super) fn push(&mut self, pending: Pending) {
        let number = self.first + self.queue.len() as u64;
        if pending.call.is_none() {
            self.unexplained.add(key_of_pending(&self.keys, &pending), number);
        }
        self.due.push(Reverse((pending.due_ns, number)));
        self.queue.push_back(Some(Box::new(pending)));
        self.count += 1;
    }

    /// When the first is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Takes those that are due, and the oldest beyond `most`, in the order of arrival.
    pub(super) fn take_due(&mut self, now_ns: u64, most: usize) -> VecDeque<Box<Pending>> {
        let excess = self.count.saturating_sub(most);
        let oldest = (self.first..).zip(&self.queue).filter(|(_, pending)| pending.is_some());
        let mut numbers: Vec<u64> = oldest.take(excess).map(|(number, _)| number).collect();
        while let Some(Reverse((due_ns, number))) = self.due.peek().copied()
            && due_ns <= now_ns
        {
            self.due.pop();
            numbers.push(number);
        }
        numbers.sort_unstable();
        // What is in it twice was taken the first time.
        let taken = numbers.into_iter().filter_map(|number| self.take(number)).collect();
        self.tidy();
        taken
    }

    /// The state change of the same connect() came just before: one failure, told once. Whether there was one.
    pub(super) fn takes(&mut self, call: &CallFailed, grace_ns: u64) -> bool {
        if call.call != Call::Connect {
            return false;
        }
        let key =
            key_of(&self.keys, call.sock, call.tuple.destination, call.netns, thread(call.owner.as_ref()));
        let same = self.unexplained.get(key).into_iter().flatten().rev().copied();
        let Some(number) = same.into_iter().find(|number| self.at(*number).is_some_and(|p| is_of(p, call)))
        else {
            return false;
        };
        self.unexplained.remove(key, number);
        let index = (number - self.first) as usize;
        let Some(Some(pending)) = self.queue.get_mut(index) else { return false };
        pending.call = Some((call.time_ns, call.call, call.errno));
        if pending.connection.errno.is_none() {
            pending.connection.end = End::CallFailed { call: call.call };
            pending.connection.errno = Some(call.errno);
            pending.due_ns = call.time_ns.saturating_add(grace_ns);
            self.due.push(Reverse((pending.due_ns, number)));
            self.tidy();
        }
        true
    }

    fn at(&self, number: u64) -> Option<&Pending> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.queue.get(index)?.as_deref()
    }

    fn take(&mut self, number: u64) -> Option<Box<Pending>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.queue.get_mut(index)?.take()?;
        if pending.call.is_none() {
            self.unexplained.remove(key_of_pending(&self.keys, &pending), number);
        }
        self.count -= 1;
        Some(pending)
    }

    /// Forgets what was finished, and times that were changed, as far as they come first.
    fn tidy(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.first += 1;
        }
        while let Some(Reverse((due_ns, number))) = self.due.peek()
            && self.at(*number).is_none_or(|pending| pending.due_ns != *due_ns)
        {
            self.due.pop();
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
    let connection = &pending.connection;
    key_of(keys, pending.sock, connection.peer, connection.netns, thread(connection.owner.as_ref()))
}

fn key_of(keys: &Keys, sock: u64, peer: SocketAddr, netns: u32, tid: Option<u32>) -> Key {
    keys.of((sock, peer.port(), netns, tid))
}
