//! Probe `reset`: RST received and sent.
//!
//! Hooks: `tcp_receive_reset` and `tcp_send_reset` (net/ipv4/tcp_input.c, tcp_ipv4.c), tp_btf. The second
//! fires with a null socket for a segment that belongs to none (6.12; before that not at all), and carries a
//! reason from 6.10. A RST for lack of a socket is told by `kfree_skb` on every kernel, so it is left to
//! probe `drop`. Cost: only on resets.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::config::FLAG_RESET_REASON;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{PacketInfo, ResetRecord, kind, step};

use super::socket::{add_step, entry_of};
use crate::kernel::{probe, skb};
use crate::maps::{SOCKETS, config, count, permit, send};

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    if let Some(entry) = entry_of(sk) {
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
    if let Some(entry) = SOCKETS.get_ptr_mut(sk as u64) {
        // SAFETY: a live map value.
        add_step(sk, unsafe { &mut *entry }, step::RESET_SENT, reason as u16, 0);
    }
    if packet_skb.is_null() {
        return 0;
    }
    let mut packet = PacketInfo::default();
    if !skb::parse(packet_skb, &mut packet) {
        count(Counter::Unparsed);
        return 0;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if permit(skb::flow_key(&packet, 0x5e7_0000 ^ reason), now).is_none() {
        count(Counter::OtherLimited);
        return 0;
    }
    skb::place(packet_skb, Some(sk), &mut packet);
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
