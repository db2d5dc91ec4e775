//! Probe `overflow`: a SYN that a listener has no room for.
//!
//! Hook: `tcp_conn_request` (net/ipv4/tcp_input.c), fentry or kprobe: the kernel drops such a SYN without a word, on
//! every version, and only counts it for the whole namespace (ListenOverflows). At its beginning the queue's length
//! tells what it will do (sk_acceptq_is_full). Where functions cannot be hooked, the listener's queues are sampled when
//! the SYN is sent again. Cost: two loads for each connection that comes to this machine.

use core::ffi::c_void;

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{OverflowRecord, PacketInfo, kind};

use crate::kernel::{load, probe, skb};
use crate::limits::permit_stranger;
use crate::maps::{count, send};

const CAUSE: u32 = 0x0f10_0000;

#[fentry(function = "tcp_conn_request")]
pub fn fentry_tcp_conn_request(ctx: FEntryContext) -> i32 {
    let listener: *const c_void = ctx.arg(2);
    if listener.is_null() {
        return 0;
    }
    // SAFETY: a BTF-typed argument, not null.
    let (waiting, most) = unsafe {
        (load::<u32>(listener, Field::SkAckBacklog), load::<u32>(listener, Field::SkMaxAckBacklog))
    };
    if waiting > most {
        refused(listener, ctx.arg(3), waiting, most);
    }
    0
}

#[kprobe]
pub fn kprobe_tcp_conn_request(ctx: ProbeContext) -> u32 {
    let (Some(listener), Some(syn)) = (ctx.arg::<*const c_void>(2), ctx.arg::<*const c_void>(3)) else {
        return 0;
    };
    let waiting: Option<u32> = probe(listener, Field::SkAckBacklog);
    let most: Option<u32> = probe(listener, Field::SkMaxAckBacklog);
    if let (Some(waiting), Some(most)) = (waiting, most)
        && waiting > most
    {
        refused(listener, syn, waiting, most);
    }
    0
}

#[inline(always)]
fn refused(listener: *const c_void, syn: *const c_void, waiting: u32, most: u32) {
    let mut packet = PacketInfo::default();
    if !skb::network_header(syn).is_some_and(|ip| skb::parse_at(ip, &mut packet)) {
        count(Counter::Unparsed);
        return;
    }
    if permit_stranger(skb::flow_key(&packet, CAUSE)).is_none() {
        count(Counter::OtherLimited);
        return;
    }
    skb::place(syn, Some(listener), &mut packet);
    send::<OverflowRecord>(kind::OVERFLOW, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.packet = packet;
        record.ack_backlog = waiting;
        record.max_ack_backlog = most;
    });
}
