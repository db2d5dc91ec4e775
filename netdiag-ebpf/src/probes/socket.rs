//! Probe `socket`: the recorder of TCP sockets.
//!
//! Hook: `inet_sock_set_state` (net/core/sock.c via inet_sk_state_store), tp_btf. It fires for both ends of
//! every connection, about ten times together, so it decides by state before it touches a map: an entry is
//! made at SYN_SENT and removed at CLOSE, the middle is left to `tcp_sock`. Server sides get an entry only at
//! the first sign of trouble.
//!
//! Traps: sockets of MPTCP and SCTP come this way too and are no `tcp_sock`; the connections below an MPTCP socket
//! are TCP, and come by themselves. CLOSE->SYN_SENT has no local port yet; `skc_num` is cleared before the last
//! transition of a failed connect, `inet_sport` and the addresses only after it (tcp_disconnect, tcp_v4_connect).
//! `current` is the owner at SYN_SENT, and at CLOSE only when the socket is locked by a process (`sk_lock.owned`) and
//! has no error. A softirq that closes it sets `sk_err` first, but the application may take that on another CPU
//! before the transition.

mod latency;
mod listeners;
mod timeline;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::config::{FLAG_ALL, FLAG_LATENCY, FLAG_OWNERS, FLAG_TRACK_PROCESSES};
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{
    ConnectionRecord, DroppedSyn, Interest, Owner, SocketEntry, SuspectRecord, kind, socket_flag, step,
};

use crate::kernel::sock::{self, state};
use crate::kernel::{load, probe, probe_pointer, task};
use crate::maps::{INTEREST, TIMELINES, TRACKED, config, count, send, take_interest};
use crate::probes::time_wait;
use crate::{dropped_syns, sockets};

pub use timeline::add_step;

const IPPROTO_TCP: u16 = 6;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint.
    if unsafe { load::<u16>(sk, Field::SkProtocol) } != IPPROTO_TCP {
        return 0;
    }
    if config() & FLAG_OWNERS != 0 {
        time_wait::changed(sk, old, new);
        listening(sk, old, new);
    }
    if config() & FLAG_LATENCY != 0 {
        measured(sk, old, new);
    }
    match (old, new) {
        (_, state::SYN_SENT) => opened(sk),
        (state::LISTEN, state::CLOSE) => {}
        (_, state::CLOSE) => closed(sk, old),
        (state::SYN_SENT, state::ESTABLISHED) => {
            count(Counter::Established);
            passed(sk, old, new);
        }
        (state::ESTABLISHED, state::FIN_WAIT1) => {
            if has_unacked(sk) && retransmits(sk) > 0 || has_unsent(sk) && probes_out(sk) > 0 {
                abandoned(sk, old, new);
            } else {
                passed(sk, old, new);
            }
        }
        _ => passed(sk, old, new),
    }
    0
}

// This and the next are functions of their own for the sake of the stack, of which one chain of calls has 512 bytes.
#[inline(never)]
fn listening(sk: *const c_void, old: u8, new: u8) {
    match (old, new) {
        (_, state::LISTEN) => listeners::began(sk),
        (state::LISTEN, state::CLOSE) => listeners::ended(sk),
        _ => {}
    }
}

#[inline(never)]
fn measured(sk: *const c_void, old: u8, new: u8) {
    match (old, new) {
        (state::SYN_SENT, state::ESTABLISHED) => latency::connected(sk),
        (state::ESTABLISHED, _) => latency::leaves(sk),
        _ => {}
    }
}

/// CLOSE -> SYN_SENT, in the process that calls connect().
#[inline(always)]
fn opened(sk: *const c_void) {
    count(Counter::Opened);
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint; `net` is a BTF-typed pointer that a
    // live socket always has.
    let netns = unsafe { load::<u32>(load::<*const c_void>(sk, Field::SkNet), Field::NetInum) };
    // SAFETY: as above.
    let id = unsafe { sock::id(sk) };
    let Some(entry) = sockets::get(id).or_else(|| sockets::claim(id)) else { return };
    told(entry);
    // SAFETY: no arguments.
    entry.start_ns = unsafe { bpf_ktime_get_ns() };
    task::write_owner(netns, &mut entry.owner);
    entry.flags = socket_flag::FROM_START | socket_flag::OUTBOUND;
    sockets::seal(id, entry);
    if config() & FLAG_ALL != 0
        || config() & FLAG_TRACK_PROCESSES != 0 && TRACKED.get_ptr(entry.owner.tgid).is_some()
    {
        ask(entry);
        watch_wire(sk, 0);
        passed(sk, state::CLOSE, state::SYN_SENT);
    }
}

