//! Who closed what, to be handed on: from the agent, which saw it, to those who ask it.

use std::net::SocketAddr;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::key;
use super::tracker::{Closer, Known, Tracker};
use crate::enrich::sockets::Family;
use crate::enrich::time_wait::TimeWait;

/// What a [`Tracker`] knows. Command lines of processes are in it, which can hold passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Since when closes are seen, `CLOCK_MONOTONIC` of this machine.
    pub since_ns: u64,
    pub closers: Vec<Closer>,
    pub sockets: Vec<Owned>,
}

/// A socket in TIME_WAIT whose owner is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Inode number.
    pub netns: u64,
    pub family: Family,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// When it came to TIME_WAIT, `CLOCK_MONOTONIC`.
    pub born_ns: u64,
    /// Index into [`Owners::closers`].
    pub closer: usize,
}

impl Tracker {
    /// What it knows of the sockets that were there when it last looked.
    pub fn owners(&self) -> Owners {
        let mut owners = Owners { since_ns: self.since_ns(), ..Owners::default() };
        let mut places: std::collections::HashMap<*const Closer, usize> = std::collections::HashMap::new();
        for (key, known) in self.known() {
            let Some(closer) = &known.closer else { continue };
            let place = *places.entry(Rc::as_ptr(closer)).or_insert_with(|| {
                owners.closers.push(Closer::clone(closer));
                owners.closers.len() - 1
            });
            let (netns, TimeWait { family, local, peer, .. }) = key::socket(key);
            let born_ns = known.born_ns;
            owners.sockets.push(Owned { netns, family, local, peer, born_ns, closer: place });
        }
        owners
    }
}

impl From<Owners> for Tracker {
    /// One that knows the same.
    fn from(owners: Owners) -> Self {
        let mut tracker = Self::new(owners.since_ns);
        let closers: Vec<Rc<Closer>> = owners.closers.into_iter().map(Rc::new).collect();
        for one in owners.sockets {
            let Owned { netns, family, local, peer, born_ns, closer } = one;
            let key = key::key(netns, &TimeWait { family, local, peer, timer_ms: 0 });
            if let (Some(key), Some(closer)) = (key, closers.get(closer)) {
                tracker.remember(key, Known { born_ns, closer: Some(Rc::clone(closer)) });
            }
        }
        tracker
    }
}
