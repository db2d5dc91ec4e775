//! Sockets that their process has closed, one by one: in TIME_WAIT, and on the way there.

use std::collections::HashMap;
use std::rc::Rc;

use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};

use super::key::key;
use super::owners::{Owned, Owners};
use super::tracker::{Closer, Tracker};
use crate::enrich::listeners::everywhere;
use crate::enrich::sockets::{self, SocketInfo, State, states};
use crate::enrich::time_wait::TimeWait;
use crate::kernel::clock::now_ns;
use crate::probes::time_wait;
use crate::whose::Held;

const ON_THE_WAY: u32 = states::FIN_WAIT1 | states::FIN_WAIT2 | states::CLOSING;

/// What an agent knows, to be asked about single sockets.
#[derive(Debug)]
pub struct WhoClosed {
    tracker: Tracker,
    /// By ends and cookie.
    on_the_way: HashMap<(TimeWaitKey, u64), Rc<Closer>>,
}

impl From<Owners> for WhoClosed {
    fn from(mut owners: Owners) -> Self {
        let closers: Vec<Rc<Closer>> = owners.closers.iter().cloned().map(Rc::new).collect();
        let on_the_way = std::mem::take(&mut owners.on_the_way).into_iter();
        let on_the_way = on_the_way.filter_map(|Owned { netns, socket, closer }| {
            Some(((key(netns, &socket)?, socket.cookie), Rc::clone(closers.get(closer)?)))
        });
        Self { on_the_way: on_the_way.collect(), tracker: Tracker::from(owners) }
    }
}

impl WhoClosed {
    /// Whether a socket may be one that it knows of.
    pub fn may_know(held: &Held) -> bool {
        let state = held.socket.state;
        state == State::TimeWait || held.is_unowned() && is_on_the_way(state)
    }

    /// Who closed a socket.
    pub fn closer(&mut self, held: &Held) -> Option<Rc<Closer>> {
        let socket = TimeWait::from(&held.socket);
        if held.socket.state == State::TimeWait {
            return self.tracker.see(held.netns, &socket, now_ns(), &mut |_| None);
        }
        let known = Self::may_know(held).then(|| key(held.netns, &socket)).flatten();
        known.and_then(|key| self.on_the_way.get(&(key, socket.cookie)).cloned())
    }
}

fn is_on_the_way(state: State) -> bool {
    matches!(state, State::FinWait1 | State::FinWait2 | State::Closing)
}

impl Tracker {
    /// Who closed what is on the way to TIME_WAIT and belongs to no process any more, each with its namespace; `peek` is
    /// the kernel side's word, which it must not forget.
    pub(super) fn on_the_way(
        &mut self,
        mut peek: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>,
    ) -> Vec<(u64, SocketInfo, Rc<Closer>)> {
        let search = everywhere(|netns| sockets::tcp(Some(netns), ON_THE_WAY, None));
        let now_ns = now_ns();
        let orphans = search.found.into_iter().filter(|(_, _, socket)| socket.inode == 0);
        let known = orphans.filter_map(|(netns, _, socket)| {
            let owner = peek(&key(netns, &TimeWait::from(&socket))?)?;
            Some((netns, socket, self.closer(&time_wait::decode(&owner)?, now_ns)))
        });
        known.collect()
    }
}
