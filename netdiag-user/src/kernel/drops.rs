//! Counts of drops that the programs keep: all, by reason, and those of each flow that no record has told yet.

use aya::maps::{Map, MapData, PerCpuArray};
use netdiag_ebpf::config::{DROP_REASONS, LIMIT_BUCKETS};

use super::KernelError;

/// See the module's documentation.
pub struct DropMaps {
    /// `records::DropTotal`
    totals: PerCpuArray<MapData, [u64; 2]>,
    /// `records::LimitBucket`
    limits: PerCpuArray<MapData, [u32; 4]>,
}

impl std::fmt::Debug for DropMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DropMaps")
    }
}

/// All drops of one reason since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// `skb_drop_reason`; [`DROP_REASONS`] stands for all reasons of subsystems.
    pub reason: u32,
    pub all: u64,
    /// Those that are no IP packet: there are no records of them.
    pub unparsed: u64,
}

impl DropMaps {
    pub(super) fn new(totals: Map, limits: Map) -> Result<Self, KernelError> {
        Ok(Self { totals: PerCpuArray::try_from(totals)?, limits: PerCpuArray::try_from(limits)? })
    }

    /// Reasons with drops.
    pub fn totals(&self) -> Result<Vec<Total>, KernelError> {
        let mut found = Vec::new();
        for reason in 0..=DROP_REASONS as u32 {
            let per_cpu = self.totals.get(&reason, 0)?;
            let sum = |at: usize| per_cpu.iter().map(|total| total[at]).sum();
            let total = Total { reason, all: sum(0), unparsed: sum(1) };
            if total.all > 0 {
                found.push(total);
            }
        }
        Ok(found)
    }

    /// Drops with this `limit_key` since the last record that had it.
    pub fn untold(&self, limit_key: u32) -> u64 {
        let Ok(per_cpu) = self.limits.get(&(limit_key % LIMIT_BUCKETS), 0) else { return 0 };
        let own = per_cpu.iter().filter(|[key, ..]| *key == limit_key);
        own.map(|[.., suppressed]| u64::from(*suppressed)).sum()
    }
}
