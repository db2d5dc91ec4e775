//! Probe `icmp`: ICMP errors that this machine sends, and those that it receives.
//!
//! Sent: `icmp_send` (net/ipv4/icmp.c), tp_btf, 5.19; IPv4 only, `icmp6_send` has no tracepoint. It names the
//! host of this machine (a router in another network namespace, say) that told a client "unreachable".
//!
//! Received: `icmp_unreach` (net/ipv4/icmp.c; unreachable, time exceeded and the like) and `icmpv6_notify`
//! (net/ipv6/icmp.c), fentry or kprobe: no tracepoint shows them. They name the router that said it also where tc does
//! not watch yet, because the answer came to the first SYN. Not every kernel allows them; tc sees the same later.
//! The rest of the machine pays nothing: both run for ICMP errors only.

use core::ffi::c_void;

use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::records::{IcmpRecord, PacketInfo, direction, kind};

use super::wire::send_wire;
use crate::answer::answered;
use crate::kernel::skb;
use crate::limits::permit;
use crate::maps::{Scratch, count, packet_scratch, send};

const ICMP_REDIRECT: u32 = 5;

#[fentry(function = "icmp_unreach")]
pub fn fentry_icmp_unreach(ctx: FEntryContext) -> i32 {
    received(ctx.arg(0));
    0
}

#[kprobe]
pub fn kprobe_icmp_unreach(ctx: ProbeContext) -> u32 {
    if let Some(packet_skb) = ctx.arg(0) {
        received(packet_skb);
    }
    0
}

#[fentry(function = "icmpv6_notify")]
pub fn fentry_icmpv6_notify(ctx: FEntryContext) -> i32 {
    received(ctx.arg(0));
    0
}

#[kprobe]
pub fn kprobe_icmpv6_notify(ctx: ProbeContext) -> u32 {
    if let Some(packet_skb) = ctx.arg(0) {
        received(packet_skb);
    }
    0
}

/// Sends an ICMP error as probe `wire` does, with the packet that it quotes.
#[inline(always)]
fn received(packet_skb: *const c_void) {
    let Some([packet, quoted]) = packet_scratch(Scratch::IcmpReceived) else { return };
    let parsed = skb::network_header(packet_skb)
        .is_some_and(|ip| skb::parse_at(ip, packet) && skb::parse_quoted(ip, packet, quoted));
    if !parsed {
        count(Counter::Unparsed);
        return;
    }
    if permit(skb::flow_key(quoted, (packet.flags as u32) << 8 | packet.code as u32)).is_none() {
        count(Counter::OtherLimited);
        return;
    }
    skb::place(packet_skb, None, packet);
    packet.direction = direction::INGRESS;
    send_wire(packet, quoted);
}

#[btf_tracepoint(function = "icmp_send")]
pub fn icmp_send(ctx: BtfTracePointContext) -> i32 {
    let packet_skb: *const c_void = ctx.arg(0);
    let icmp_type = ctx.arg::<u32>(1);
    let icmp_code = ctx.arg::<u32>(2);
    if icmp_type == ICMP_REDIRECT {
        return 0;
    }
    let mut packet = PacketInfo::default();
    // SAFETY: the tp_btf argument, which is never null in this tracepoint.
    let answered = unsafe {
        let sk = skb::socket(packet_skb);
        answered(packet_skb, sk, icmp_type << 8 | icmp_code, &mut packet)
    };
    if !answered {
        return 0;
    }
    send::<IcmpRecord>(kind::ICMP_SENT, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.packet = packet;
        record.icmp_type = icmp_type;
        record.icmp_code = icmp_code;
    });
    0
}
