//! `struct sk_buff`: the headers of a packet and where it was.

use core::ffi::c_void;

use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{PacketInfo, direction};

use super::{netns_inum, probe, probe_at, probe_pointer, sock};

const IPPROTO_ICMP: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const IPPROTO_ICMPV6: u16 = 58;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86DD;
/// include/linux/skbuff.h: the low bits of `_skb_refdst` are flags.
const SKB_DST_PTRMASK: u64 = !7;

/// Start of the network header, if the packet is IP.
#[inline(always)]
fn network_header(skb: *const c_void) -> Option<*const c_void> {
    let protocol = u16::from_be(probe(skb, Field::SkbProtocol)?);
    // A packet of this host has no protocol yet where it is dropped before __ip_local_out.
    if protocol != ETH_P_IP && protocol != ETH_P_IPV6 && protocol != 0 {
        return None;
    }
    let head = probe_pointer(skb, Field::SkbHead)?;
    let offset: u16 = probe(skb, Field::SkbNetworkHeader)?;
    Some(head.cast::<u8>().wrapping_add(offset as usize).cast())
}

/// Addresses, ports and flags of the packet in `skb`; `false` if it is no TCP, UDP or ICMP over IP.
#[inline(always)]
pub fn parse(skb: *const c_void, packet: &mut PacketInfo) -> bool {
    let Some(ip) = network_header(skb) else { return false };
    let Some(first) = probe_at::<[u8; 20]>(ip, 0) else { return false };
    let tuple = &mut packet.tuple;
    let transport = if first[0] >> 4 == 4 {
        tuple.family = sock::AF_INET;
        tuple.protocol = first[9] as u16;
        packet.ttl = first[8];
        tuple.saddr[..4].copy_from_slice(&first[12..16]);
        tuple.daddr[..4].copy_from_slice(&first[16..20]);
        // A later fragment carries no ports.
        if (first[6] & 0x1f) != 0 || first[7] != 0 {
            return true;
        }
        ((first[0] & 0x0f) * 4) as usize
    } else if first[0] >> 4 == 6 {
        tuple.family = sock::AF_INET6;
        tuple.protocol = first[6] as u16;
        packet.ttl = first[7];
        let Some(addresses) = probe_at::<[[u8; 16]; 2]>(ip, 8) else { return false };
        tuple.saddr = addresses[0];
        tuple.daddr = addresses[1];
        40
    } else {
        return false;
    };
    parse_transport(ip, transport, packet)
}

#[inline(always)]
fn parse_transport(ip: *const c_void, offset: usize, packet: &mut PacketInfo) -> bool {
    let Some(bytes) = probe_at::<[u8; 16]>(ip, offset) else { return false };
    match packet.tuple.protocol {
        IPPROTO_TCP => {
            packet.seq = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            packet.flags = bytes[13];
        }
        IPPROTO_UDP => {}
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            packet.flags = bytes[0];
            packet.code = bytes[1];
            return true;
        }
        _ => return false,
    }
    packet.tuple.sport = u16::from_be_bytes([bytes[0], bytes[1]]);
    packet.tuple.dport = u16::from_be_bytes([bytes[2], bytes[3]]);
    true
}

/// Interface, direction and network namespace. `sk` is the socket that the packet belongs to, if known.
///
/// `skb->dev` shares its place with scratch data once the packet is queued to a socket: a device whose
/// namespace does not look like one is not believed.
#[inline(always)]
pub fn place(skb: *const c_void, sk: Option<*const c_void>, packet: &mut PacketInfo) {
    packet.iif = probe(skb, Field::SkbIif).unwrap_or(0);
    packet.direction = if packet.iif != 0 { direction::INGRESS } else { direction::EGRESS };
    if let Some(dev) = probe_pointer(skb, Field::SkbDev)
        && device(dev, packet)
    {
        return;
    }
    if let Some(refdst) = probe::<u64>(skb, Field::SkbDst)
        && refdst & SKB_DST_PTRMASK != 0
        && let Some(dev) = probe_pointer((refdst & SKB_DST_PTRMASK) as *const c_void, Field::DstDev)
        && device(dev, packet)
    {
        return;
    }
    if let Some(sk) = sk {
        packet.netns = sock::netns(sk);
    }
}

#[inline(always)]
fn device(dev: *const c_void, packet: &mut PacketInfo) -> bool {
    let inum = probe_pointer(dev, Field::DevNet).map_or(0, netns_inum);
    if inum == 0 {
        return false;
    }
    packet.netns = inum;
    packet.ifindex = probe(dev, Field::DevIfindex).unwrap_or(0);
    packet.ifname = probe(dev, Field::DevName).unwrap_or_default();
    true
}

/// The socket that a packet belongs to, as a plain address.
#[inline(always)]
pub fn socket(skb: *const c_void) -> Option<*const c_void> {
    probe_pointer(skb, Field::SkbSk)
}

/// Which record a packet's limit counts for: its flow without the source port, and the cause.
#[inline(always)]
pub fn flow_key(packet: &PacketInfo, cause: u32) -> u32 {
    let mut hash = cause ^ (packet.tuple.dport as u32) << 16 ^ packet.tuple.protocol as u32;
    let words = [&packet.tuple.saddr, &packet.tuple.daddr];
    for address in words {
        let mut i = 0;
        while i < 16 {
            let word = u32::from_ne_bytes([address[i], address[i + 1], address[i + 2], address[i + 3]]);
            hash = (hash ^ word).wrapping_mul(0x9E37_79B1).rotate_left(13);
            i += 4;
        }
    }
    hash | 1
}
