//! Probe `retransmit`: segments sent again.
//!
//! Hooks: `tcp_retransmit_skb` and `tcp_retransmit_synack` (net/ipv4/tcp_output.c), tp_btf. A retransmit is
//! the first sign of trouble, so the timeline begins here. From 6.18 the first has a third argument that is
//! not needed. The second is about a request that has no socket yet, so it is sent by itself, at a limited
//! rate: a SYN flood makes many. Cost: only on retransmits.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{SynAckRecord, kind, step};

use super::socket::{add_step, entry_of, suspect};
use crate::kernel::sock::{self, state};
use crate::kernel::{load, probe};
use crate::limits::permit;
use crate::maps::{count, send};

const IPPROTO_TCP: u16 = 6;

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint.
    let sk_state = unsafe { load::<u8>(sk, Field::SkState) };
    let retransmits = probe::<u8>(sk, Field::IcskRetransmits).unwrap_or(u8::MAX);
    // SAFETY: `sk` is the tp_btf argument.
    if let Some(entry) = unsafe { entry_of(sk) } {
        add_step(sk, entry, step::RETRANSMIT, sk_state as u16, retransmits as u32);
        if sk_state == state::SYN_SENT {
            suspect(sk, entry);
        }
    }
    0
}

#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    // struct request_sock begins with a sock_common, as struct sock does.
    let request: *const c_void = ctx.arg(1);
    let tuple = sock::tuple(request, IPPROTO_TCP);
    if permit(tuple.sport as u32 ^ 0x5ac0_0000).is_none() {
        count(Counter::OtherLimited);
        return 0;
    }
    let netns = sock::netns(request);
    send::<SynAckRecord>(kind::SYN_ACK_AGAIN, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.tuple = tuple;
        record.netns = netns;
        record._pad = 0;
    });
    0
}
