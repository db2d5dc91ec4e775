//! Probe `time_wait`: who closed a connection first, and so made what stays in TIME_WAIT.
//!
//! Hook: `inet_sock_set_state`, tp_btf: a program of its own for `timewait`, which attaches nothing else, and a branch
//! of probe `socket`'s for the agent, which would pay for a second program at each transition. The others pay
//! nothing: the branch is dead code to them. A socket in TIME_WAIT has no process, and it comes about in whatever
//! context handled the last packet (`tcp_time_wait`). But the way there always leads through FIN_WAIT1, and that is
//! entered by the process that calls close(), shutdown() or exits (net/ipv4/tcp.c, `tcp_close_state`) with the socket
//! locked. It is the one that holds the socket last: who accepted it, was passed it or inherited it. The ends are those
//! that the TIME_WAIT socket will have.
//!
//! Traps: a file that is put where no task may work for it (unix sockets in flight, io_uring) is closed by a kernel
//! thread. A SYN_RECV socket that was shut down early goes to FIN_WAIT1 in softirq (`tcp_rcv_state_process`): then
//! nothing is kept. What is reset on its way is forgotten.
//!
//! Cost: two comparisons a transition; at each first close one insert into a map.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{TIME_WAIT_OWNERS as ENTRIES, TimeWaitKey, TimeWaitOwner, time_wait_flag};

use crate::kernel::sock::{self, state};
use crate::kernel::{load, task};

const IPPROTO_TCP: u16 = 6;

/// User space takes out what it finds in TIME_WAIT. LRU: what never gets there makes room.
#[map]
static TIME_WAIT_OWNERS: LruHashMap<TimeWaitKey, TimeWaitOwner> = LruHashMap::with_max_entries(ENTRIES, 0);

/// How many were put in: user space looks before the map is full.
#[map]
static TIME_WAIT_CLOSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn time_wait(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    changed(sk, old, new);
    0
}

/// A transition of the socket `sk`, which is the tp_btf argument. A function of its own for the sake of the caller's stack.
#[inline(never)]
pub fn changed(sk: *const c_void, old: u8, new: u8) {
    match (old, new) {
        (_, state::FIN_WAIT1) => closed_first(sk),
        (state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING, state::CLOSE) => ended(sk),
        _ => {}
    }
}

#[inline(always)]
fn closed_first(sk: *const c_void) {
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint; `net` is a BTF-typed pointer that a
    // live socket always has.
    let (protocol, owned, netns) = unsafe {
        let net = load::<*const c_void>(sk, Field::SkNet);
        (
            load::<u16>(sk, Field::SkProtocol),
            load::<u32>(sk, Field::SkLockOwned),
            load::<u32>(net, Field::NetInum),
        )
    };
    if protocol != IPPROTO_TCP || owned == 0 {
        return;
    }
    // SAFETY: no arguments.
    let closed_ns = unsafe { bpf_ktime_get_ns() };
    let mut value = TimeWaitOwner { closed_ns, ..TimeWaitOwner::default() };
    task::write_owner(netns, &mut value.owner);
    if task::is_kernel_thread() {
        value.flags |= time_wait_flag::KERNEL_THREAD;
    }
    let key = TimeWaitKey { tuple: sock::tuple(sk, IPPROTO_TCP), netns, _pad: 0 };
    // An insert that fails shows in user space: a new socket in TIME_WAIT without an owner.
    let _ = TIME_WAIT_OWNERS.insert(key, value, 0);
    if let Some(closes) = TIME_WAIT_CLOSES.get_ptr_mut(0) {
        // SAFETY: a per-CPU value; a program that interrupts another may lose one.
        unsafe { *closes += 1 };
    }
}

/// On the way to TIME_WAIT a socket ends in CLOSE too, but without an error.
#[inline(always)]
fn ended(sk: *const c_void) {
    // SAFETY: as in `closed_first`.
    let (err, netns) = unsafe {
        let net = load::<*const c_void>(sk, Field::SkNet);
        (load::<u32>(sk, Field::SkErr), load::<u32>(net, Field::NetInum))
    };
    if err != 0 {
        let _ = TIME_WAIT_OWNERS.remove(TimeWaitKey { tuple: sock::tuple(sk, IPPROTO_TCP), netns, _pad: 0 });
    }
}
