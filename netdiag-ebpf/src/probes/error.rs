//! Probe `error`: the error that a socket got.
//!
//! Hook: `inet_sk_error_report` (net/core/sock.c sk_error_report), tp_btf, 5.16. It fires with sk_err 0 when
//! the error is soft (an ICMP that arrives while connect() owns the socket): both fields are kept. For TCP it
//! fires after the socket went to CLOSE when the error killed it; that record carries the error itself.
//! Cost: only on errors.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{ErrorRecord, Owner, kind, socket_flag, step};

use super::socket::{add_step, entry_of};
use crate::kernel::load;
use crate::kernel::sock::{self, state};
use crate::limits::permit_error;
use crate::maps::{UDP_OWNERS, count, send};

const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: `sk` is the tp_btf argument, never null in this tracepoint.
    let (err, soft, protocol, sk_state) = unsafe {
        (
            load::<u32>(sk, Field::SkErr),
            load::<u32>(sk, Field::SkErrSoft),
            load::<u16>(sk, Field::SkProtocol),
            load::<u8>(sk, Field::SkState),
        )
    };
    let none = err == 0 && soft == 0;
    match protocol {
        IPPROTO_TCP if !none && sk_state != state::CLOSE => {
            // SAFETY: `sk` is the tp_btf argument.
            if let Some(entry) = unsafe { entry_of(sk) } {
                add_step(sk, entry, step::ERROR, err as u16, soft);
            }
        }
        IPPROTO_UDP => send_error(sk, err, soft),
        _ => {}
    }
    0
}

#[inline(always)]
fn send_error(sk: *const c_void, err: u32, soft: u32) {
    let tuple = sock::tuple(sk, IPPROTO_UDP);
    // The application is woken before the tracepoint and may have taken the error already. Transmit timestamps
    // come this way too: without an error only what a followed process has connected is told.
    let known = UDP_OWNERS.get_ptr(sk as u64).and_then(|known| {
        // SAFETY: a live map value.
        let known = unsafe { &*known };
        let same = known.local_port == tuple.sport as u32 && known.peer_port == tuple.dport as u32;
        same.then_some(known)
    });
    if err == 0 && soft == 0 && known.is_none() {
        return;
    }
    if !permit_error((tuple.sport as u32) << 16 ^ tuple.dport as u32 ^ err << 8) {
        count(Counter::OtherLimited);
        return;
    }
    send::<ErrorRecord>(kind::ERROR, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.sock = sk as u64;
        record.tuple = tuple;
        record.sk_err = err;
        record.sk_err_soft = soft;
        record.netns = sock::netns(sk);
        record.owner = Owner::default();
        record.flags = 0;
        if let Some(known) = known {
            record.owner = known.owner;
            record.flags = socket_flag::ASKED;
        }
    });
}
