//! Loads the object and attaches what this kernel allows.

use std::net::SocketAddr;

use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use netdiag_ebpf::config::{
    ERRNO_WORDS, FLAG_ALL, FLAG_COUNT_DROPS, FLAG_LATENCY, FLAG_OWNERS, FLAG_RESET_REASON,
    FLAG_TRACK_PROCESSES, PLACES, Places,
};
use netdiag_ebpf::counters::{COUNTER_COUNT, Counter};
use netdiag_ebpf::records::{Interest, address, call::CALLS};

use super::attach::{self, ProbeState};
use super::btf::Btf;
use super::counters::{self, Counts};
use super::drops::DropMaps;
use super::histograms::Histograms;
use super::in_map::InMap;
use super::last_listeners::LastListeners;
use super::offsets::Offsets;
use super::peek::{Memory, Peek};
use super::reasons::Reasons;
use super::registry::{ARGUMENTS, Attach, Family, PROBES, Probe, Use, Way, Weight};
use super::time_wait::Closers;
use super::wire::{Outcome, Wire};
use super::{KernelError, attach_ids, capabilities, misses, offsets};
use crate::enrich::netns;

/// The eBPF object, compiled from netdiag-ebpf by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netdiag-ebpf"));

/// Errors of connect, bind, sendto and sendmsg that never reach a state change.
const RESULT_ERRORS: &[i32] = &[
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EACCES,
    libc::EPERM,
    libc::EINVAL,
    libc::EADDRNOTAVAIL,
    libc::EADDRINUSE,
    libc::ENETDOWN,
];

/// In the order of `netdiag_ebpf::records::call`.
static SOCKET_CALLS: [u32; CALLS] = [
    libc::SYS_connect as u32,
    libc::SYS_bind as u32,
    libc::SYS_sendto as u32,
    libc::SYS_sendmsg as u32,
    libc::SYS_listen as u32,
];

/// What to load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Record the connections of followed processes from their start.
    pub follow_processes: bool,
    /// Record every connection from its start and send it at its end.
    pub all: bool,
    /// Attach by this kind of hook where a probe has it.
    pub attach: Option<Family>,
    /// Tell and count every drop, and nothing else.
    pub drops: bool,
    /// Read nothing of the kernel's memory on demand.
    pub no_peek: bool,
    /// Note who closes connections first, and who listened last.
    pub owners: bool,
    /// Keep histograms of how long connecting takes and of round-trip times.
    pub latency: bool,
}

/// The kernel side at work. Dropping it detaches everything: there is no pin.
pub struct Session {
    // Dropped before `ebpf`: fields drop in the order of their declaration.
    wire: Wire,
    peek: Peek,
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, [u64; COUNTER_COUNT]>,
    tracked: BpfHashMap<MapData, u32, u8>,
    drops: DropMaps,
    places: Array<MapData, Places>,
    interest: BpfHashMap<MapData, InMap<Interest>, u8>,
    owners: Option<(Closers, LastListeners)>,
    histograms: Histograms,
    pub probes: Vec<ProbeState>,
    pub reasons: Reasons,
    pub offsets: Offsets,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("probes", &self.probes).finish_non_exhaustive()
    }
}

impl Session {
    /// Checks rights, resolves the kernel's fields, loads and attaches.
    pub fn start(options: Options) -> Result<(Self, RingBuf<MapData>), KernelError> {
        let Loaded { mut ebpf, offsets, reasons, ids, changed } = load(options, small(options))?;
        let counters = PerCpuArray::try_from(take_map(&mut ebpf, "COUNTERS")?)?;
        let tracked = BpfHashMap::try_from(take_map(&mut ebpf, "TRACKED")?)?;
        let interest = BpfHashMap::try_from(take_map(&mut ebpf, "INTEREST")?)?;
        let watched = BpfHashMap::try_from(take_map(&mut ebpf, "WATCHED_NETNS")?)?;
        let ring = RingBuf::try_from(take_map(&mut ebpf, "EVENTS")?)?;
        let drops = DropMaps::new(take_map(&mut ebpf, "DROP_TOTALS")?, take_map(&mut ebpf, "LIMITS")?)?;
        let places = Array::try_from(take_map(&mut ebpf, "DROP_PLACES")?)?;
        let histograms = Histograms::new(take_map(&mut ebpf, "HISTOGRAMS")?)?;
        let peek = Peek::new(take_map(&mut ebpf, "PEEKED")?)?;
        let mut session = Self {
            wire: Wire::new(watched),
            peek,
            ebpf,
            counters,
            tracked,
            drops,
            places,
            interest,
            owners: None,
            histograms,
            probes: Vec::new(),
            reasons,
            offsets,
        };
        for probe in PROBES {
            let wanted = match probe.when {
                Use::Always => true,
                Use::FollowProcesses => options.follow_processes,
                Use::TimeWait => false,
            };
            if !wanted {
                continue;
            }
            if options.drops && !probe.tells_drops() {
                continue;
            }
            let tried = probe.tried(options.attach, options.follow_processes);
            let state = attach::attach(&mut session.ebpf, probe, &tried, &ids, &changed);
            if probe.weight == Weight::Required && state.attached.is_none() {
                return Err(KernelError::RequiredProbe { probe: probe.name, why: state.failures_text() });
            }
            session.probes.push(state);
        }
        session.wire.way = session.way_of("wire");
        if options.owners {
            let listeners = LastListeners::new(take_map(&mut session.ebpf, "LAST_LISTENERS")?)?;
            session.owners = Some((Closers::of(&mut session.ebpf)?, listeners));
        }
        Ok((session, ring))
    }

