//! BPF programs of somebody else that drop what goes to, or comes from, one TCP port.

use std::os::fd::OwnedFd;

use anyhow::Result;

use crate::bpf::{self, Kind};
use crate::net::Family;

/// Their name.
pub const NAME: [u8; 8] = *b"nd_deny\0";

/// Which port of a packet is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Source(u16),
    Destination(u16),
}

/// Length of an Ethernet header; programs of control groups do not see it.
const ETHERNET: u64 = 14;

fn instruction(opcode: u64, destination: u64, source: u64, offset: u64, immediate: u64) -> u64 {
    opcode | destination << 8 | source << 12 | (offset & 0xffff) << 16 | (immediate & 0xffff_ffff) << 32
}

/// Where the port is in the packet, and the number that a load of two bytes gives.
fn wanted(family: Family, port: Port, before: u64) -> (u64, u64) {
    let header = if family == Family::V4 { 20 } else { 40 };
    let (within, port) = match port {
        Port::Source(port) => (0, port),
        Port::Destination(port) => (2, port),
    };
    (before + header + within, u64::from(u16::from_ne_bytes(port.to_be_bytes())))
}

/// By helper `bpf_skb_load_bytes`, for programs that get a socket buffer.
fn by_load(at: u64, port: u64, pass: u64, drop: u64) -> Vec<u64> {
    const SKB_LOAD_BYTES: u64 = 26;
    vec![
        // *(u64 *)(r10 - 8) = 0
        instruction(0x7a, 10, 0, -8_i64 as u64, 0),
        // r2 = at; r3 = r10 - 8; r4 = 2; call
        instruction(0xb7, 2, 0, 0, at),
        instruction(0xbf, 3, 10, 0, 0),
        instruction(0x07, 3, 0, 0, -8_i64 as u64),
        instruction(0xb7, 4, 0, 0, 2),
        instruction(0x85, 0, 0, 0, SKB_LOAD_BYTES),
        // r1 = *(u16 *)(r10 - 8); if r1 == port goto +2
        instruction(0x69, 1, 10, -8_i64 as u64, 0),
        instruction(0x15, 1, 0, 2, port),
        instruction(0xb7, 0, 0, 0, pass),
        instruction(0x95, 0, 0, 0, 0),
        instruction(0xb7, 0, 0, 0, drop),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// By access to the packet itself.
fn by_access(at: u64, port: u64, pass: u64, drop: u64) -> Vec<u64> {
    vec![
        // r2 = data; r3 = data_end; r4 = r2 + at + 2; if r4 > r3 goto pass
        instruction(0x61, 2, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, at + 2),
        instruction(0x2d, 4, 3, 2, 0),
        // r5 = *(u16 *)(r2 + at); if r5 == port goto drop
        instruction(0x69, 5, 2, at, 0),
        instruction(0x15, 5, 0, 2, port),
        instruction(0xb7, 0, 0, 0, pass),
        instruction(0x95, 0, 0, 0, 0),
        instruction(0xb7, 0, 0, 0, drop),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// For tc: drops (`TC_ACT_SHOT`), or leaves it to the next program.
///
/// # Errors
/// When the kernel refuses it.
pub fn for_tc(family: Family, port: Port) -> Result<OwnedFd> {
    let (at, port) = wanted(family, port, ETHERNET);
    bpf::load(Kind::SchedCls, 0, NAME, &by_load(at, port, -1_i64 as u64, 2))
}

/// For XDP: `XDP_DROP` or `XDP_PASS`.
///
/// # Errors
/// When the kernel refuses it.
pub fn for_xdp(family: Family, port: Port) -> Result<OwnedFd> {
    let (at, port) = wanted(family, port, ETHERNET);
    bpf::load(Kind::Xdp, 0, NAME, &by_access(at, port, 2, 1))
}

/// For a control group's packets, in either direction (`attach_type`).
///
/// # Errors
/// When the kernel refuses it.
pub fn for_group(family: Family, port: Port, attach_type: u64) -> Result<OwnedFd> {
    let (at, port) = wanted(family, port, 0);
    bpf::load(Kind::CgroupSkb, attach_type, NAME, &by_load(at, port, 1, 0))
}
