//! A flood of packets that this machine drops: SYNs to a closed port, from many ports, and datagrams to a port
//! where a firewall rule drops them.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flooded {
    pub syns: u64,
    pub datagrams: u64,
    pub seconds: f64,
}

const BATCH: usize = 64;
/// Source ports, and so flows, of the SYNs.
const FLOWS: u16 = 4096;
const FIRST_PORT: u16 = 10_000;
const SYN_LENGTH: usize = 40;

pub fn run(seconds: f64, udp: SocketAddrV4, syn: SocketAddrV4) -> Result<Flooded> {
    let datagram = UdpSocket::bind("0.0.0.0:0")?;
    datagram.connect(udp)?;
    let raw = raw_socket().context("a raw socket")?;
    let packets: Vec<[u8; SYN_LENGTH]> = (0..FLOWS).map(|flow| packet(syn, FIRST_PORT + flow)).collect();
    let payloads = [[0; SYN_LENGTH]; BATCH];
    let start = Instant::now();
    let (mut syns, mut datagrams) = (0, 0);
    let mut batches = packets.chunks(BATCH).cycle();
    while start.elapsed().as_secs_f64() < seconds {
        if let Some(batch) = batches.next() {
            syns += send(raw.as_raw_fd(), batch, Some(syn))?;
        }
        datagrams += send(datagram.as_raw_fd(), &payloads, None)?;
    }
    Ok(Flooded { syns, datagrams, seconds: start.elapsed().as_secs_f64() })
}

fn raw_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers. IPPROTO_RAW means that the packets bring their own IP header.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends all packets with one system call; how many the kernel took.
fn send(socket: RawFd, packets: &[[u8; SYN_LENGTH]], to: Option<SocketAddrV4>) -> Result<u64> {
    let mut address = to.map(|to| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    });
    let (name, name_length) = match &mut address {
        Some(address) => (std::ptr::from_mut(address).cast(), size_of::<libc::sockaddr_in>()),
        None => (std::ptr::null_mut(), 0),
    };
    let mut vectors: Vec<libc::iovec> = packets
        .iter()
        .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: mmsghdr is plain integers and pointers, for which zero is valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = name;
            message.msg_hdr.msg_namelen = name_length as u32;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    // SAFETY: the messages point to `address`, `vectors` and `packets`, which live for the call; the kernel
    // only reads the packets.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), messages.len() as u32, 0) };
    if sent < 0 {
        let error = io::Error::last_os_error();
        // A full queue is what a flood may meet.
        return if error.raw_os_error() == Some(libc::ENOBUFS) {
            Ok(0)
        } else {
            Err(error).context("sendmmsg")
        };
    }
    Ok(sent as u64)
}

/// An IPv4 header and a TCP SYN (RFC 791, RFC 9293).
fn packet(to: SocketAddrV4, source_port: u16) -> [u8; SYN_LENGTH] {
    let mut bytes = [0; SYN_LENGTH];
    bytes[0] = 0x45;
    bytes[3] = SYN_LENGTH as u8;
    bytes[8] = 64;
    bytes[9] = libc::IPPROTO_TCP as u8;
    bytes[12..16].copy_from_slice(&[127, 0, 0, 1]);
    bytes[16..20].copy_from_slice(&to.ip().octets());
    bytes[20..22].copy_from_slice(&source_port.to_be_bytes());
    bytes[22..24].copy_from_slice(&to.port().to_be_bytes());
    bytes[24..28].copy_from_slice(&u32::from(source_port).to_be_bytes());
    bytes[32] = 0x50;
    bytes[33] = 0x02;
    bytes[34..36].copy_from_slice(&64_240_u16.to_be_bytes());
    let pseudo = [0, libc::IPPROTO_TCP as u8, 0, 20];
    let checksum = checksum(&[&bytes[12..20], &pseudo, &bytes[20..]]);
    bytes[36..38].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        let packet = packet("127.0.0.1:9".parse().unwrap(), 10_001);
        assert_eq!(checksum(&[&packet[12..20], &[0, 6, 0, 20], &packet[20..]]), 0);
    }
}
