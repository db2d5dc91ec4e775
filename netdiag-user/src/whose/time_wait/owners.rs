//! Who closed what, to be handed on: from the agent, which saw it, to those who ask it.

use std::collections::HashMap;
use std::rc::Rc;

use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};
use serde::{Deserialize, Serialize};

use super::key;
use super::tracker::{Closer, Known, Tracker};
use crate::enrich::time_wait::TimeWait;

/// What a [`Tracker`] knows. Command lines of processes are in it, which can hold passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Since when closes are seen, `CLOCK_MONOTONIC` of this machine.
    pub since_ns: u64,
    pub closers: Vec<Closer>,
    pub sockets: Vec<Owned>,
    /// The same of sockets that no process holds and that are not in TIME_WAIT yet.
    #[serde(default)]
    pub on_the_way: Vec<Owned>,
}

/// A socket in TIME_WAIT whose owner is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Inode number.
    pub netns: u64,
    #[serde(flatten)]
    pub socket: TimeWait,
    /// Index into [`Owners::closers`].
    pub closer: usize,
}

impl Tracker {
    /// What it knows of the sockets that were there when it last looked, and of those that come next; see
    /// [`Tracker::on_the_way`].
    pub fn owners(&mut self, peek: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>) -> Owners {
        let mut closers = Numbered::default();
        let on_the_way = self.on_the_way(peek).into_iter().map(|(netns, socket, closer)| Owned {
            netns,
            socket: TimeWait::from(&socket),
            closer: closers.number(&closer),
        });
        let on_the_way = on_the_way.collect();
        let sockets = self.known().iter().filter_map(|(key, known)| {
            let closer = closers.number(known.closer.as_ref()?);
            let (netns, socket) = key::socket(key, known.cookie)?;
            Some(Owned { netns, socket, closer })
        });
        let sockets = sockets.collect();
        Owners { since_ns: self.since_ns(), sockets, on_the_way, closers: closers.all }
    }
}

/// Each closer once.
#[derive(Debug, Default)]
struct Numbered {
    all: Vec<Closer>,
    numbers: HashMap<*const Closer, usize>,
}

impl Numbered {
    fn number(&mut self, closer: &Rc<Closer>) -> usize {
        *self.numbers.entry(Rc::as_ptr(closer)).or_insert_with(|| {
            self.all.push(Closer::clone(closer));
            self.all.len() - 1
        })
    }
}

impl From<Owners> for Tracker {
    /// One that knows the same.
    fn from(owners: Owners) -> Self {
        let mut tracker = Self::new(owners.since_ns);
        let closers: Vec<Rc<Closer>> = owners.closers.into_iter().map(Rc::new).collect();
        for Owned { netns, socket, closer } in owners.sockets {
            if let (Some(key), Some(closer)) = (key::key(netns, &socket), closers.get(closer)) {
                tracker.remember(key, Known { cookie: socket.cookie, closer: Some(Rc::clone(closer)) });
            }
        }
        tracker
    }
}
