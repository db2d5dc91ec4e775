//! Remembers who closed each socket for as long as that is in TIME_WAIT.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use smol_str::SmolStr;

use super::age;
use crate::enrich::cgroup_ids::CgroupIds;
use crate::enrich::process::{self, Process};
use crate::enrich::sockets::SocketInfo;
use crate::probes::{Closed, time_wait};

/// Sockets beyond this number are not remembered, and count as missed.
const MAX_SOCKETS: usize = 1 << 18;
/// The same socket shows a begin that differs by less: the kernel's ticks, and the time that a list takes.
const SAME_NS: u64 = 250_000_000;
/// A retransmitted FIN begins the minute anew; one that has come later than this is perhaps another connection.
const PERHAPS_SAME_NS: u64 = 1_500_000_000;
/// What was closed just before the program was attached comes to TIME_WAIT a moment later.
const START_MARGIN: Duration = Duration::from_millis(500);

/// The process that closed a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closer {
    /// Thread group id; 0 where it is one of several with that name.
    pub pid: u32,
    /// Name of the process, or, where it had ended before it could be looked at, of the thread.
    pub comm: SmolStr,
    pub uid: u32,
    /// What `/proc` said while it lived.
    pub process: Option<Process>,
    /// Path of its control group, where only that is left.
    pub cgroup: Option<String>,
    /// A thread of the kernel: for the kernel itself, or for a process that is not known.
    pub by_kernel: bool,
}

impl Closer {
    /// From a process that lives.
    pub fn living(process: &Process) -> Self {
        Self {
            pid: process.pid,
            comm: process.comm.as_str().into(),
            uid: process.uid,
            process: Some(process.clone()),
            cgroup: None,
            by_kernel: false,
        }
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        // Numbers that `/proc` does not have say nothing.
        self.pid != 0
            && process::sees_initial_pids()
            && !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Whether it is known in which container it is or was, if in any.
    pub fn has_home(&self) -> bool {
        self.process.is_some()
    }

    pub fn container(&self) -> Option<&str> {
        self.process.as_ref()?.container.as_deref()
    }

    pub fn unit(&self) -> Option<&str> {
        self.process.as_ref()?.unit.as_deref()
    }
}

type Key = [u8; 48];

#[derive(Debug, Clone)]
struct Known {
    born_ns: u64,
    closer: Option<Rc<Closer>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    since_ns: u64,
    known: HashMap<Key, Known>,
    /// What is still there, as it is found.
    next: HashMap<Key, Known>,
    closers: HashMap<u32, Rc<Closer>>,
    cgroups: CgroupIds,
}

impl Tracker {
    /// `since_ns`: when the kernel side began to watch, `CLOCK_MONOTONIC`.
    pub fn new(since_ns: u64) -> Self {
        Self {
            since_ns,
            known: HashMap::new(),
            next: HashMap::new(),
            closers: HashMap::new(),
            cgroups: CgroupIds::of_now(),
        }
    }

    /// Whether something of this age was closed after the kernel side began to watch.
    pub(super) fn was_watched(&self, age: Duration, now_ns: u64) -> bool {
        let watched = Duration::from_nanos(now_ns.saturating_sub(self.since_ns));
        age + START_MARGIN < watched
    }

    pub(super) fn begin(&mut self) {
        self.next.clear();
    }

    /// Who closed this socket in TIME_WAIT, if that was seen.
    pub(super) fn see(
        &mut self,
        netns: u64,
        socket: &SocketInfo,
        now_ns: u64,
        take: &mut impl FnMut(u64, &SocketInfo) -> Option<Closed>,
    ) -> Option<Rc<Closer>> {
        let key = time_wait::key(netns, socket)?;
        let born_ns = now_ns.saturating_sub(age(socket).as_nanos() as u64);
        let before = self.known.remove(&key);
        let apart = |known: &Known| known.born_ns.abs_diff(born_ns);
        let closer = match before {
            Some(known) if known.closer.is_some() && apart(&known) < SAME_NS => known.closer,
            before => match take(netns, socket) {
                Some(closed) => Some(self.closer(&closed)),
                None => before.filter(|known| apart(known) < PERHAPS_SAME_NS).and_then(|known| known.closer),
            },
        };
        if self.next.len() < MAX_SOCKETS {
            self.next.insert(key, Known { born_ns, closer: closer.clone() });
        }
        closer
    }

