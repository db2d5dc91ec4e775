//! `struct sock` and what it is the head of.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_probe_read_kernel};
use netdiag_ebpf::fields::{ABSENT, Field};
use netdiag_ebpf::records::{TcpSummary, Tuple};

use super::{netns_inum, probe, probe_at, probe_pointer};
use crate::maps::{offset, origin};

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// include/net/tcp_states.h
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// Both ends of a socket by probe reads; `protocol` is the caller's, who knows it or reads it first.
#[inline(always)]
pub fn tuple(sk: *const c_void, protocol: u16) -> Tuple {
    let mut tuple = Tuple { protocol, ..Tuple::default() };
    fill_tuple(sk, &mut tuple);
    tuple
}

/// As [`tuple`], with the ends that packets of the socket have: it maps IPv4 where it is an IPv6 socket.
#[inline(always)]
pub fn wire_tuple(sk: *const c_void, protocol: u16) -> Tuple {
    let mut tuple = tuple(sk, protocol);
    if tuple.family == AF_INET6 && is_mapped(&tuple.daddr) {
        tuple.family = AF_INET;
        (tuple.saddr, tuple.daddr) = ([0; 16], [0; 16]);
        read_address(sk, Field::SkRcvSaddr, &mut tuple.saddr, 4);
        read_address(sk, Field::SkDaddr, &mut tuple.daddr, 4);
    }
    tuple
}

/// `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    const MASK: u128 = (1 << 96) - 1;
    const PREFIX: u128 = 0xffff << 80;
    u128::from_le_bytes(*address) & MASK == PREFIX
}

#[inline(always)]
fn fill_tuple(sk: *const c_void, tuple: &mut Tuple) {
    tuple.family = probe(sk, Field::SkFamily).unwrap_or(0);
    if tuple.family == AF_INET6 {
        read_address(sk, Field::SkV6RcvSaddr, &mut tuple.saddr, 16);
        read_address(sk, Field::SkV6Daddr, &mut tuple.daddr, 16);
    } else {
        read_address(sk, Field::SkRcvSaddr, &mut tuple.saddr, 4);
        read_address(sk, Field::SkDaddr, &mut tuple.daddr, 4);
    }
    tuple.dport = u16::from_be(probe(sk, Field::SkDport).unwrap_or(0));
    tuple.sport = local_port(sk);
}

#[inline(always)]
fn read_address(sk: *const c_void, field: Field, to: &mut [u8; 16], len: u32) {
    let offset = offset(field);
    if offset == ABSENT {
        return;
    }
    let source = sk.cast::<u8>().wrapping_add(offset as usize).cast::<c_void>();
    // SAFETY: `to` holds 16 bytes, `len` is at most that; the helper checks the source.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, source) };
}

/// Whether it is an IPv6 socket that may not carry IPv4 (`IPV6_V6ONLY`); `false` where the kernel does not tell.
#[inline(always)]
pub fn is_ipv6_only(sk: *const c_void) -> bool {
    let at = offset(Field::SkIpv6Only);
    at != ABSENT && probe_at::<u8>(sk, at as usize / 8).is_some_and(|bits| bits >> (at % 8) & 1 == 1)
}

/// The local port. `skc_num` is cleared before the last transition of a failed connect, `inet_sport` is not.
#[inline(always)]
pub fn local_port(sk: *const c_void) -> u16 {
    match probe::<u16>(sk, Field::SkNum) {
        Some(port) if port != 0 => port,
        _ => u16::from_be(probe(sk, Field::InetSport).unwrap_or(0)),
    }
}

/// Network namespace, by probe reads.
#[inline(always)]
pub fn netns(sk: *const c_void) -> u32 {
    probe_pointer(sk, Field::SkNet).map_or(0, netns_inum)
}

/// The cookie that sock_diag shows too, made now if the socket has none (tracing programs may from 5.12 on). It
/// is never used again, and a TIME_WAIT socket inherits it.
///
/// # Safety
/// `sk` is the non-null `struct sock *` argument of a tp_btf program.
#[inline(always)]
pub unsafe fn make_cookie(sk: *const c_void) -> u64 {
    // SAFETY: the caller's contract.
    unsafe { bpf_get_socket_cookie(sk.cast_mut()) }
}

/// A number for the socket, unique while it lives: its distance from [`origin`]. The verifier allows no arithmetic
/// on a pointer that it knows the type of, but the difference of two is a number.
///
/// # Safety
/// As [`make_cookie`].
#[inline(always)]
pub unsafe fn id(sk: *const c_void) -> u64 {
    (sk as u64).wrapping_sub(origin() as u64)
}

/// What `tcp_sock` knows now.
#[inline(always)]
pub fn write_summary(sk: *const c_void, to: &mut TcpSummary) {
    to.bytes_acked = probe(sk, Field::TcpBytesAcked).unwrap_or(u64::MAX);
    to.bytes_received = probe(sk, Field::TcpBytesReceived).unwrap_or(u64::MAX);
    to.srtt_us8 = probe(sk, Field::TcpSrtt).unwrap_or(ABSENT);
    to.total_retrans = probe(sk, Field::TcpTotalRetrans).unwrap_or(ABSENT);
    to.packets_out = probe(sk, Field::TcpPacketsOut).unwrap_or(ABSENT);
    to.unread = difference(sk, Field::TcpRcvNxt, Field::TcpCopiedSeq);
    to.unacked = difference(sk, Field::TcpWriteSeq, Field::TcpSndUna);
    to.user_timeout_ms = probe(sk, Field::IcskUserTimeout).unwrap_or(ABSENT);
    to.retransmits = probe(sk, Field::IcskRetransmits).unwrap_or(u8::MAX);
    to.probes_out = probe(sk, Field::IcskProbesOut).unwrap_or(u8::MAX);
    to._pad = [0; 6];
    to.lingertime = probe(sk, Field::SkLingertime).unwrap_or(u64::MAX);
}

#[inline(always)]
fn difference(sk: *const c_void, ahead: Field, behind: Field) -> u32 {
    match (probe::<u32>(sk, ahead), probe::<u32>(sk, behind)) {
        (Some(ahead), Some(behind)) => ahead.wrapping_sub(behind),
        _ => ABSENT,
    }
}
