//! What netdiag itself costs, as the kernel tells it: runs and time of its programs, entries and memory of its
//! maps, the process' own CPU time and memory.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use aya::maps::{MapError, MapInfo, MapType};
use aya::sys::Stats;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::loader::Session;

/// Asks the kernel to count runs and time of every program (BPF_ENABLE_STATS, Linux 5.8) for as long as this
/// lives. The sysctl kernel.bpf_stats_enabled, which is the user's, stays as it is.
#[derive(Debug)]
pub struct RunStats(#[expect(dead_code, reason = "closing it ends the counting")] OwnedFd);

impl RunStats {
    /// # Errors
    /// The kernel's, where it is older than 5.8 or CAP_SYS_ADMIN is missing.
    pub fn enable() -> io::Result<Self> {
        aya::sys::enable_stats(Stats::RunTime).map(Self).map_err(|error| error.io_error)
    }

    /// Whether the kernel counts for everybody, because the user set it so.
    pub fn enabled_by_sysctl() -> bool {
        std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1")
    }
}

/// One loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramCost {
    /// As in the object.
    pub name: String,
    /// As attached (`tp_btf kfree_skb`); `None`: loaded, and not attached.
    pub hook: Option<String>,
    /// `None`: not counted.
    pub runs: Option<u64>,
    /// Nanoseconds of all runs, the kernel's own counting included.
    pub run_time_ns: Option<u64>,
    /// Instructions and what belongs to them.
    pub memory_bytes: Option<u64>,
}

/// One map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapCost {
    pub name: String,
    /// `hash`, `lru-hash`, `array`, ...
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Entries in use; `None` for arrays and the like, which are always full, and for what cannot be counted.
    pub entries: Option<u32>,
    /// Bytes for a ring buffer.
    pub max_entries: u32,
    /// Bytes of kernel memory: since Linux 6.4 what is in use, before it what the map may grow to.
    pub memory_bytes: Option<u64>,
}

/// The loaded programs, in the order of the registry. `counted`: runs and times were counted all the time.
pub fn programs(session: &Session, counted: bool) -> Vec<ProgramCost> {
    let mut costs = Vec::new();
    for (how, wanted) in session.probes.iter().filter_map(|state| state.attached).flat_map(|way| way.programs)
    {
        let program = session.programs().find(|(name, _)| name == wanted);
        let Some(info) = program.and_then(|(_, program)| program.info().ok()) else { continue };
        costs.push(ProgramCost {
            name: (*wanted).to_owned(),
            hook: Some(how.to_string()),
            runs: counted.then(|| info.run_count()),
            run_time_ns: counted.then(|| nanoseconds(info.run_time())),
            memory_bytes: info.memory_locked().ok().map(u64::from),
        });
    }
    costs
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The maps that the loaded programs use, by name.
pub fn maps(session: &Session) -> Vec<MapCost> {
    let infos = session.programs().filter_map(|(_, program)| program.info().ok());
    let ids: BTreeSet<u32> = infos.filter_map(|info| info.map_ids().ok().flatten()).flatten().collect();
    let mut maps: Vec<MapCost> = ids.into_iter().filter_map(|id| map(id).ok()).collect();
    maps.sort_by(|a, b| a.name.cmp(&b.name));
    maps
}

fn map(id: u32) -> Result<MapCost, MapError> {
    let info = MapInfo::from_id(id)?;
    let fd = info.fd()?;
    let fd = std::os::fd::AsFd::as_fd(&fd).as_raw_fd();
    let kind = info.map_type().unwrap_or(MapType::Unspecified);
    Ok(MapCost {
        name: info.name_as_str().unwrap_or_default().to_owned(),
        kind: kind_name(kind),
        entries: counts_entries(kind).then(|| entries(fd, &info)).flatten(),
        max_entries: info.max_entries(),
        memory_bytes: memory_bytes(fd),
    })
}

fn kind_name(kind: MapType) -> &'static str {
    match kind {
        MapType::Hash => "hash",
        MapType::LruHash => "lru-hash",
        MapType::PerCpuHash => "percpu-hash",
        MapType::LruPerCpuHash => "lru-percpu-hash",
        MapType::Array => "array",
        MapType::PerCpuArray => "percpu-array",
        MapType::RingBuf => "ringbuf",
        MapType::SkStorage => "sk-storage",
        MapType::TaskStorage => "task-storage",
        _ => "other",
    }
}

/// Whether entries come and go, and their keys can be gone through.
fn counts_entries(kind: MapType) -> bool {
    matches!(kind, MapType::Hash | MapType::LruHash | MapType::PerCpuHash | MapType::LruPerCpuHash)
}

/// Goes through the keys. A map that changes meanwhile may begin anew: it is never counted beyond what it holds.
fn entries(fd: i32, info: &MapInfo) -> Option<u32> {
    let size = info.key_size() as usize;
    let (mut key, mut next) = (vec![0; size], vec![0; size]);
    let mut count = 0;
    while count < info.max_entries() {
        match next_key(fd, (count > 0).then_some(key.as_slice()), &mut next) {
            Ok(true) => count += 1,
            Ok(false) => break,
            Err(_) => return None,
        }
        std::mem::swap(&mut key, &mut next);
    }
    Some(count)
}

/// BPF_MAP_GET_NEXT_KEY; false: there is none. Both buffers have the map's key size.
fn next_key(fd: i32, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    /// `enum bpf_cmd` in include/uapi/linux/bpf.h.
    const MAP_GET_NEXT_KEY: libc::c_int = 4;
    /// The members of `union bpf_attr` for commands on map elements.
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        _pad: u32,
        key: u64,
        next_key: u64,
        flags: u64,
    }
    let attributes = Attributes {
        map_fd: fd.cast_unsigned(),
        _pad: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        next_key: next.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads the attributes and the key, and writes one key to `next`; all live for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_GET_NEXT_KEY, &attributes, size_of::<Attributes>()) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(true),
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error),
    }
}

fn memory_bytes(fd: i32) -> Option<u64> {
    memlock(&std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?)
}

/// The field of a map's fdinfo.
fn memlock(fdinfo: &str) -> Option<u64> {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    value.trim().parse().ok()
}

/// User and system time of this process, without its children, in microseconds.
pub fn cpu_us() -> Option<u64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    u64::try_from(time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000).ok()
}

/// Memory of this process that is in RAM now (VmRSS), in bytes.
pub fn resident_bytes() -> Option<u64> {
    let status = procfs::process::Process::myself().ok()?.status().ok()?;
    status.vmrss.map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_fdinfo() {
        let text = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t8126464\nmap_id:\t7\n";
        assert_eq!(memlock(text), Some(8_126_464));
        assert_eq!(memlock("pos:\t0\n"), None);
    }

    #[test]
    fn this_process_costs_something() {
        assert!(cpu_us().unwrap() > 0);
        assert!(resident_bytes().unwrap() > 100_000);
    }
}
