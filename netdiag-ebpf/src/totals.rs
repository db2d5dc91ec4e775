//! Every drop, by its reason: `netdiag drops` tells how many there were, also where records are limited. Nobody else
//! pays for it.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netdiag_ebpf::config::{DROP_REASONS, FLAG_COUNT_DROPS};
use netdiag_ebpf::records::DropTotal;

use crate::maps::config;

/// The last entry is for reasons beyond the others: those of subsystems.
#[map]
static DROP_TOTALS: PerCpuArray<DropTotal> = PerCpuArray::with_max_entries(DROP_REASONS as u32 + 1, 0);

#[inline(always)]
pub fn wanted() -> bool {
    config() & FLAG_COUNT_DROPS != 0
}

#[inline(always)]
pub fn count(reason: u32) {
    if let Some(total) = entry(reason) {
        // SAFETY: a live per-CPU map value, and the kernel lets no program interrupt itself.
        unsafe { (*total).all += 1 };
    }
}

#[inline(always)]
pub fn count_unparsed(reason: u32) {
    if let Some(total) = entry(reason) {
        // SAFETY: as above.
        unsafe { (*total).unparsed += 1 };
    }
}

#[inline(always)]
fn entry(reason: u32) -> Option<*mut DropTotal> {
    DROP_TOTALS.get_ptr_mut(reason.min(DROP_REASONS as u32))
}
