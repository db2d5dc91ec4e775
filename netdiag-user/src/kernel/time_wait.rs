//! The kernel side of TIME_WAIT's owners: one program and its map, and nothing else of the object.

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use netdiag_ebpf::records::{TimeWaitKey, TimeWaitOwner};

use super::KernelError;
use super::attach;
use super::clock::now_ns;
use super::loader::{self, Loaded, Options, take_map};
use super::registry::{PROBES, Use};
use crate::enrich::sockets::SocketInfo;
use crate::probes::{Closed, time_wait};

/// Maps of programs that are not attached here. A ring buffer has at least a page, the rest one entry.
const SMALL: &[(&str, u32)] = &[
    ("EVENTS", 4096),
    ("SOCKETS", 1),
    ("SOCKET_IDS", 1),
    ("TIMELINES", 1),
    ("LIMITS", 1),
    ("TRACKED", 1),
    ("INTEREST", 1),
    ("UDP_OWNERS", 1),
    ("WATCHED_NETNS", 1),
];

type Key = [u8; size_of::<TimeWaitKey>()];
type Value = [u8; size_of::<TimeWaitOwner>()];

/// Notes who closes first, for as long as it lives.
pub struct Closers {
    // Held: dropping it detaches the program.
    _ebpf: Ebpf,
    owners: BpfHashMap<MapData, Key, Value>,
    since_ns: u64,
}

impl std::fmt::Debug for Closers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closers").field("since_ns", &self.since_ns).finish_non_exhaustive()
    }
}

impl Closers {
    /// Loads and attaches.
    pub fn start() -> Result<Self, KernelError> {
        let Loaded { mut ebpf, ids, changed, .. } = loader::load(Options::default(), SMALL)?;
        let owners = BpfHashMap::try_from(take_map(&mut ebpf, "TIME_WAIT_OWNERS")?)?;
        for probe in PROBES.iter().filter(|probe| probe.when == Use::TimeWait) {
            let state = attach::attach(&mut ebpf, probe, &probe.tried(None, false), &ids, &changed);
            if state.attached.is_none() {
                return Err(KernelError::RequiredProbe { probe: probe.name, why: state.failures_text() });
            }
        }
        Ok(Self { _ebpf: ebpf, owners, since_ns: now_ns() })
    }

    /// Since when closes are seen, `CLOCK_MONOTONIC`.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// Who closed what is now this socket in TIME_WAIT; the kernel forgets it.
    pub fn take(&mut self, netns: u64, socket: &SocketInfo) -> Option<Closed> {
        let key = time_wait::key(netns, socket)?;
        let value = self.owners.get(&key, 0).ok()?;
        // The LRU map forgets it otherwise.
        let _ = self.owners.remove(&key);
        time_wait::decode(&value)
    }
}