/// Whether data or a FIN waits for its acknowledgement. A plain load: it spares most closes the read that follows.
#[inline(always)]
fn has_unacked(sk: *const c_void) -> bool {
    // SAFETY: `sk` is the tp_btf argument.
    unsafe { load::<u64>(sk, Field::SkRtxQueue) != 0 }
}

/// Whether data waits for the peer's window or, where no packet can be sent at all, for the next probe. A plain load,
/// too.
#[inline(always)]
fn has_unsent(sk: *const c_void) -> bool {
    // SAFETY: `sk` is the tp_btf argument.
    unsafe { load::<u32>(sk, Field::SkWriteQueueLen) != 0 }
}

#[inline(always)]
fn probes_out(sk: *const c_void) -> u8 {
    probe(sk, Field::IcskProbesOut).unwrap_or(0)
}

#[inline(always)]
fn retransmits(sk: *const c_void) -> u8 {
    probe(sk, Field::IcskRetransmits).unwrap_or(0)
}

/// Tells the tc programs that packets of this remote end matter: all of them, or one flow.
#[inline(always)]
fn watch_wire(sk: *const c_void, local_port: u16) {
    take_interest(interest(sk, local_port));
}

#[inline(always)]
fn interest(sk: *const c_void, local_port: u16) -> Interest {
    let tuple = sock::wire_tuple(sk, IPPROTO_TCP);
    Interest { address: tuple.daddr, port: tuple.dport, family: tuple.family, local_port, _pad: 0 }
}

/// A transition that is worth a step only where the user asked for everything.
#[inline(always)]
fn passed(sk: *const c_void, old: u8, new: u8) {
    if config() & (FLAG_ALL | FLAG_TRACK_PROCESSES) == 0 {
        return;
    }
    // SAFETY: `sk` is the tp_btf argument.
    if let Some(entry) = sockets::get(unsafe { sock::id(sk) })
        && entry.flags & socket_flag::ASKED != 0
    {
        add_step(sk, entry, step::STATE, (old as u16) << 8 | new as u16, 0);
    }
}

/// The application closes an established connection while its data goes unanswered.
#[inline(always)]
fn abandoned(sk: *const c_void, old: u8, new: u8) {
    // SAFETY: `sk` is the tp_btf argument.
    if let Some(entry) = unsafe { entry_of(sk) } {
        ask_if_tracked(entry);
        add_step(sk, entry, step::STATE, (old as u16) << 8 | new as u16, 0);
        send_connection(sk, entry, old, new, true);
        // Told: its end in CLOSE is no second failure.
        told(entry);
    }
}

/// The user wants to know how this one ends.
#[inline(always)]
fn ask(entry: &mut SocketEntry) {
    if entry.flags & socket_flag::ASKED == 0 {
        entry.flags |= socket_flag::ASKED;
        count(Counter::Asked);
    }
}

#[inline(always)]
fn told(entry: &mut SocketEntry) {
    if entry.flags & socket_flag::ASKED != 0 {
        entry.flags &= !socket_flag::ASKED;
        count(Counter::AskedDone);
    }
}

/// A socket that came through accept() or was open before is asked for if a followed process closes it.
#[inline(always)]
fn ask_if_tracked(entry: &mut SocketEntry) {
    if config() & FLAG_TRACK_PROCESSES != 0 && TRACKED.get_ptr(task::tgid()).is_some() {
        ask(entry);
    }
}

#[inline(always)]
fn closed(sk: *const c_void, old: u8) {
    // Without one of these both sides have said goodbye.
    let abrupt = matches!(old, state::SYN_SENT | state::ESTABLISHED | state::CLOSE_WAIT);
    // SAFETY: `sk` is the tp_btf argument.
    let id = unsafe { sock::id(sk) };
    let place = sockets::find(id);
    let entry = match place {
        Some(place) => place.entry(),
        None if abrupt => made_now(id, sk),
        None => None,
    };
    let Some(entry) = entry else { return };
    const MORE: u32 = socket_flag::ASKED | socket_flag::TIMELINE | socket_flag::SUSPECT;
    if abrupt || entry.flags & MORE != 0 {
        sockets::verify(id, entry);
        ended(sk, old, abrupt, entry);
        // Looked for once more: with `place` kept the verifier would walk the above for each of its values.
        if let Some(place) = sockets::find(id) {
            place.give_to(0);
        }
    } else if let Some(place) = place {
        place.give_to(0);
    }
}

