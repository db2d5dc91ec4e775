//! The kernel side of TIME_WAIT's owners.

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
use netdiag_ebpf::records::{TIME_WAIT_OWNERS, TimeWaitKey, TimeWaitOwner};

use super::KernelError;
use super::attach;
use super::clock::now_ns;
use super::in_map::InMap;
use super::loader::{self, Loaded, Options, take_map};
use super::registry::{PROBES, Use};

/// Maps of programs that are not attached here. A ring buffer has at least a page, the rest one entry.
const SMALL: &[(&str, u32)] = &[
    ("EVENTS", 4096),
    ("SOCKETS", 1),
    ("SOCKET_IDS", 1),
    ("TIMELINES", 1),
    ("LISTENING", 1),
    ("LAST_LISTENERS", 1),
    ("LIMITS", 1),
    ("DROPPED_SYNS", 1),
    ("TRACKED", 1),
    ("INTEREST", 1),
    ("UDP_OWNERS", 1),
    ("WATCHED_NETNS", 1),
];

/// What the kernel side has noted of who closes first.
pub struct Closers {
    /// Held where nobody else does: dropping it detaches the program.
    _ebpf: Option<Ebpf>,
    owners: BpfHashMap<MapData, InMap<TimeWaitKey>, InMap<TimeWaitOwner>>,
    closes: PerCpuArray<MapData, u64>,
    since_ns: u64,
}

impl std::fmt::Debug for Closers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closers").field("since_ns", &self.since_ns).finish_non_exhaustive()
    }
}

impl Closers {
    /// How many the kernel remembers at least, since they were last taken.
    pub const ROOM: u32 = TIME_WAIT_OWNERS;

    /// Loads and attaches the program for it, and nothing else of the object.
    pub fn start() -> Result<Self, KernelError> {
        let Loaded { mut ebpf, ids, changed, .. } = loader::load(Options::default(), SMALL)?;
        let mut closers = Self::of(&mut ebpf)?;
        for probe in PROBES.iter().filter(|probe| probe.when == Use::TimeWait) {
            let state = attach::attach(&mut ebpf, probe, &probe.tried(None, false), &ids, &changed);
            if state.attached.is_none() {
                return Err(KernelError::RequiredProbe { probe: probe.name, why: state.failures_text() });
            }
        }
        closers.since_ns = now_ns();
        closers._ebpf = Some(ebpf);
        Ok(closers)
    }

    /// The maps of an object whose programs do it.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let owners = BpfHashMap::try_from(take_map(ebpf, "TIME_WAIT_OWNERS")?)?;
        let closes = PerCpuArray::try_from(take_map(ebpf, "TIME_WAIT_CLOSES")?)?;
        Ok(Self { _ebpf: None, owners, closes, since_ns: now_ns() })
    }

    /// Since when closes are seen, `CLOCK_MONOTONIC`.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// How many connections were closed here first since then.
    pub fn closes(&self) -> u64 {
        self.closes.get(&0, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
    }

    /// Who closed the connection with these ends.
    pub fn peek(&self, key: &TimeWaitKey) -> Option<TimeWaitOwner> {
        self.owners.get(&InMap(*key), 0).ok().map(|InMap(owner)| owner)
    }

    /// The same; the kernel forgets it.
    pub fn take(&mut self, key: &TimeWaitKey) -> Option<TimeWaitOwner> {
        let key = InMap(*key);
        let InMap(owner) = self.owners.get(&key, 0).ok()?;
        // The LRU map forgets it otherwise.
        let _ = self.owners.remove(&key);
        Some(owner)
    }
}