    fn way_of(&self, signal: &str) -> Option<&'static Way> {
        self.probes.iter().find(|state| state.probe.signal == signal)?.attached
    }

    /// From now on drops without a reason are told where they happen in these places; only so many fit.
    pub fn ask_about(&mut self, ranges: &[[u64; 2]]) -> Result<(), KernelError> {
        let mut places: Places = [[0; 2]; PLACES];
        places.iter_mut().zip(ranges).for_each(|(place, range)| *place = *range);
        Ok(self.places.set(0, places, 0)?)
    }

    /// Who closed connections first and who listened last, where that was asked for; once.
    pub fn take_owners(&mut self) -> Option<(Closers, LastListeners)> {
        self.owners.take()
    }

    /// How long connecting takes, and round-trip times; empty where that was not asked for.
    pub fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    /// Follows this process and what it starts from now on.
    pub fn follow(&mut self, tgid: u32) -> Result<(), KernelError> {
        Ok(self.tracked.insert(tgid, 1, 0)?)
    }

    /// No longer follows this process; its children stay followed.
    pub fn unfollow(&mut self, tgid: u32) {
        // Already gone is what is wanted.
        let _ = self.tracked.remove(&tgid);
    }

    /// Followed processes that live in this network namespace now.
    pub fn followed_in(&self, netns: u32) -> Vec<u32> {
        let lives_there = |pid: &u32| netns::inode_of_process(*pid) == Some(netns.into());
        self.tracked.keys().flatten().filter(lives_there).collect()
    }

    pub fn is_followed(&self, tgid: u32) -> bool {
        self.tracked.get(&tgid, 0).is_ok()
    }

    /// Whether packets of this remote end matter, to whichever of this machine's ends: a followed process, or one of
    /// all that were asked for, has a TCP connection there.
    pub fn is_asked_end(&self, remote: SocketAddr) -> bool {
        self.interest.get(&InMap(any_flow_to(remote)), 0).is_ok()
    }

    /// From now on packets of this remote end matter, for connections in trouble that NAT sends there.
    pub fn take_interest(&mut self, remote: SocketAddr) {
        // A failed insert costs wire evidence only.
        let _ = self.interest.insert(InMap(any_flow_to(remote)), 1, 0);
    }

    /// Whether a connection is open that was asked for.
    pub fn has_open_asked(&self) -> bool {
        self.counters().is_ok_and(|counts| counts.get(Counter::Asked) > counts.get(Counter::AskedDone))
    }

    pub fn counters(&self) -> Result<Counts, KernelError> {
        counters::read(&self.counters)
    }

    /// Every drop by its reason, and how many of each flow are not told yet.
    pub fn drops(&self) -> &DropMaps {
        &self.drops
    }

    /// Tells no more drops: what was counted until now is all.
    pub fn end_drops(&mut self) {
        if let Some(program) = self.ebpf.program_mut("kfree_skb") {
            // What cannot be taken away goes on, and counts a little more.
            let _ = attach::unload(program);
        }
    }

    /// Events that programs did not see because they were at work; see [`super::misses`].
    pub fn missed(&self) -> u64 {
        self.ebpf.programs().map(|(_, program)| misses::of(program)).sum()
    }

    /// What this kernel, or the user's choice of hooks, does not let netdiag see.
    pub fn missing_probes(&self) -> impl Iterator<Item = &'static Probe> {
        self.probes.iter().filter(|state| state.attached.is_none()).map(|state| state.probe)
    }

    /// Attaches the tc programs to the interfaces of a network namespace.
    pub fn watch_wire(&mut self, netns: u64) -> Outcome {
        self.wire.attach(&mut self.ebpf, netns)
    }

    /// Takes the tc programs away from a network namespace.
    pub fn leave_wire(&mut self, netns: u64) {
        self.wire.detach(netns);
    }

    /// Where the tc programs are attached.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The kernel's memory; `None` where this kernel does not let netdiag read it on demand.
    pub fn memory(&self) -> Option<Memory<'_>> {
        self.peek.memory(self.ebpf.program("peek")?)
    }

    /// The loaded programs, for their run statistics.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &aya::programs::Program)> {
        self.ebpf.programs()
    }
}

