//! The whole way, wired: records of the kernel to explained connections. `run`, `watch` and the like drive it.

mod budget;
mod changed;
mod closed;
mod dropped_at;
mod drops;
mod explain;
mod floods;
mod hosts;
mod losses;
mod rules;
mod shed;
mod subject;
mod suspects;
mod translations;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};

use crate::diagnoses::{Diagnosis, Evidence, Finding};
use crate::enrich::cgroup_ids::CgroupIds;
use crate::enrich::changes::Changes;
use crate::enrich::containers::Containers;
use crate::enrich::facts::QueueSample;
use crate::enrich::firewall::Firewall;
use crate::enrich::gather::Gatherer;
use crate::enrich::{droppers, netns, process};
use crate::kernel::KernelError;
pub use crate::kernel::clock::now_ns;
use crate::kernel::counters::Counts;
use crate::kernel::loader::{Options, Session};
use crate::kernel::reasons::Reasons;
use crate::kernel::registry::Probe;
use crate::memory;
use crate::probes::{self, Call, CallFailed, Event, Wire};
use crate::track::{Connection, Limits, Tracker};
use budget::Budget;
use closed::Closed;
use floods::Floods;
use hosts::Hosts;
pub use shed::{Shed, Spent};
pub use subject::{matches, may_match};
use translations::Translations;

/// A connection that ended, and what is thought of it.
#[derive(Debug)]
pub struct Explained {
    pub evidence: Evidence,
    pub diagnosis: Option<(&'static Diagnosis, Finding)>,
}

impl Explained {
    /// Whether something went wrong, explained or not.
    pub fn failed(&self) -> bool {
        let connection = &self.evidence.connection;
        self.diagnosis.is_some() || connection.errno.is_some() || connection.died_connecting()
    }
}

/// Records taken at a time: finishing what is due must not wait for the end of a flood.
const BATCH: usize = 4096;
/// Connections are told for so long at a time: the ring buffer must not wait for the end of a burst of failures.
const TELL_NS: u64 = 5_000_000;

/// Whether a connection may still be one that the user asked about.
struct Prefilter(Box<dyn Fn(&Connection) -> bool>);

impl std::fmt::Debug for Prefilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prefilter")
    }
}

/// Who looks at the records as they pass.
struct Observer(Box<Observe>);

type Observe = dyn FnMut(&Event, &Reasons, &Tracker);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    session: Session,
    ring: Ring,
    tracker: Tracker,
    gatherer: Gatherer,
    firewall: Firewall,
    hosts: Hosts,
    samples: HashMap<u64, Vec<QueueSample>>,
    sampled: VecDeque<u64>,
    floods: Floods,
    closed: Closed,
    /// When tc began to watch a namespace.
    wire_since: HashMap<u64, u64>,
    /// Namespaces that tc watches only because of a suspect connection, and when that was.
    just_in_time: HashMap<u64, u64>,
    /// Processes are followed.
    follows: bool,
    /// The kernel's memory may be read on demand.
    peeks: bool,
    filter: Option<Prefilter>,
    observer: Option<Observer>,
    searches: Budget,
    namings: Budget,
    /// The part of `searches` that went into samples of queues.
    samplings_ns: u64,
    translations: Translations,
    shed: Shed,
    comparisons: Budget,
    lost: VecDeque<(u64, u64)>,
    /// How many were lost when it was last looked, and when that was.
    lost_now: Option<(u64, u64)>,
    containers: Containers,
    /// Also of groups that are gone.
    cgroups: CgroupIds,
    /// Rules, routes and links that were changed meanwhile.
    changes: Changes,
    /// Drops of XDP programs are told.
    asks_about_xdp: bool,
    /// When it was last looked whether there are any.
    xdp_looked_ns: u64,
    missing: Vec<Probe>,
    undecoded: u64,
}

struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.0.as_raw_fd())
    }
}

