//! Remembers who closed each socket for as long as that is in TIME_WAIT.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::age;
use super::key::key;
use crate::enrich::cgroup_ids::CgroupIds;
use crate::enrich::process::{self, Process};
use crate::enrich::time_wait::TimeWait;
use crate::probes::{Closed, time_wait};

/// Sockets beyond this number are not remembered, and count as missed.
const MAX_SOCKETS: usize = 1 << 18;
/// What was closed just before the program was attached comes to TIME_WAIT a moment later.
const START_MARGIN: Duration = Duration::from_millis(500);

/// The process that closed a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What is known of a socket.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The connection's, which stays in TIME_WAIT; the age does not tell: a retransmitted FIN begins the minute anew.
    pub(super) cookie: u64,
    pub(super) closer: Option<Rc<Closer>>,
}

/// Sockets whose owner cannot be told although they were closed while the kernel side watched, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// The kernel side had no owner, or had forgotten it.
    pub not_noted: u64,
    /// There were more sockets than can be remembered.
    pub beyond: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    since_ns: u64,
    max: usize,
    /// When it looked, and when it did so before.
    looks_ns: [u64; 2],
    known: HashMap<TimeWaitKey, Known>,
    /// What is still there, as it is found.
    next: HashMap<TimeWaitKey, Known>,
    /// By process id and the name of the thread that closed: such ids are used again.
    closers: HashMap<(u32, SmolStr), Rc<Closer>>,
    cgroups: CgroupIds,
    missed: Missed,
}

impl Tracker {
    /// `since_ns`: when the kernel side began to watch, `CLOCK_MONOTONIC`.
    pub fn new(since_ns: u64) -> Self {
        Self::bounded(since_ns, MAX_SOCKETS)
    }

    /// One that remembers so many sockets.
    pub fn bounded(since_ns: u64, max: usize) -> Self {
        Self {
            since_ns,
            max,
            looks_ns: [since_ns; 2],
            known: HashMap::new(),
            next: HashMap::new(),
            closers: HashMap::new(),
            cgroups: CgroupIds::of_now(),
            missed: Missed::default(),
        }
    }

    /// Since when the kernel side watches.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    pub fn missed(&self) -> Missed {
        self.missed
    }

    pub(super) fn known(&self) -> &HashMap<TimeWaitKey, Known> {
        &self.known
    }

    pub(super) fn remember(&mut self, key: TimeWaitKey, known: Known) {
        if self.known.len() < self.max {
            self.known.insert(key, known);
        }
    }

    /// Whether something of this age was closed after the kernel side began to watch.
    pub(super) fn was_watched(&self, age: Duration, now_ns: u64) -> bool {
        let watched = Duration::from_nanos(now_ns.saturating_sub(self.since_ns));
        age + START_MARGIN < watched
    }

    /// A look begins at that time.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.looks_ns = [now_ns, self.looks_ns[0]];
        self.next.clear();
    }

    /// Who closed this socket in TIME_WAIT, if that was seen.
    pub(super) fn see(
        &mut self,
        netns: u64,
        socket: &TimeWait,
        now_ns: u64,
        take: &mut impl FnMut(&TimeWaitKey) -> Option<TimeWaitOwner>,
    ) -> Option<Rc<Closer>> {
        let key = key(netns, socket)?;
        let age = age(socket.timer_ms);
        let before = self.known.remove(&key).filter(|known| known.cookie == socket.cookie);
        let is_new = before.is_none() && now_ns.saturating_sub(age.as_nanos() as u64) > self.looks_ns[1];
        let closer = match before.and_then(|known| known.closer) {
            Some(closer) => Some(closer),
            None => {
                let closed = take(&key).as_ref().and_then(time_wait::decode);
                closed.map(|closed| self.closer(&closed, now_ns))
            }
        };
        if closer.is_none() && is_new && self.was_watched(age, now_ns) {
            self.missed.not_noted += 1;
        }
        if self.next.len() < self.max {
            self.next.insert(key, Known { cookie: socket.cookie, closer: closer.clone() });
        } else if is_new {
            self.missed.beyond += 1;
        }
        closer
    }

    pub(super) fn end(&mut self) {
        std::mem::swap(&mut self.known, &mut self.next);
        self.next = HashMap::new();
        // One that nothing refers to any more may give its number to another process.
        self.closers.retain(|_, closer| Rc::strong_count(closer) > 1);
    }

    pub(super) fn closer(&mut self, closed: &Closed, now_ns: u64) -> Rc<Closer> {
        let owner = &closed.owner;
        let who = (owner.pid, owner.comm.clone());
        if let Some(known) = self.closers.get(&who) {
            return Rc::clone(known);
        }
        let process = process::of_owner(owner).filter(|_| was_there(closed, now_ns));
        let cgroup = process.is_none().then(|| self.cgroups.path(owner.cgroup)).flatten();
        let closer = Rc::new(Closer {
            pid: owner.pid,
            comm: process.as_ref().map_or_else(|| owner.comm.clone(), |process| process.comm.as_str().into()),
            uid: owner.uid,
            process: process.or_else(|| cgroup.as_deref().map(|path| process::ended(owner, path))),
            cgroup,
            by_kernel: closed.by_kernel,
        });
        self.closers.insert(who, Rc::clone(&closer));
        closer
    }
}

