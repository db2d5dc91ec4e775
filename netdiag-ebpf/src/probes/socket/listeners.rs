//! Who listened last at an address and port, for the agent: nobody asks until it is gone.
//!
//! LISTEN is entered and left by listen(), close() and the end of a process, in process context. The process that
//! closes is the one that held the socket last. A listen() that finds the port taken passes through LISTEN, too: what
//! listened for less than a hundredth of a second is not noted.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use netdiag_ebpf::records::{LastListener, LastListenerKey};

use super::IPPROTO_TCP;
use crate::kernel::{sock, task};

/// When a socket began to listen, by its id.
#[map]
static LISTENING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

#[map]
static LAST_LISTENERS: LruHashMap<LastListenerKey, LastListener> = LruHashMap::with_max_entries(4096, 0);

const LEAST_NS: u64 = 10_000_000;

#[inline(always)]
pub fn began(sk: *const c_void) {
    // SAFETY: no arguments, and `sk` is the tp_btf argument.
    let (now, id) = unsafe { (bpf_ktime_get_ns(), sock::id(sk)) };
    // Without it the beginning is not known, and that is what user space is told.
    let _ = LISTENING.insert(id, now, 0);
}

#[inline(always)]
pub fn ended(sk: *const c_void) {
    // SAFETY: as in `began`.
    let (until_ns, id) = unsafe { (bpf_ktime_get_ns(), sock::id(sk)) };
    // SAFETY: a live map value.
    let since_ns = LISTENING.get_ptr(id).map_or(0, |since| unsafe { *since });
    let _ = LISTENING.remove(id);
    if until_ns.wrapping_sub(since_ns) < LEAST_NS {
        return;
    }
    let tuple = sock::tuple(sk, IPPROTO_TCP);
    let netns = sock::netns(sk);
    let key = LastListenerKey { address: tuple.saddr, netns, family: tuple.family, port: tuple.sport };
    let mut last = LastListener { since_ns, until_ns, ..LastListener::default() };
    if !task::is_kernel_thread() {
        task::write_owner(netns, &mut last.owner);
    }
    let _ = LAST_LISTENERS.insert(key, last, 0);
}