impl Engine {
    /// Loads and attaches.
    pub fn start(options: Options) -> Result<Self, KernelError> {
        let (session, ring) = Session::start(options)?;
        memory::give_back();
        let missing = session.missing_probes().copied().collect();
        let ring = Ring(ring);
        let mut changes = Changes::new(changed::epoll(ring.0.as_raw_fd()));
        if let Some(own) = netns::current_inode() {
            changes.watch(own, now_ns());
        }
        let tracker = Tracker::new(Limits::default(), session.reasons.clone());
        let mut engine = Self {
            session,
            ring,
            tracker,
            gatherer: if options.follow_processes { Gatherer::generous() } else { Gatherer::default() },
            firewall: Firewall::default(),
            hosts: Hosts::default(),
            samples: HashMap::new(),
            sampled: VecDeque::new(),
            floods: Floods::default(),
            closed: Closed::default(),
            wire_since: HashMap::new(),
            just_in_time: HashMap::new(),
            follows: options.follow_processes,
            peeks: !options.no_peek,
            filter: None,
            observer: None,
            searches: Budget::default(),
            namings: Budget::default(),
            samplings_ns: 0,
            translations: Translations::default(),
            shed: Shed::default(),
            comparisons: Budget::default(),
            lost: VecDeque::new(),
            lost_now: None,
            containers: Containers::default(),
            cgroups: CgroupIds::of_now(),
            changes,
            asks_about_xdp: false,
            xdp_looked_ns: 0,
            missing,
            undecoded: 0,
        };
        engine.look_for_xdp();
        Ok(engine)
    }

    /// XDP programs drop without a reason: only where there are any are such drops told, by the function.
    fn look_for_xdp(&mut self) {
        if !self.asks_about_xdp && droppers::is_xdp_loaded() {
            let ranges = self.tracker.code_of(droppers::XDP_FUNCTIONS);
            self.asks_about_xdp = self.session.ask_about(&ranges).is_ok();
        }
    }

    /// From now on has nftables trace packets whose rule the kernel does not name otherwise. Adds tables to nftables,
    /// which go when this does.
    pub fn trace_rules(&mut self) {
        self.firewall.trace();
    }

    /// Explains only connections for which `may` says yes.
    pub fn only(&mut self, may: impl Fn(&Connection) -> bool + 'static) {
        self.filter = Some(Prefilter(Box::new(may)));
    }

    /// Shows every record to `observer` before it is tracked.
    pub fn observe(&mut self, observer: impl FnMut(&Event, &Reasons, &Tracker) + 'static) {
        self.observer = Some(Observer(Box::new(observer)));
    }

    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Readable when there are records, or something was changed.
    pub fn fd(&self) -> RawFd {
        self.changes.epoll().map_or(self.ring.0.as_raw_fd(), |epoll| epoll.0.as_raw_fd())
    }

    /// How often changes of rules, routes and links were lost.
    pub fn changes_lost(&self) -> u64 {
        self.changes.lost()
    }

    /// When [`Engine::poll`] should be called at the latest, `CLOCK_MONOTONIC` nanoseconds.
    pub fn next_due_ns(&self) -> Option<u64> {
        [self.tracker.next_due_ns(), self.floods.next_due_ns()].into_iter().flatten().min()
    }

    /// Records that this build could not decode.
    pub fn undecoded(&self) -> u64 {
        self.undecoded
    }

    pub fn counters(&self) -> Result<Counts, KernelError> {
        self.session.counters()
    }

    /// This process' id as the kernel side sees it: that of the initial pid namespace. Inside a container's
    /// pid namespace nothing says it, so a bind() that must fail is made, and its record read.
    pub fn own_pid(&mut self) -> Option<u32> {
        if process::sees_initial_pids() {
            return Some(std::process::id());
        }
        // RFC 5737: an address that no host has.
        let nowhere = Ipv4Addr::new(192, 0, 2, 1);
        let failed = UdpSocket::bind((nowhere, 0)).is_err();
        while failed && let Some(event) = self.next_event() {
            match event {
                Event::CallFailed(CallFailed { tuple, call: Call::Bind, owner: Some(owner), .. })
                    if tuple.source.ip() == nowhere && owner.comm == "netdiag" =>
                {
                    return Some(owner.pid);
                }
                other => self.tracker.add(other),
            }
        }
        None
    }

