//! Reads the per-CPU counters of the programs.

use aya::maps::{MapData, PerCpuArray};
use netdiag_ebpf::counters::{COUNTER_COUNT, COUNTERS, Counter};
use serde::Serialize;

use super::KernelError;

/// Sums over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(std::collections::BTreeMap<&'static str, u64>);

impl Counts {
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(COUNTERS[counter as usize].1).copied().unwrap_or(0)
    }

    /// Records and entries that are missing because something was full.
    pub fn lost(&self) -> u64 {
        [Counter::LostRing, Counter::LostSocket, Counter::LostTimeline].map(|c| self.get(c)).iter().sum()
    }
}

/// Reads map `COUNTERS`.
pub fn read(map: &PerCpuArray<MapData, [u64; COUNTER_COUNT]>) -> Result<Counts, KernelError> {
    let per_cpu = map.get(&0, 0)?;
    let sums =
        COUNTERS.iter().map(|(counter, name)| (*name, per_cpu.iter().map(|c| c[*counter as usize]).sum()));
    Ok(Counts(sums.collect()))
}
