//! Probe `route`: route lookups that failed.
//!
//! Hooks: `fib_table_lookup` (net/ipv4/fib_trie.c) and `fib6_table_lookup` (net/ipv6/route.c), tp_btf. They
//! fire for every lookup, several a connection, so the error is tested first and nothing else read. EAGAIN
//! means "not in this table" and is ordinary where policy routing asks several: it is sent only for a
//! forwarded packet in table main or default. The local case is told by connect()'s own result.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::fields::{ABSENT, Field};
use netdiag_ebpf::records::{Owner, RouteRecord, Tuple, kind};

use crate::kernel::{netns_inum, probe, probe_at, sock, task};
use crate::limits::permit;
use crate::maps::{count, offset, send};

const EAGAIN: u32 = 11;
const EINVAL: u32 = 22;
const EACCES: u32 = 13;
const EHOSTUNREACH: u32 = 113;
const IPPROTO_TCP: u8 = 6;
/// include/uapi/linux/rtnetlink.h
const RT_TABLE_DEFAULT: u32 = 253;
const RT_TABLE_MAIN: u32 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTN_BLACKHOLE: u8 = 6;
const RTN_PROHIBIT: u8 = 8;
/// include/uapi/linux/route.h
const RTF_REJECT: u32 = 0x0200;
/// include/net/flow.h: a lookup for a packet of this host.
const LOOPBACK_IFINDEX: u32 = 1;

#[btf_tracepoint(function = "fib_table_lookup")]
pub fn fib_table_lookup(ctx: BtfTracePointContext) -> i32 {
    let err = ctx.arg::<i32>(3);
    if err >= 0 {
        return 0;
    }
    let table = ctx.arg::<u32>(0);
    let flow: *const c_void = ctx.arg(1);
    let iif = probe::<u32>(flow, Field::FlowIif).unwrap_or(0);
    let errno = (-err) as u32;
    let forwarded = iif > LOOPBACK_IFINDEX;
    if errno == EAGAIN && !(forwarded && (table == RT_TABLE_MAIN || table == RT_TABLE_DEFAULT)) {
        return 0;
    }
    let mut tuple = Tuple { family: sock::AF_INET, protocol: IPPROTO_TCP as u16, ..Tuple::default() };
    if let (Some(saddr), Some(daddr)) =
        (probe::<[u8; 4]>(flow, Field::Flow4Saddr), probe::<[u8; 4]>(flow, Field::Flow4Daddr))
    {
        tuple.saddr[..4].copy_from_slice(&saddr);
        tuple.daddr[..4].copy_from_slice(&daddr);
    }
    // fib_table_lookup is not told the network namespace.
    send_route(flow, Field::Flow4Ports, tuple, table, errno, iif, 0);
    0
}

#[btf_tracepoint(function = "fib6_table_lookup")]
pub fn fib6_table_lookup(ctx: BtfTracePointContext) -> i32 {
    let result: *const c_void = ctx.arg(1);
    if probe::<u32>(result, Field::Fib6Flags).unwrap_or(0) & RTF_REJECT == 0 {
        return 0;
    }
    let kind = probe::<u8>(result, Field::Fib6Type).unwrap_or(0);
    let flow: *const c_void = ctx.arg(3);
    let iif = probe::<u32>(flow, Field::FlowIif).unwrap_or(0);
    // The null entry of an empty table is "unreachable" too: without a packet that came in it says nothing.
    if kind != RTN_BLACKHOLE && kind != RTN_PROHIBIT && iif <= LOOPBACK_IFINDEX {
        return 0;
    }
    let errno = match kind {
        RTN_BLACKHOLE => EINVAL,
        RTN_PROHIBIT => EACCES,
        _ => EHOSTUNREACH,
    };
    let table_pointer: *const c_void = ctx.arg(2);
    let table = probe::<u32>(table_pointer, Field::Fib6TableId).unwrap_or(0);
    // The local table has no route for what is forwarded: the next table is asked.
    if table == RT_TABLE_LOCAL {
        return 0;
    }
    let netns = netns_inum(ctx.arg(0));
    let mut tuple = Tuple { family: sock::AF_INET6, protocol: IPPROTO_TCP as u16, ..Tuple::default() };
    tuple.saddr = probe(flow, Field::Flow6Saddr).unwrap_or_default();
    tuple.daddr = probe(flow, Field::Flow6Daddr).unwrap_or_default();
    send_route(flow, Field::Flow6Ports, tuple, table, errno, iif, netns);
    0
}

#[inline(always)]
fn send_route(
    flow: *const c_void,
    ports: Field,
    mut tuple: Tuple,
    table: u32,
    errno: u32,
    iif: u32,
    netns: u32,
) {
    // The lookup for a packet that came in names no protocol unless some rule looks at ports, and neither does that for
    // one of this host which NAT sends elsewhere (net/ipv4/netfilter.c, `ip_route_me_harder`).
    if !matches!(probe::<u8>(flow, Field::FlowProto), Some(IPPROTO_TCP | 0)) {
        return;
    }
    let ports = offset(ports);
    if ports != ABSENT
        && let Some([dport, sport]) = probe_at::<[u16; 2]>(flow, ports as usize)
    {
        tuple.dport = u16::from_be(dport);
        tuple.sport = u16::from_be(sport);
    }
    let key = u32::from_ne_bytes([tuple.daddr[0], tuple.daddr[1], tuple.daddr[2], tuple.daddr[3]]);
    if permit(key ^ errno << 24 ^ table).is_none() {
        count(Counter::OtherLimited);
        return;
    }
    // A lookup for a packet of this host runs in connect(); for a forwarded one `current` is anybody.
    let owner = if iif <= LOOPBACK_IFINDEX {
        task::owner(task::netns(task::current()))
    } else {
        Owner { netns, ..Owner::default() }
    };
    send::<RouteRecord>(kind::ROUTE, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.owner = owner;
        record.tuple = tuple;
        record.table = table;
        record.errno = errno;
        record.iif = iif;
        record.oif = probe(flow, Field::FlowOif).unwrap_or(0);
    });
}
