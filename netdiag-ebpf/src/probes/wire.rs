//! Probe `wire`: what was really on the wire, for the remote ends that matter.
//!
//! Hook: tc ingress and egress by TCX links; the tracepoints in `wire/device.rs` where the kernel has none. Notes SYN,
//! RST, FIN and ICMP errors with their TTL; never changes a packet or its verdict. A data segment on an
//! Ethernet device costs a few loads and no helper call; the map is asked only for the segments named.
//!
//! A SYN that leaves still has its socket, which knows nothing of NAT: if the two differ, the record tells both, and
//! packets of the flow that NAT has made matter as those of the socket's own do.

mod device;

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netdiag_ebpf::records::{PacketInfo, Tuple, WireRecord, direction, kind};

use crate::kernel::sock::{AF_INET, AF_INET6};
use crate::maps::{WIRE_SCRATCH, WireScratch, follow_translated, is_interesting, send};

/// TC_ACT_UNSPEC and TCX_NEXT: go on with the next program.
const PASS: i32 = -1;
/// include/uapi/linux/bpf.h: offsets relative to the network header, so that a device without a link-layer
/// header (tun) reads the same.
const BPF_HDR_START_NET: u32 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86DD;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// Length of a TCP header up to its flags.
const TCP_FLAGS_END: usize = 14;
const FIN_SYN_RST: u8 = 0x07;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
/// RFC 792: destination unreachable, time exceeded.
const ICMP_ERRORS: [u8; 2] = [3, 11];
/// RFC 4443: error messages have types below 128.
const ICMP6_FIRST_INFORMATIONAL: u8 = 128;

/// Whether a packet is one of those that matter: SYN, RST, FIN, or an ICMP error.
#[inline(always)]
pub fn is_noted(packet: &PacketInfo) -> bool {
    match packet.tuple.protocol as u8 {
        IPPROTO_TCP => packet.flags & FIN_SYN_RST != 0,
        IPPROTO_ICMP => packet.flags == ICMP_ERRORS[0] || packet.flags == ICMP_ERRORS[1],
        IPPROTO_ICMPV6 => packet.flags < ICMP6_FIRST_INFORMATIONAL,
        _ => false,
    }
}

/// Whether a packet opens a connection: then its socket has both ends still as the application asked for them.
#[inline(always)]
pub fn opens(packet: &PacketInfo) -> bool {
    packet.flags & SYN_ACK == SYN
}

/// Whether both have the same ends.
#[inline(always)]
pub fn is_same_flow(one: &Tuple, other: &Tuple) -> bool {
    one.sport == other.sport
        && one.dport == other.dport
        && one.daddr == other.daddr
        && one.saddr == other.saddr
}

/// Sends a packet; `quoted` is empty unless it is an ICMP error, or NAT has changed the packet.
#[inline(always)]
pub fn send_wire(packet: &PacketInfo, quoted: &PacketInfo) {
    send::<WireRecord>(kind::WIRE, |record| {
        // SAFETY: reserved memory of the ring buffer; copied in place, since by value both would be on the stack.
        unsafe {
            (&raw mut (*record).packet).copy_from_nonoverlapping(packet, 1);
            (&raw mut (*record).quoted).copy_from_nonoverlapping(&quoted.tuple, 1);
        }
    });
}

#[classifier]
pub fn wire_ingress(ctx: TcContext) -> i32 {
    note(&ctx, direction::INGRESS);
    PASS
}

#[classifier]
pub fn wire_egress(ctx: TcContext) -> i32 {
    note(&ctx, direction::EGRESS);
    PASS
}

#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is as large as the length given; the helper checks the packet's length.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr().cast::<c_void>(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: the helper filled it; all `T` used are arrays of bytes.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Addresses of an IP header at `offset`, its protocol, TTL and length in bytes.
#[inline(always)]
fn read_ip(ctx: &TcContext, family: u16, offset: u32, tuple: &mut Tuple) -> Option<(u8, u8, u32)> {
    tuple.family = family;
    if family == AF_INET {
        let ip: [u8; 20] = read(ctx, offset)?;
        // A later fragment carries no ports.
        if ip[6] & 0x1f != 0 || ip[7] != 0 {
            return None;
        }
        tuple.protocol = ip[9] as u16;
        tuple.saddr[..4].copy_from_slice(&ip[12..16]);
        tuple.daddr[..4].copy_from_slice(&ip[16..20]);
        Some((ip[9], ip[8], ((ip[0] & 0x0f) * 4) as u32))
    } else {
        let ip: [u8; 40] = read(ctx, offset)?;
        tuple.protocol = ip[6] as u16;
        tuple.saddr.copy_from_slice(&ip[8..24]);
        tuple.daddr.copy_from_slice(&ip[24..40]);
        Some((ip[6], ip[7], 40))
    }
}

