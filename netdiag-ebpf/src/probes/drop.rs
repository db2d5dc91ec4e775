//! Probe `drop`: packets that the kernel threw away.
//!
//! Hook: `kfree_skb` (net/core/skbuff.c), tp_btf; nothing is paid for packets that are delivered. The reason
//! (5.17) is looked up in a table that user space fills from the kernel's own names: ordinary frees are
//! counted and no more. A record is limited per flow and cause; what is not sent is counted with the next.
//! For reasons that need it the kernel stack goes along: it names the netfilter hook.
//!
//! Trap: `skb->sk` may be a request or TIME_WAIT socket, and `skb->dev` scratch data: both are read with
//! probe reads and believed only where they make sense.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_get_stack;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::config::{DROP_IGNORE, DROP_SEND_STACK, FLAG_DROP_REASON};
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::records::{DropRecord, PacketInfo, STACK_DEPTH, kind, step};

use super::socket::add_step;
use crate::kernel::skb;
use crate::maps::{SOCKETS, config, count, drop_action, permit, send};

#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let reason = if config() & FLAG_DROP_REASON != 0 { ctx.arg::<u32>(2) } else { 0 };
    let action = drop_action(reason);
    if action == DROP_IGNORE {
        count(Counter::DropNoise);
        return 0;
    }
    let packet_skb: *const c_void = ctx.arg(0);
    let location: u64 = ctx.arg(1);
    let mut packet = PacketInfo::default();
    if !skb::parse(packet_skb, &mut packet) {
        count(Counter::Unparsed);
        return 0;
    }
    let sk = skb::socket(packet_skb);
    if let Some(sk) = sk
        && let Some(entry) = SOCKETS.get_ptr_mut(sk as u64)
    {
        // SAFETY: a live map value.
        add_step(sk, unsafe { &mut *entry }, step::DROP, 0, reason);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(suppressed) = permit(skb::flow_key(&packet, reason), now) else {
        count(Counter::DropLimited);
        return 0;
    };
    skb::place(packet_skb, sk, &mut packet);
    send::<DropRecord>(kind::DROP, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk.map_or(0, |sk| sk as u64);
        record.location = location;
        record.reason = reason;
        record.suppressed = suppressed;
        record.packet = packet;
        record._pad = 0;
        record.stack_len = 0;
        record.stack = [0; STACK_DEPTH];
        if action == DROP_SEND_STACK {
            // SAFETY: the buffer is as long as the size given.
            let bytes = unsafe {
                bpf_get_stack(ctx.as_ptr(), record.stack.as_mut_ptr().cast(), (STACK_DEPTH * 8) as u32, 0)
            };
            record.stack_len = if bytes > 0 { bytes as u32 / 8 } else { 0 };
        }
    });
    0
}
