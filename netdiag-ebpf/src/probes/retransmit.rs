//! Probe `retransmit`: segments sent again.
//!
//! Hook: `tcp_retransmit_skb` (net/ipv4/tcp_output.c), tp_btf. A retransmit is the first sign of trouble, so
//! the timeline begins here. From 6.18 the tracepoint has a third argument that is not needed.
//! `tcp_retransmit_synack` has no connection to belong to yet: it is a step of the listener's client side only.
//! Cost: only on retransmits.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::step;

use super::socket::{add_step, entry_of, suspect};
use crate::kernel::sock::state;
use crate::kernel::{load, probe};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint.
    let sk_state = unsafe { load::<u8>(sk, Field::SkState) };
    let retransmits = probe::<u8>(sk, Field::IcskRetransmits).unwrap_or(u8::MAX);
    if let Some(entry) = entry_of(sk) {
        add_step(sk, entry, step::RETRANSMIT, sk_state as u16, retransmits as u32);
        if sk_state == state::SYN_SENT {
            suspect(sk, entry);
        }
    }
    0
}