    /// Lets tc watch a namespace's interfaces from now on.
    pub fn watch_wire(&mut self, netns: u64) -> Vec<String> {
        if self.wire_since.contains_key(&netns) {
            return Vec::new();
        }
        if self.follows {
            self.firewall.read_counters(netns, now_ns());
        }
        let outcome = self.session.watch_wire(netns);
        if !outcome.interfaces.is_empty() {
            self.wire_since.insert(netns, now_ns());
        }
        outcome.failures
    }

    /// Takes all records that are there, and tells of the connections that are due, one by one: together they may
    /// be thousands.
    ///
    /// # Errors
    /// Those of `tell`, with which it ends.
    pub fn poll<E>(&mut self, tell: impl FnMut(Explained) -> Result<(), E>) -> Result<(), E> {
        self.take_records();
        self.tell_due(now_ns(), tell)
    }

    /// As [`Engine::poll`], and tells of every connection with the evidence there is.
    ///
    /// # Errors
    /// As [`Engine::poll`].
    pub fn flush<E>(&mut self, tell: impl FnMut(Explained) -> Result<(), E>) -> Result<(), E> {
        self.take_records();
        self.tell_due(u64::MAX, tell)
    }

    fn take_records(&mut self) {
        for netns in self.changes.poll(now_ns()) {
            self.leave_soon(netns);
        }
        for _ in 0..BATCH {
            let Some(mut event) = self.next_event() else { break };
            match &mut event {
                Event::Suspect(suspect) => self.suspect(suspect),
                Event::Connection(end) => self.closed.note(end),
                Event::SynAckAgain(again) => self.syn_ack_again(again),
                Event::SocketError(error) => self.find_owner(error),
                Event::Drop(drop) => {
                    self.name_rule(drop);
                }
                Event::Wire(wire) => self.remember(wire),
                Event::Exec(exec) => {
                    self.watch_wire(exec.netns.into());
                    self.changes.watch(exec.netns.into(), exec.time_ns);
                }
                _ => {}
            }
            if let Some(observer) = &mut self.observer {
                observer.0(&event, &self.session.reasons, &self.tracker);
            }
            self.tracker.add(event);
        }
        let now = now_ns();
        self.note_lost(now);
        self.retire_wire(now);
    }

    fn tell_due<E>(&mut self, now: u64, mut tell: impl FnMut(Explained) -> Result<(), E>) -> Result<(), E> {
        let mut due = self.tracker.take_due(now);
        let mut taken_ns = now_ns();
        while let Some(finished) = self.next_finished(&mut due) {
            if now_ns().saturating_sub(taken_ns) >= TELL_NS {
                self.take_records();
                taken_ns = now_ns();
            }
            if let Some(explained) = self.explain(finished) {
                tell(explained)?;
            }
        }
        for explained in self.flooded(now) {
            tell(explained)?;
        }
        Ok(())
    }

    /// Whether a connection that was asked for is still open, or on its way to TIME_WAIT.
    pub fn has_open_asked(&self) -> bool {
        self.session.has_open_asked()
    }

    /// The next record that can be decoded; one that cannot is counted.
    fn next_event(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.0.next()?;
            match probes::decode(&item) {
                Ok(event) => return Some(event),
                Err(_) => self.undecoded += 1,
            }
        }
    }

    /// How a host answers. Where several namespaces have an interface of that index, it is not known whose host.
    fn remember(&mut self, wire: &Wire) {
        let named = self.session.wire().interface(0, wire.packet.ifindex);
        let netns = match wire.packet.netns {
            0 => named.and_then(|(inode, _)| u32::try_from(inode).ok()),
            known => Some(known),
        };
        if let Some(netns) = netns {
            self.hosts.add(netns, wire);
        }
    }
}