fn any_flow_to(remote: SocketAddr) -> Interest {
    let ip = remote.ip().to_canonical();
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    Interest { address: address(ip), port: remote.port(), family: family as u16, ..Interest::default() }
}

/// Maps that these options do not use.
fn small(options: Options) -> &'static [(&'static str, u32)] {
    if options.owners { &[] } else { &[("TIME_WAIT_OWNERS", 1), ("LISTENING", 1), ("LAST_LISTENERS", 1)] }
}

/// The object with its maps, and what is needed to attach its programs.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    offsets: Offsets,
    reasons: Reasons,
    pub(super) ids: aya::Btf,
    pub(super) changed: Vec<&'static str>,
}

/// Checks rights, resolves the kernel's fields and loads the object; maps that this session does not use are made
/// small.
pub(super) fn load(options: Options, small: &[(&str, u32)]) -> Result<Loaded, KernelError> {
    capabilities::require()?;
    capabilities::require_no_lockdown()?;
    let mut loader = EbpfLoader::new();
    // It has read all of the kernel's BTF, 15 MB, for relocations that programs of Rust do not have. It goes
    // before anything else comes.
    loader.btf(None);
    let btf = Btf::vmlinux().map_err(KernelError::NoBtf)?;
    capabilities::require_recent(&btf)?;
    let offsets = offsets::resolve(&btf)?;
    let reasons = Reasons::read(&btf);
    let config = config_bits(&btf, options);
    let actions = if options.drops { reasons.all_drop_actions() } else { reasons.drop_actions() };
    let errno_mask = errno_mask();
    let own_netns = own_netns();
    let ids = attach_ids::of(&btf, hooks())?;
    let changed = changed_functions(&btf);
    drop(btf);
    for (map, entries) in small {
        loader.map_max_entries(map, *entries);
    }
    let ebpf = loader
        .override_global("OFFSETS", offsets.values.as_slice(), true)
        .override_global("CONFIG", &config, true)
        .override_global("OWN_NETNS", &own_netns, true)
        .override_global("DROP_ACTION", actions.as_slice(), true)
        .override_global("ERRNO_MASK", errno_mask.as_slice(), true)
        .override_global("SOCKET_CALLS", SOCKET_CALLS.as_slice(), true)
        .load(OBJECT)?;
    Ok(Loaded { ebpf, offsets, reasons, ids, changed })
}

pub(super) fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::Object { what: "map", name: name.to_owned() })
}

fn config_bits(btf: &Btf, options: Options) -> u32 {
    let has_third_param =
        |tracepoint: &str| btf.tracepoint_params(tracepoint).is_ok_and(|params| params.len() > 2);
    let mut bits = 0;
    let mut set = |bit: u32, on: bool| {
        if on {
            bits |= bit;
        }
    };
    set(FLAG_TRACK_PROCESSES, options.follow_processes);
    set(FLAG_ALL, options.all);
    set(FLAG_COUNT_DROPS, options.drops);
    set(FLAG_OWNERS, options.owners);
    set(FLAG_LATENCY, options.latency);
    set(FLAG_RESET_REASON, btf.has_type("sk_rst_reason") && has_third_param("tcp_send_reset"));
    bits
}

fn errno_mask() -> [u64; ERRNO_WORDS] {
    let mut mask = [0; ERRNO_WORDS];
    for errno in RESULT_ERRORS {
        let errno = *errno as usize;
        if let Some(word) = mask.get_mut(errno / 64) {
            *word |= 1 << (errno % 64);
        }
    }
    mask
}

fn own_netns() -> u32 {
    netns::current_inode().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(0)
}

/// Functions whose arguments are not those that programs read.
fn changed_functions(btf: &Btf) -> Vec<&'static str> {
    let is_as_known = |name: &str, wanted: &[&str]| {
        btf.func_params(name).is_ok_and(|params| {
            params.len() >= wanted.len()
                && params.iter().zip(wanted).all(|(param, wanted)| param.name == *wanted)
        })
    };
    let changed = ARGUMENTS.iter().filter(|(name, wanted)| !is_as_known(name, wanted));
    changed.map(|(name, _)| *name).collect()
}

/// All hooks that programs may be attached to.
fn hooks() -> impl Iterator<Item = Attach> {
    PROBES.iter().flat_map(|probe| probe.ways).flat_map(|way| way.programs).map(|(how, _)| *how)
}