/// The end of a connection that has something to tell.
#[inline(always)]
fn ended(sk: *const c_void, old: u8, abrupt: bool, entry: &mut SocketEntry) {
    // SAFETY: `sk` is the tp_btf argument.
    let (err, owned) = unsafe { (load::<u32>(sk, Field::SkErr), load::<u32>(sk, Field::SkLockOwned)) };
    // A child that nobody accepted belongs to no file yet: its listener closes it without taking its lock.
    let in_process =
        err == 0 && (owned != 0 || old != state::SYN_SENT && probe_pointer(sk, Field::SkSocket).is_none());
    if abrupt && in_process {
        ask_if_tracked(entry);
    }
    if abrupt && err == 0 && !in_process {
        entry.flags |= socket_flag::ERROR_TAKEN;
    }
    if abrupt || entry.flags & socket_flag::ASKED != 0 {
        if entry.flags & (socket_flag::TIMELINE | socket_flag::ASKED) != 0 {
            add_step(sk, entry, step::STATE, (old as u16) << 8 | state::CLOSE as u16, 0);
        }
        send_connection(sk, entry, old, state::CLOSE, in_process);
        told(entry);
    }
    // An answer to an application that has left is still evidence: that flow stays, and the LRU map ages it.
    if entry.flags & socket_flag::SUSPECT != 0 && !(old == state::SYN_SENT && in_process) {
        let _ = INTEREST.remove(interest(sk, sock::local_port(sk)));
    }
    if entry.flags & socket_flag::TIMELINE != 0 {
        let _ = TIMELINES.remove(sk as u64);
    }
}

/// The socket's entry; made now, without an owner, if trouble finds none.
///
/// # Safety
/// `sk` is the non-null `struct sock *` argument of a tp_btf program.
#[inline(always)]
pub unsafe fn entry_of(sk: *const c_void) -> Option<&'static mut SocketEntry> {
    // SAFETY: the caller's contract.
    let id = unsafe { sock::id(sk) };
    match sockets::get(id) {
        Some(entry) => {
            sockets::verify(id, entry);
            Some(entry)
        }
        None => made_now(id, sk),
    }
}

#[inline(always)]
fn made_now(id: u64, sk: *const c_void) -> Option<&'static mut SocketEntry> {
    let entry = sockets::claim(id)?;
    // SAFETY: no arguments.
    entry.start_ns = unsafe { bpf_ktime_get_ns() };
    entry.owner = Owner { netns: sock::netns(sk), ..Owner::default() };
    sockets::seal(id, entry);
    if config() & FLAG_ALL != 0 {
        ask(entry);
    }
    Some(entry)
}

/// A SYN was sent again: user space looks at the way and at the listener while the trouble is there.
#[inline(always)]
pub fn suspect(sk: *const c_void, entry: &mut SocketEntry) {
    if entry.flags & socket_flag::SUSPECT == 0 {
        entry.flags |= socket_flag::SUSPECT;
        watch_wire(sk, sock::local_port(sk));
    }
    send::<SuspectRecord>(kind::SUSPECT, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk as u64;
        record.start_ns = entry.start_ns;
        record.owner = entry.owner;
        record.tuple = sock::tuple(sk, IPPROTO_TCP);
        record.netns = entry.owner.netns;
        record.flags = entry.flags;
    });
}

#[inline(always)]
fn send_connection(sk: *const c_void, entry: &SocketEntry, old: u8, new: u8, in_process: bool) {
    send::<ConnectionRecord>(kind::CONNECTION, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk as u64;
        // SAFETY: `sk` is the tp_btf argument.
        record.cookie = unsafe { sock::make_cookie(sk) };
        record.start_ns = entry.start_ns;
        record.owner = entry.owner;
        record.tuple = sock::tuple(sk, IPPROTO_TCP);
        record.netns = entry.owner.netns;
        record.sk_flags = probe(sk, Field::SkFlags).unwrap_or(0);
        record.sk_err = probe(sk, Field::SkErr).unwrap_or(0);
        record.sk_err_soft = probe(sk, Field::SkErrSoft).unwrap_or(0);
        record.old_state = old;
        record.new_state = new;
        record._pad = [0; 2];
        record.bound_dev_if = probe(sk, Field::SkBoundDevIf).unwrap_or(0);
        sock::write_summary(sk, &mut record.tcp);
        record.flags = entry.flags;
        record.closer_tgid = 0;
        record.closer_uid = 0;
        record.closer_comm = [0; 16];
        record.dropped_syn = DroppedSyn::default();
        if old == state::SYN_SENT && !in_process {
            dropped_syns::take(&record.tuple, record.start_ns, &mut record.dropped_syn);
        }
        if in_process {
            let closer = task::owner(0);
            record.closer_tgid = closer.tgid;
            record.closer_uid = closer.uid;
            record.closer_comm = closer.comm;
            record.flags |= socket_flag::CLOSER_KNOWN;
            if task::is_exiting() {
                record.flags |= socket_flag::CLOSER_EXITING;
            }
        }
        timeline::copy(sk, entry, &mut record.timeline);
    });
}
