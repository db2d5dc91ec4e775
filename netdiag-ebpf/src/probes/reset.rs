//! Probe `reset`: RST received and sent.
//!
//! Hooks: `tcp_receive_reset` and `tcp_send_reset` (net/ipv4/tcp_input.c, tcp_ipv4.c), tp_btf. The second
//! fires with a null socket for a segment that belongs to none (6.12; before that not at all), and carries a
//! reason from 6.10. A RST for lack of a socket is told by `kfree_skb` on every kernel, so it is left to
//! probe `drop`. Cost: only on resets.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::config::FLAG_RESET_REASON;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{PacketInfo, ResetRecord, kind, step};

use super::socket::{add_step, entry_of};
use crate::answer::answered;
use crate::kernel::{probe, sock};
use crate::maps::{config, send};
use crate::sockets;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: `sk` is the tp_btf argument.
    if let Some(entry) = unsafe { entry_of(sk) } {
        add_step(sk, entry, step::RESET_RECEIVED, 0, 0);
    }
    0
}

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let packet_skb: *const c_void = ctx.arg(1);
    let reason = if config() & FLAG_RESET_REASON != 0 { ctx.arg::<u32>(2) + 1 } else { 0 };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: `sk` is the tp_btf argument, not null.
    if let Some(entry) = sockets::get(unsafe { sock::id(sk) }) {
        add_step(sk, entry, step::RESET_SENT, reason as u16, 0);
    }
    if packet_skb.is_null() {
        return 0;
    }
    let mut packet = PacketInfo::default();
    // SAFETY: the tp_btf argument, not null.
    if !unsafe { answered(packet_skb, Some(sk), 0x5e7_0000 ^ reason, &mut packet) } {
        return 0;
    }
    send::<ResetRecord>(kind::RESET_SENT, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk as u64;
        record.packet = packet;
        record.reason = reason;
        record.sk_state = probe::<u8>(sk, Field::SkState).unwrap_or(0) as u32;
        record.ack_backlog = probe(sk, Field::SkAckBacklog).unwrap_or(0);
        record.max_ack_backlog = probe(sk, Field::SkMaxAckBacklog).unwrap_or(0);
    });
    0
}