    pub(super) fn end(&mut self) {
        std::mem::swap(&mut self.known, &mut self.next);
        self.next = HashMap::new();
        // One that nothing refers to any more may give its number to another process.
        self.closers.retain(|_, closer| Rc::strong_count(closer) > 1);
    }

    fn closer(&mut self, closed: &Closed) -> Rc<Closer> {
        let owner = &closed.owner;
        if let Some(known) = self.closers.get(&owner.pid) {
            return Rc::clone(known);
        }
        // Another thread's name tells nothing; another process with that number is unlikely within a minute.
        let process = process::of_owner(owner);
        let cgroup = process.is_none().then(|| self.cgroups.path(owner.cgroup)).flatten();
        let closer = Rc::new(Closer {
            pid: owner.pid,
            comm: process.as_ref().map_or_else(|| owner.comm.clone(), |process| process.comm.as_str().into()),
            uid: owner.uid,
            process: process.or_else(|| cgroup.as_deref().map(|path| process::ended(owner, path))),
            cgroup,
            by_kernel: closed.by_kernel,
        });
        self.closers.insert(owner.pid, Rc::clone(&closer));
        closer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::sockets::{Family, Protocol, State};
    use crate::probes::Owner;

    const SECOND: u64 = 1_000_000_000;

    fn socket(port: u16, left_ms: u32) -> SocketInfo {
        let local = std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let timer_ms = left_ms;
        SocketInfo { local, timer_ms, ..SocketInfo::new(Family::Inet, Protocol::Tcp, State::TimeWait) }
    }

    fn closed(pid: u32) -> Closed {
        // No process has this number (PID_MAX_LIMIT is 4,194,304).
        let pid = pid + 5_000_000;
        let owner = Owner { pid, tid: pid, uid: 0, cgroup: 0, comm: "gone".into() };
        Closed { time_ns: 0, owner, by_kernel: false }
    }

    fn look(
        tracker: &mut Tracker,
        now_s: u64,
        socket: &SocketInfo,
        mut kernel: Option<Closed>,
    ) -> Option<u32> {
        tracker.begin();
        let found = tracker.see(1, socket, now_s * SECOND, &mut |_, _| kernel.take());
        tracker.end();
        found.map(|closer| closer.pid - 5_000_000)
    }

    #[test]
    fn is_remembered_while_it_waits() {
        let mut tracker = Tracker::new(0);
        assert_eq!(look(&mut tracker, 100, &socket(1, 60_000), Some(closed(7))), Some(7));
        assert_eq!(look(&mut tracker, 101, &socket(1, 59_000), None), Some(7));
        // The FIN came once more, and the minute began anew.
        assert_eq!(look(&mut tracker, 102, &socket(1, 59_300), None), Some(7));
        assert_eq!(look(&mut tracker, 103, &socket(2, 59_000), None), None);
        // It was gone for a look.
        assert_eq!(look(&mut tracker, 104, &socket(1, 57_000), None), None);
    }

    #[test]
    fn the_same_ends_may_belong_to_another_later() {
        let mut tracker = Tracker::new(0);
        assert_eq!(look(&mut tracker, 100, &socket(1, 60_000), Some(closed(7))), Some(7));
        assert_eq!(look(&mut tracker, 101, &socket(1, 59_900), Some(closed(8))), Some(8));
        // The second owner was missed: the first is not named in its place.
        assert_eq!(look(&mut tracker, 111, &socket(1, 59_900), None), None);
    }

    #[test]
    fn what_was_closed_before_is_not_missed() {
        let tracker = Tracker::new(100 * SECOND);
        assert!(!tracker.was_watched(Duration::from_secs(5), 105 * SECOND));
        assert!(!tracker.was_watched(Duration::from_millis(4800), 105 * SECOND));
        assert!(tracker.was_watched(Duration::from_millis(4000), 105 * SECOND));
    }
}
