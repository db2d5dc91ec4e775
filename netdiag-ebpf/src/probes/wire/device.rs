//! Probe `wire` without tc, where that has no links (before Linux 6.6).
//!
//! Hooks: `netif_receive_skb` and `net_dev_queue` (net/core/dev.c), tp_btf, attached only while some namespace is
//! watched. A clsact filter would do as well, but stays on the interface when netdiag is killed; a tracepoint is
//! gone with the process. Cost while attached: one read of the headers for each packet of the machine, whichever its
//! namespace, and no more for data segments.
//!
//! Trap: on the way in `netif_receive_skb` comes before the network header is noted, so the data's beginning
//! counts; on the way out the data begins with the link-layer header.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::records::{Tuple, direction};

use super::{is_noted, is_same_flow, opens, send_wire};
use crate::kernel::{skb, sock};
use crate::maps::{
    Scratch, WATCHED_NETNS, follow_translated, is_any_interest, is_interesting, packet_scratch,
};

const IPPROTO_TCP: u16 = 6;
/// include/net/net_namespace.h: the loopback interface has this index in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

#[btf_tracepoint(function = "netif_receive_skb")]
pub fn netif_receive_skb(ctx: BtfTracePointContext) -> i32 {
    let packet_skb: *const c_void = ctx.arg(0);
    if let Some(ip) = skb::data(packet_skb) {
        note(packet_skb, ip, Scratch::DeviceIngress);
    }
    0
}

#[btf_tracepoint(function = "net_dev_queue")]
pub fn net_dev_queue(ctx: BtfTracePointContext) -> i32 {
    let packet_skb: *const c_void = ctx.arg(0);
    if let Some(ip) = skb::network_header(packet_skb) {
        note(packet_skb, ip, Scratch::DeviceEgress);
    }
    0
}

/// Whether packets to this destination matter. A function of its own for the sake of the stack, as the next one.
#[inline(never)]
fn goes_to_interesting(tuple: &Tuple) -> bool {
    is_interesting(tuple.family, &tuple.daddr, tuple.dport, tuple.sport)
}

/// Reads the ends of the socket that sent a packet. Whether NAT made others of them, and the packet matters. Before
/// Linux 6.6 all of one chain of calls share 512 bytes of stack.
///
/// # Safety
/// `packet_skb` is the non-null argument of a tp_btf program.
#[inline(never)]
unsafe fn is_translated(packet_skb: *const c_void, packet: &Tuple, asked: &mut Tuple) -> bool {
    // SAFETY: the caller's contract.
    let Some(sk) = (unsafe { skb::socket(packet_skb) }) else { return false };
    *asked = sock::wire_tuple(sk, IPPROTO_TCP);
    asked.family == packet.family && !is_same_flow(packet, asked) && follow_translated(asked, packet)
}

#[inline(always)]
fn note(packet_skb: *const c_void, ip: *const c_void, way: Scratch) -> Option<()> {
    let [packet, quoted] = packet_scratch(way)?;
    if !skb::parse_at(ip, packet) || !is_noted(packet) || !is_any_interest() {
        return None;
    }
    let t = &packet.tuple;
    let is_error = t.protocol != IPPROTO_TCP;
    let wanted = match way {
        _ if is_error => {
            let parsed = skb::parse_quoted(ip, packet, quoted);
            let q = &quoted.tuple;
            parsed && goes_to_interesting(q)
        }
        Scratch::DeviceEgress => {
            let asked = &mut quoted.tuple;
            // SAFETY: the tp_btf argument, which is never null in this tracepoint.
            let changed = opens(packet) && unsafe { is_translated(packet_skb, t, asked) };
            if !changed {
                asked.family = 0;
            }
            changed || goes_to_interesting(t)
        }
        _ => is_interesting(t.family, &t.saddr, t.sport, t.dport),
    };
    if !wanted {
        return None;
    }
    skb::place(packet_skb, None, packet);
    packet.direction = match way {
        Scratch::DeviceEgress => direction::EGRESS,
        _ => direction::INGRESS,
    };
    if packet.ifindex == LOOPBACK_IFINDEX {
        return None;
    }
    WATCHED_NETNS.get_ptr(packet.netns)?;
    send_wire(packet, quoted);
    Some(())
}