/// The ends of the socket that sent a packet, where it can have sent it: IPv6 sockets send IPv4, too.
#[inline(always)]
fn read_socket(ctx: &TcContext, packet: &Tuple, tuple: &mut Tuple) -> Option<()> {
    // SAFETY: a field of the program's own context; the verifier knows what it points to.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a `struct bpf_sock` that the verifier knows. It allows loads of one field at a time, so they are volatile.
    unsafe {
        match read_volatile(&raw const (*sk).family) as u16 {
            AF_INET6 => {}
            AF_INET if packet.family == AF_INET => {}
            _ => return None,
        }
        let (saddr, daddr) = if packet.family == AF_INET {
            let (source, destination) = (&raw const (*sk).src_ip4, &raw const (*sk).dst_ip4);
            ([read_volatile(source), 0, 0, 0], [read_volatile(destination), 0, 0, 0])
        } else {
            let (source, destination) = (&raw const (*sk).src_ip6, &raw const (*sk).dst_ip6);
            let word = |of: *const [u32; 4], index: usize| read_volatile(of.cast::<u32>().add(index));
            let all = |of| [word(of, 0), word(of, 1), word(of, 2), word(of, 3)];
            (all(source), all(destination))
        };
        tuple.saddr = core::mem::transmute::<[u32; 4], [u8; 16]>(saddr);
        tuple.daddr = core::mem::transmute::<[u32; 4], [u8; 16]>(daddr);
        tuple.sport = read_volatile(&raw const (*sk).src_port) as u16;
        tuple.dport = u16::from_be(read_volatile(&raw const (*sk).dst_port));
    }
    tuple.family = packet.family;
    tuple.protocol = packet.protocol;
    Some(())
}

/// The headers that a data segment on an Ethernet device begins with, read without a helper call. `true`: a
/// segment without SYN, FIN and RST, or neither TCP nor ICMP; `false`: it may be one that matters, or
/// the packet does not look like that.
#[inline(always)]
fn is_bulk(ctx: &TcContext, family: u16) -> bool {
    const ETHERNET: usize = 14;
    let (ip_length, protocol_at) = if family == AF_INET { (20, 9) } else { (40, 6) };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + ETHERNET + ip_length + TCP_FLAGS_END > end {
        return false;
    }
    let byte = |offset: usize| {
        // SAFETY: `offset` is below what was compared with the packet's end.
        unsafe { ((start + offset) as *const u8).read() }
    };
    let first = byte(ETHERNET);
    let expected = if family == AF_INET {
        // No options, no fragment. Without a link-layer header the packet begins with 0x45, which as the first
        // byte of an Ethernet address is a multicast group.
        first == 0x45 && byte(0) & 1 == 0 && byte(ETHERNET + 6) & 0x3f == 0 && byte(ETHERNET + 7) == 0
    } else {
        first >> 4 == 6 && byte(0) >> 4 != 6
    };
    if !expected {
        return false;
    }
    match byte(ETHERNET + protocol_at) {
        IPPROTO_TCP => byte(ETHERNET + ip_length + TCP_FLAGS_END - 1) & FIN_SYN_RST == 0,
        IPPROTO_UDP => true,
        _ => false,
    }
}

#[inline(always)]
fn note(ctx: &TcContext, way: u8) -> Option<()> {
    // SAFETY: fields of the program's own context.
    let (protocol, ifindex, ingress_ifindex) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol as u16, (*skb).ifindex, (*skb).ingress_ifindex)
    };
    let family = match u16::from_be(protocol) {
        ETH_P_IP => AF_INET,
        ETH_P_IPV6 => AF_INET6,
        _ => return None,
    };
    if is_bulk(ctx, family) {
        return None;
    }
    // SAFETY: a per-CPU value of this direction; tc programs of one direction do not interrupt each other.
    let scratch = unsafe { &mut *WIRE_SCRATCH.get_ptr_mut((way == direction::EGRESS) as u32)? };
    *scratch = WireScratch::default();
    let WireScratch { packet, quoted } = scratch;
    packet.direction = way;
    packet.ifindex = ifindex;
    packet.iif = ingress_ifindex;
    let (next, ttl, length) = read_ip(ctx, family, 0, &mut packet.tuple)?;
    packet.ttl = ttl;
    match next {
        IPPROTO_TCP => {
            let tcp: [u8; 14] = read(ctx, length)?;
            packet.flags = tcp[13];
            if !is_noted(packet) {
                return None;
            }
            packet.seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            packet.tuple.sport = u16::from_be_bytes([tcp[0], tcp[1]]);
            packet.tuple.dport = u16::from_be_bytes([tcp[2], tcp[3]]);
            let t = &packet.tuple;
            if way == direction::EGRESS {
                let changed = opens(packet)
                    && read_socket(ctx, t, quoted).is_some()
                    && !is_same_flow(t, quoted)
                    && follow_translated(quoted, t);
                if !changed {
                    quoted.family = 0;
                    if !is_interesting(family, &t.daddr, t.dport, t.sport) {
                        return None;
                    }
                }
            } else {
                if !is_interesting(family, &t.saddr, t.sport, t.dport) {
                    return None;
                }
            }
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            let head: [u8; 2] = read(ctx, length)?;
            packet.flags = head[0];
            packet.code = head[1];
            if !is_noted(packet) {
                return None;
            }
            let inner = length + 8;
            let (_, _, inner_length) = read_ip(ctx, family, inner, quoted)?;
            let ports: [u8; 4] = read(ctx, inner + inner_length)?;
            quoted.sport = u16::from_be_bytes([ports[0], ports[1]]);
            quoted.dport = u16::from_be_bytes([ports[2], ports[3]]);
            if !is_interesting(family, &quoted.daddr, quoted.dport, quoted.sport) {
                return None;
            }
        }
        _ => return None,
    }
    send::<WireRecord>(kind::WIRE, |record| {
        // SAFETY: reserved memory of the ring buffer.
        let record = unsafe { &mut *record };
        record.packet = *packet;
        record.quoted = *quoted;
    });
    Some(())
}
