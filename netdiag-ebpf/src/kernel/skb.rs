//! `struct sk_buff`: the headers of a packet and where it was.

use core::ffi::c_void;

use netdiag_ebpf::fields::Field;
use netdiag_ebpf::records::{PacketInfo, direction};

use super::{load, netns_inum, probe, probe_at, probe_pointer, sock};

const IPPROTO_ICMP: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const IPPROTO_ICMPV6: u16 = 58;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86DD;
/// include/linux/skbuff.h: the low bits of `_skb_refdst` are flags.
const SKB_DST_PTRMASK: u64 = !7;

/// An IPv6 header without extensions and the part of a transport header that is looked at.
const HEADERS: usize = 40 + TRANSPORT;
const TRANSPORT: usize = 16;

/// Aligned, so that addresses are copied as words.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Headers([u8; HEADERS]);

/// Addresses, ports and flags of the packet in `skb`; `false` if it is no TCP, UDP or ICMP over IP.
///
/// One read copies all headers there commonly are: behind the data of a packet's linear part lies at least its
/// `skb_shared_info`, so a short packet is no fault.
///
/// # Safety
/// `skb` is the non-null `struct sk_buff *` argument of a tp_btf program.
#[inline(always)]
pub unsafe fn parse(skb: *const c_void, packet: &mut PacketInfo) -> bool {
    // SAFETY: the caller's contract.
    let (protocol, head, offset) = unsafe {
        (
            u16::from_be(load(skb, Field::SkbProtocol)),
            load::<u64>(skb, Field::SkbHead),
            load::<u16>(skb, Field::SkbNetworkHeader),
        )
    };
    // A packet of this host has no protocol yet where it is dropped before __ip_local_out.
    if protocol != ETH_P_IP && protocol != ETH_P_IPV6 && protocol != 0 {
        return false;
    }
    parse_at((head + offset as u64) as *const c_void, packet)
}

/// Whether a packet that [`parse`] refused is IP all the same, of a protocol whose header is not looked at.
///
/// # Safety
/// As [`parse`].
#[inline(always)]
pub unsafe fn is_ip(skb: *const c_void, packet: &PacketInfo) -> bool {
    // SAFETY: the caller's contract.
    let protocol = u16::from_be(unsafe { load(skb, Field::SkbProtocol) });
    packet.tuple.family != 0 && (protocol == ETH_P_IP || protocol == ETH_P_IPV6)
}

/// As [`parse`], for a network header at `ip`.
#[inline(always)]
pub fn parse_at(ip: *const c_void, packet: &mut PacketInfo) -> bool {
    let Some(Headers(bytes)) = probe_at(ip, 0) else { return false };
    let tuple = &mut packet.tuple;
    match bytes[0] {
        0x45..=0x4f => {
            tuple.family = sock::AF_INET;
            tuple.protocol = bytes[9] as u16;
            packet.ttl = bytes[8];
            tuple.saddr[..4].copy_from_slice(&bytes[12..16]);
            tuple.daddr[..4].copy_from_slice(&bytes[16..20]);
            // A later fragment carries no ports.
            if (bytes[6] & 0x1f) != 0 || bytes[7] != 0 {
                return true;
            }
            if bytes[0] == 0x45 {
                let (_, transport) = bytes.split_at(20);
                return parse_transport(transport, packet);
            }
            let length = ((bytes[0] & 0x0f) * 4) as usize;
            let Some(transport) = probe_at::<[u8; TRANSPORT]>(ip, length) else { return false };
            parse_transport(&transport, packet)
        }
        0x60..=0x6f => {
            tuple.family = sock::AF_INET6;
            tuple.protocol = bytes[6] as u16;
            packet.ttl = bytes[7];
            tuple.saddr.copy_from_slice(&bytes[8..24]);
            tuple.daddr.copy_from_slice(&bytes[24..40]);
            let (_, transport) = bytes.split_at(40);
            parse_transport(transport, packet)
        }
        _ => false,
    }
}

/// Where the network header is, by probe reads: a kprobe's argument has no type.
#[inline(always)]
pub fn network_header(skb: *const c_void) -> Option<*const c_void> {
    let head: u64 = probe(skb, Field::SkbHead)?;
    let offset: u16 = probe(skb, Field::SkbNetworkHeader)?;
    Some((head + offset as u64) as *const c_void)
}

/// Where the data begins: on the way in, before anybody looked at the packet, its network header.
#[inline(always)]
pub fn data(skb: *const c_void) -> Option<*const c_void> {
    probe_pointer(skb, Field::SkbData)
}

