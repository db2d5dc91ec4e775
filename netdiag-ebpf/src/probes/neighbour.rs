//! Probe `neighbour`: a next hop that never answered ARP or neighbour discovery.
//!
//! Hook: `neigh_timer_handler` (net/core/neighbour.c), tp_btf: rare, and it sees the entry when its last probe
//! went unanswered.
//!
//! Trap: the entry is not locked any more there. A packet that another processor sends in that moment (the
//! retransmission of a SYN is due at just the same time) has the entry begin anew, INCOMPLETE, before its state is
//! read. `updated` is then the present jiffy, which it never is while an entry waits for its answer.
//!
//! The packets that waited are told by probe `drop` (NEIGH_FAILED).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::fields::{ABSENT, Field};
use netdiag_ebpf::records::{NeighbourRecord, kind};

use crate::kernel::{copy_address, netns_inum, probe, probe_pointer};
use crate::maps::{offset, send};

/// include/uapi/linux/neighbour.h
const NUD_INCOMPLETE: u8 = 0x01;
const NUD_FAILED: u8 = 0x20;

#[btf_tracepoint(function = "neigh_timer_handler")]
pub fn neigh_timer_handler(ctx: BtfTracePointContext) -> i32 {
    let neigh: *const c_void = ctx.arg(0);
    let key = offset(Field::NeighKey);
    if key == ABSENT || !has_failed(neigh) {
        return 0;
    }
    let Some(table) = probe_pointer(neigh, Field::NeighTbl) else { return 0 };
    let Some(family) = probe::<u32>(table, Field::NeighTableFamily) else { return 0 };
    let dev = probe_pointer(neigh, Field::NeighDev);
    send::<NeighbourRecord>(kind::NEIGHBOUR, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        copy_address(neigh, key, family, &mut record.address);
        record.family = family;
        record.ifindex = dev.and_then(|dev| probe(dev, Field::DevIfindex)).unwrap_or(0);
        record.netns = dev.and_then(|dev| probe_pointer(dev, Field::DevNet)).map_or(0, netns_inum);
        record._pad = 0;
        record.ifname = dev.and_then(|dev| probe(dev, Field::DevName)).unwrap_or_default();
    });
    0
}

/// Whether it failed just now, even if it has begun anew since.
#[inline(always)]
fn has_failed(neigh: *const c_void) -> bool {
    match probe::<u8>(neigh, Field::NeighNudState) {
        Some(NUD_FAILED) => true,
        Some(NUD_INCOMPLETE) if offset(Field::NeighUpdated) != ABSENT => {
            // SAFETY: no arguments.
            probe::<u64>(neigh, Field::NeighUpdated) == Some(unsafe { bpf_jiffies64() })
        }
        _ => false,
    }
}
