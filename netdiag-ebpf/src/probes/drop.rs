//! Probe `drop`: packets that the kernel threw away.
//!
//! Hook: `kfree_skb` (net/core/skbuff.c), tp_btf; nothing is paid for packets that are delivered. The reason
//! (5.17) is looked up in a table that user space fills from the kernel's own names: ordinary frees are
//! counted and no more. A record is limited per flow and cause; what is not sent is counted with the next.
//! For reasons that need it the kernel stack goes along: it names the netfilter hook.
//!
//! nftables frees the packet inside `nft_do_chain` (6.1.192, 6.7), whose frame is still there: for its reason the
//! memory of the frames goes along, from which user space finds the rule (netdiag-user/src/enrich/firewall). That
//! is one and a half kilobytes, and about a microsecond, for a dropped packet whose record the limit permits.
//!
//! XDP programs drop without a reason (`do_xdp_generic`, `veth_xdp_rcv_skb`), as many others do who mean no harm:
//! such drops are told where user space asks about the function, which it does while such programs are loaded.
//!
//! Trap: `skb->sk` may be a request or TIME_WAIT socket, and `skb->dev` scratch data: both are read with
//! probe reads and believed only where they make sense.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_stack;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::config::{DROP_BY_PLACE, DROP_IGNORE, DROP_SEND, DROP_SEND_FRAMES};
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{DropRecord, FramesDropRecord, PacketInfo, STACK_DEPTH, kind, step};

use super::socket::add_step;
use crate::kernel::{load, raw, skb, sock};
use crate::limits::{permit, permit_frames, permit_stranger};
use crate::maps::{count, drop_action, is_any_interest, is_asked_place, is_interesting, send};
use crate::{dropped_syns, sockets, totals};

#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let reason: u32 = ctx.arg(2);
    let location: u64 = ctx.arg(1);
    let action = match drop_action(reason) {
        DROP_BY_PLACE if is_asked_place(location) => DROP_SEND,
        DROP_BY_PLACE => DROP_IGNORE,
        action => action,
    };
    let counts = totals::wanted();
    if counts {
        totals::count(reason);
    }
    if action == DROP_IGNORE {
        count(Counter::DropNoise);
        return 0;
    }
    let packet_skb: *const c_void = ctx.arg(0);
    let mut packet = PacketInfo::default();
    // SAFETY: the tp_btf argument, which is never null in this tracepoint.
    let (parsed, sk) = unsafe { (skb::parse(packet_skb, &mut packet), skb::socket(packet_skb)) };
    // Of other protocols than a connection can have, addresses are all there is to tell.
    // SAFETY: as above.
    let is_told = parsed || counts && unsafe { skb::is_ip(packet_skb, &packet) };
    if !is_told {
        count(Counter::Unparsed);
        if counts {
            totals::count_unparsed(reason);
        }
        return 0;
    }
    // SAFETY: as above; a BTF-typed pointer.
    let own = sk.and_then(|sk| unsafe { sockets::get(sock::id(sk)) }.map(|entry| (sk, entry)));
    let is_stranger = own.is_none();
    if is_stranger {
        // SAFETY: the tp_btf argument, which was parsed.
        unsafe { dropped_syns::note(packet_skb, &packet, reason) };
    }
    let salt = match own {
        Some((sk, entry)) => {
            add_step(sk, entry, step::DROP, 0, reason);
            entry.start_ns as u32
        }
        // Counts of two network namespaces with the same addresses must not mix.
        None if counts => skb::place_hash(packet_skb, sk),
        None => 0,
    };
    // SAFETY: as above.
    let permitted = unsafe { permission(packet_skb, &packet, reason, salt, is_stranger) };
    if permitted == NOT_PERMITTED {
        count(Counter::DropLimited);
        return 0;
    }
    let net = skb::place(packet_skb, sk, &mut packet);
    let fill = |record: &mut DropRecord| {
        record.sock = sk.map_or(0, |sk| sk as u64);
        record.location = location;
        record.reason = reason;
        record.suppressed = (permitted >> 32) as u32 - 1;
        record.packet = packet;
        record.limit_key = permitted as u32;
        record.stack_len = 0;
        record.stack = [0; STACK_DEPTH];
        if action != DROP_SEND {
            // SAFETY: the buffer is as long as the size given.
            let bytes = unsafe {
                bpf_get_stack(ctx.as_ptr(), record.stack.as_mut_ptr().cast(), (STACK_DEPTH * 8) as u32, 0)
            };
            record.stack_len = if bytes > 0 { bytes as u32 / 8 } else { 0 };
        }
    };
    if action == DROP_SEND_FRAMES && permit_frames(is_stranger) {
        send::<FramesDropRecord>(kind::DROP_WITH_FRAMES, |record| {
            // SAFETY: reserved memory of the ring buffer.
            let record = unsafe { &mut *record };
            fill(&mut record.drop);
            record.net = net;
            record._pad = 0;
            record.frames_len = raw::copy_frames(&mut record.base, &mut record.frames);
        });
    } else {
        // SAFETY: as above.
        send::<DropRecord>(kind::DROP, |record| fill(unsafe { &mut *record }));
    }
    0
}

const NOT_PERMITTED: u64 = 0;

/// Whether a record may be sent: in the upper half how many were suppressed before it, and one; in the lower half the
/// key that it is limited by. A function of its own for the sake of the stack.
///
/// # Safety
/// `skb` is the non-null argument of a tp_btf program.
#[inline(never)]
unsafe fn permission(
    skb: *const c_void,
    packet: &PacketInfo,
    reason: u32,
    salt: u32,
    is_stranger: bool,
) -> u64 {
    let yes = |suppressed: u32, key: u32| (suppressed as u64 + 1) << 32 | key as u64;
    let key = skb::flow_key(packet, reason) ^ salt;
    if !is_stranger {
        return permit(key).map_or(NOT_PERMITTED, |suppressed| yes(suppressed, key));
    }
    if let Some(suppressed) = permit_stranger(key) {
        return yes(suppressed, key);
    }
    // SAFETY: the caller's contract.
    unsafe { permit_awaited(skb, packet, key) }.map_or(NOT_PERMITTED, |suppressed| yes(suppressed, !key))
}

/// In a flood: packets that a connection in trouble waits for are told all the same.
///
/// # Safety
/// `skb` is the non-null argument of a tp_btf program.
#[inline(always)]
unsafe fn permit_awaited(skb: *const c_void, packet: &PacketInfo, key: u32) -> Option<u32> {
    // SAFETY: the caller's contract.
    let came_in = unsafe { load::<u32>(skb, Field::SkbIif) } != 0;
    let tuple = &packet.tuple;
    if came_in && is_any_interest() && is_interesting(tuple.family, &tuple.saddr, tuple.sport, tuple.dport) {
        return permit(!key);
    }
    None
}