/// The packet that the ICMP error at `ip` quotes; its transport header is cut behind 8 bytes. `false` if it is none
/// of TCP or UDP. A function of its own: its frame and that of its callers would not fit one.
#[inline(never)]
pub fn parse_quoted(ip: *const c_void, error: &PacketInfo, quoted: &mut PacketInfo) -> bool {
    const ICMP_HEADER: usize = 8;
    let length = match error.tuple.family {
        sock::AF_INET6 => 40,
        _ => match probe_at::<u8>(ip, 0) {
            Some(first) => ((first & 0x0f) * 4) as usize,
            None => return false,
        },
    };
    let inner = ip.cast::<u8>().wrapping_add(length + ICMP_HEADER).cast::<c_void>();
    parse_at(inner, quoted) && quoted.tuple.dport != 0
}

#[inline(always)]
fn parse_transport(bytes: &[u8], packet: &mut PacketInfo) -> bool {
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
/// namespace does not look like one is not believed. Returns the address of the namespace (`struct net`), if the
/// device told it.
#[inline(always)]
pub fn place(skb: *const c_void, sk: Option<*const c_void>, packet: &mut PacketInfo) -> u64 {
    packet.iif = probe(skb, Field::SkbIif).unwrap_or(0);
    packet.direction = if packet.iif != 0 { direction::INGRESS } else { direction::EGRESS };
    if let Some(dev) = probe_pointer(skb, Field::SkbDev)
        && let Some(net) = device(dev, packet)
    {
        return net;
    }
    if let Some(refdst) = probe::<u64>(skb, Field::SkbDst)
        && refdst & SKB_DST_PTRMASK != 0
        && let Some(dev) = probe_pointer((refdst & SKB_DST_PTRMASK) as *const c_void, Field::DstDev)
        && let Some(net) = device(dev, packet)
    {
        return net;
    }
    if let Some(sk) = sk {
        packet.netns = sock::netns(sk);
    }
    0
}

/// Inode number of the network namespace of a packet's device; 0 where it is not known. [`place`] knows more.
#[inline(always)]
pub fn netns(skb: *const c_void) -> u32 {
    let net = probe_pointer(skb, Field::SkbDev).and_then(|dev| probe_pointer(dev, Field::DevNet));
    net.map_or(0, netns_inum)
}

/// Tells where a packet is from other places: by its device, or by the namespace of its socket.
#[inline(never)]
pub fn place_hash(skb: *const c_void, sk: Option<*const c_void>) -> u32 {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let device = probe::<u64>(skb, Field::SkbDev).unwrap_or(0);
    let place = match sk {
        Some(sk) if device == 0 => sock::netns(sk) as u64,
        _ => device,
    };
    (place.wrapping_mul(SPREAD) >> 32) as u32
}

#[inline(always)]
fn device(dev: *const c_void, packet: &mut PacketInfo) -> Option<u64> {
    let net = probe_pointer(dev, Field::DevNet)?;
    let inum = netns_inum(net);
    if inum == 0 {
        return None;
    }
    packet.netns = inum;
    packet.ifindex = probe(dev, Field::DevIfindex).unwrap_or(0);
    packet.ifname = probe(dev, Field::DevName).unwrap_or_default();
    Some(net as u64)
}

/// The socket that a packet belongs to; it may be a request or a TIME_WAIT socket.
///
/// # Safety
/// As [`parse`].
#[inline(always)]
pub unsafe fn socket(skb: *const c_void) -> Option<*const c_void> {
    // SAFETY: the caller's contract.
    let sk: *const c_void = unsafe { load(skb, Field::SkbSk) };
    (!sk.is_null()).then_some(sk)
}

/// Which records count together: those of a flow without the source port, and of a cause.
#[inline(always)]
pub fn flow_key(packet: &PacketInfo, cause: u32) -> u32 {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let tuple = &packet.tuple;
    let mut hash = (cause as u64) << 32 | (tuple.dport as u64) << 16 | tuple.protocol as u64;
    let addresses = (&raw const tuple.saddr).cast::<u64>();
    let mut word = 0;
    while word < 4 {
        // SAFETY: source and destination address are 32 bytes, one behind the other, aligned to 8 (`records`).
        hash = (hash ^ unsafe { addresses.add(word).read() }).wrapping_mul(SPREAD).rotate_left(29);
        word += 1;
    }
    (hash >> 32) as u32
}