/// Whether the process that has this number now was there when the socket was closed.
fn was_there(closed: &Closed, now_ns: u64) -> bool {
    /// A process' start is told in hundredths of a second.
    const MARGIN: SignedDuration = SignedDuration::from_millis(20);
    let since_close = SignedDuration::from_nanos(now_ns.saturating_sub(closed.time_ns).cast_signed());
    process::started(closed.owner.pid)
        .is_some_and(|started| Timestamp::now().duration_since(started) + MARGIN >= since_close)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use netdiag_ebpf::records::Owner;

    use super::*;
    use crate::enrich::sockets::Family;
    use crate::whose::time_wait::Owners;

    const SECOND: u64 = 1_000_000_000;

    /// In TIME_WAIT for so many seconds.
    fn socket(port: u16, cookie: u64, age_s: u32) -> TimeWait {
        let local = SocketAddr::from(([10, 0, 0, 1], port));
        let peer = SocketAddr::from(([10, 0, 0, 2], 80));
        TimeWait { family: Family::Inet, local, peer, cookie, timer_ms: 60_000 - 1_000 * age_s }
    }

    fn closed(pid: u32) -> TimeWaitOwner {
        // No process has this number (PID_MAX_LIMIT is 4,194,304).
        let mut owner = Owner { tgid: pid + 5_000_000, ..Owner::default() };
        owner.comm[..4].copy_from_slice(b"gone");
        TimeWaitOwner { owner, ..TimeWaitOwner::default() }
    }

    fn look(
        tracker: &mut Tracker,
        now_s: u64,
        socket: &TimeWait,
        mut kernel: Option<TimeWaitOwner>,
    ) -> Option<u32> {
        let now_ns = now_s * SECOND;
        tracker.begin(now_ns);
        let found = tracker.see(1, socket, now_ns, &mut |_| kernel.take());
        tracker.end();
        found.map(|closer| closer.pid - 5_000_000)
    }

    #[test]
    fn is_remembered_while_it_waits() {
        let mut tracker = Tracker::new(0);
        assert_eq!(look(&mut tracker, 100, &socket(1, 11, 0), Some(closed(7))), Some(7));
        assert_eq!(look(&mut tracker, 130, &socket(1, 11, 30), None), Some(7));
        // The FIN came once more, and the minute began anew.
        assert_eq!(look(&mut tracker, 131, &socket(1, 11, 0), None), Some(7));
        assert_eq!(look(&mut tracker, 132, &socket(2, 12, 0), None), None);
        // It was gone for a look.
        assert_eq!(look(&mut tracker, 133, &socket(1, 11, 2), None), None);
    }

    #[test]
    fn the_same_ends_may_belong_to_another_later() {
        let mut tracker = Tracker::new(0);
        assert_eq!(look(&mut tracker, 100, &socket(1, 11, 0), Some(closed(7))), Some(7));
        assert_eq!(look(&mut tracker, 101, &socket(1, 12, 0), Some(closed(8))), Some(8));
        // The third owner was missed: the second is not named in its place.
        assert_eq!(look(&mut tracker, 102, &socket(1, 13, 0), None), None);
    }

    #[test]
    fn what_was_closed_before_is_not_missed() {
        let tracker = Tracker::new(100 * SECOND);
        assert!(!tracker.was_watched(Duration::from_secs(5), 105 * SECOND));
        assert!(!tracker.was_watched(Duration::from_millis(4800), 105 * SECOND));
        assert!(tracker.was_watched(Duration::from_millis(4000), 105 * SECOND));
    }

    #[test]
    fn each_miss_counts_once() {
        let mut tracker = Tracker::bounded(100 * SECOND, 1);
        // Closed before, then unseen, then the same once more.
        look(&mut tracker, 101, &socket(1, 11, 10), None);
        assert_eq!(tracker.missed(), Missed::default());
        look(&mut tracker, 110, &socket(2, 12, 3), None);
        look(&mut tracker, 112, &socket(2, 12, 5), None);
        assert_eq!(tracker.missed(), Missed { not_noted: 1, beyond: 0 });
        // Two at once, with room for one.
        for (now_s, age_s) in [(120, 2), (125, 7)] {
            tracker.begin(now_s * SECOND);
            for port in [3, 4] {
                let socket = socket(port, port.into(), age_s);
                tracker.see(1, &socket, now_s * SECOND, &mut |_| Some(closed(7)));
            }
            tracker.end();
        }
        assert_eq!(tracker.missed(), Missed { not_noted: 1, beyond: 1 });
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let own = std::process::id();
        let owner = |closed_ns| Closed { time_ns: closed_ns, owner: owner_of(own), by_kernel: false };
        let now_ns = crate::kernel::clock::now_ns();
        assert!(was_there(&owner(now_ns), now_ns));
        // A close ten years after boot, seen when this process was not there yet.
        let later = now_ns + 315_360_000 * SECOND;
        assert!(!was_there(&owner(now_ns), later));
    }

    fn owner_of(pid: u32) -> crate::probes::Owner {
        crate::probes::Owner { pid, tid: pid, uid: 0, cgroup: 0, comm: "x".into() }
    }

    #[test]
    fn what_is_known_can_be_handed_on() {
        let mut tracker = Tracker::new(100);
        tracker.begin(100 * SECOND);
        for (port, pid) in [(1, 7), (2, 8), (3, 7)] {
            tracker.see(1, &socket(port, port.into(), 0), 100 * SECOND, &mut |_| Some(closed(pid)));
        }
        tracker.see(1, &socket(4, 4, 0), 100 * SECOND, &mut |_| None);
        tracker.end();
        let owners = tracker.owners(|_| None);
        assert_eq!((owners.closers.len(), owners.sockets.len(), owners.since_ns), (2, 3, 100));
        let text = serde_json::to_string(&owners).unwrap();
        let mut other = Tracker::from(serde_json::from_str::<Owners>(&text).unwrap());
        assert_eq!(look(&mut other, 101, &socket(3, 3, 1), None), Some(7));
        assert_eq!(other.since_ns(), 100);
    }
}
