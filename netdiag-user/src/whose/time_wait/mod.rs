//! Sockets in TIME_WAIT and whose they were.
//!
//! The kernel's list of them comes from sock_diag, in every network namespace; who closed each, from probe
//! `time_wait`, for those that were closed since it was attached. For older ones there is a likely owner at best.

mod closed;
mod count;
mod group;
mod key;
mod likely;
mod owners;
mod ports;
mod tracker;
mod verdict;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};

use super::{Held, Listeners, Side};
use crate::enrich::listeners::{Search, everywhere};
use crate::enrich::sockets::{self, SocketInfo, State, states};
use crate::enrich::time_wait::{self, TimeWait};
use crate::kernel::clock::now_ns;

pub use closed::WhoClosed;
pub use count::Counted;
pub use group::{By, Key, Row, group};
pub use likely::Candidates;
pub use owners::{Owned, Owners};
pub use ports::{PortUse, Room};
pub use tracker::{Closer, Missed, Tracker};
pub use verdict::{Level, Verdict, verdict};

/// How long the kernel keeps them (include/net/tcp.h, TCP_TIMEWAIT_LEN).
pub const LENGTH: Duration = Duration::from_secs(60);
/// Over which time the rate of new ones is taken. The kernel's timers tell the age of each.
pub const RATE_OVER: Duration = Duration::from_secs(10);

/// The kernel ends them a moment after their time, and what is told was looked up a moment ago.
const ENDS_WITHIN: Duration = Duration::from_millis(100);

/// Whose a socket was.
#[derive(Debug, Clone)]
pub enum Whose {
    /// Seen when it was closed.
    Exact(Rc<Closer>),
    /// Alone in having to do with its destination.
    Likely(Rc<Closer>),
    /// Not known; these have to do with its destination.
    Unknown(Rc<Vec<Rc<Closer>>>),
}

impl Whose {
    /// Process id, 0 where it is one of several, and name.
    pub fn closer(&self) -> Option<&Rc<Closer>> {
        match self {
            Self::Exact(closer) | Self::Likely(closer) => Some(closer),
            Self::Unknown(_) => None,
        }
    }

    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

/// A socket in TIME_WAIT.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub held: Held,
    pub age: Duration,
    pub whose: Whose,
    /// Closed while netdiag watched, and yet not known by whom.
    pub missed: bool,
}

/// All of them at one moment.
#[derive(Debug, Default)]
pub struct Look {
    pub sockets: Vec<Waiting>,
    /// Local ports by destination, the fullest first.
    pub ports: Vec<PortUse>,
    /// Not all namespaces were looked into.
    pub incomplete: bool,
    pub rooms: HashMap<u64, Room>,
}

/// TCP sockets of all namespaces, each with the time at which it was listed.
#[derive(Debug)]
pub struct Found {
    began_ns: u64,
    search: Search<(u64, Option<String>, (u64, SocketInfo))>,
}

impl Found {
    /// Those that are there.
    pub fn now() -> Self {
        let began_ns = now_ns();
        let search = everywhere(|netns| {
            let sockets = sockets::tcp(Some(netns), states::ALL, None)?;
            let now_ns = now_ns();
            Ok(sockets.into_iter().map(move |socket| (now_ns, socket)))
        });
        Self { began_ns, search }
    }

    /// Leaves out what was in TIME_WAIT then and, by its timer, is not any more.
    pub fn outlive(&mut self) {
        let now_ns = now_ns();
        self.search.found.retain(|(_, _, (listed_ns, socket))| {
            let left = Duration::from_millis(socket.timer_ms.into());
            let passed = Duration::from_nanos(now_ns.saturating_sub(*listed_ns));
            socket.state != State::TimeWait || left > passed + ENDS_WITHIN
        });
    }
}

impl Tracker {
    /// Notes who closed what is in TIME_WAIT now; `take` is the kernel side's word. To be called before that forgets.
    pub fn poll(&mut self, mut take: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>) {
        self.begin(now_ns());
        let search = everywhere(|netns| time_wait::list(Some(netns)).map(|found| [(found, now_ns())]));
        for (netns, _, (sockets, now_ns)) in &search.found {
            for socket in sockets {
                self.see(*netns, socket, *now_ns, &mut take);
            }
        }
        self.end();
    }

    /// The same, with all that can be told now.
    pub fn look(&mut self, take: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>) -> Look {
        self.look_at(Found::now(), take)
    }

    /// The same, of sockets that were found before.
    pub fn look_at(
        &mut self,
        found: Found,
        mut take: impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>,
    ) -> Look {
        self.begin(found.began_ns);
        let search = found.search;
        let listeners = Listeners::of(search.found.iter().map(|(netns, _, (_, socket))| (*netns, socket)));
        let mut names: HashMap<u64, Option<Rc<str>>> = HashMap::new();
        let (mut waiting, mut open) = (Vec::new(), Vec::new());
        for (netns, name, (now_ns, socket)) in search.found {
            let exact = (socket.state == State::TimeWait)
                .then(|| self.see(netns, &TimeWait::from(&socket), now_ns, &mut take));
            let netns_name = names.entry(netns).or_insert_with(|| name.map(Rc::from)).clone();
            let side = listeners.side(netns, &socket);
            let held = Held { netns, netns_name, socket, side, holders: Vec::new() };
            match exact {
                Some(exact) => waiting.push((held, exact, now_ns)),
                None => open.push(held),
            }
        }
        self.end();
        let rooms = Room::of(waiting.iter().map(|(held, ..)| held.netns).collect::<HashSet<u64>>());
        let ports = ports::uses(&rooms, waiting.iter().map(|(held, ..)| held), &open);
        let unowned = waiting.iter().filter(|(_, exact, _)| exact.is_none()).map(|(held, ..)| held);
        let candidates = Candidates::find(unowned, &open, &waiting);
        let sockets = waiting.into_iter().map(|(held, exact, now_ns)| {
            let age = age(held.socket.timer_ms);
            let missed = exact.is_none() && self.was_watched(age, now_ns);
            let whose = exact.map_or_else(|| candidates.whose(&held), Whose::Exact);
            Waiting { age, whose, missed, held }
        });
        Look { sockets: sockets.collect(), ports, incomplete: search.incomplete, rooms }
    }
}

impl Look {
    /// Keeps these sockets only, and what is told about their destinations.
    pub fn keep(&mut self, is_wanted: impl Fn(&Waiting) -> bool) {
        self.sockets.retain(is_wanted);
        let kept: HashSet<_> = self
            .sockets
            .iter()
            .filter(|one| one.held.side == Side::Outbound)
            .map(|one| (one.held.netns, one.held.socket.local.ip(), one.held.socket.peer))
            .collect();
        self.ports.retain(|one| kept.contains(&(one.netns, one.source, one.destination)));
    }

    /// Closed while netdiag watched, and yet not known by whom.
    pub fn missed(&self) -> u64 {
        self.sockets.iter().filter(|one| one.missed).count() as u64
    }
}

/// For how long a socket is in TIME_WAIT.
fn age(timer_ms: u32) -> Duration {
    LENGTH.saturating_sub(Duration::from_millis(timer_ms.into()))
}

/// The end that was connected to.
pub fn destination(held: &Held) -> std::net::SocketAddr {
    match held.side {
        Side::Inbound => held.socket.local,
        Side::Outbound | Side::Unconnected => held.socket.peer,
    }
}
