//! UDP datagrams, ordinary ones and such as no socket would send.

use std::io::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;

use crate::net::Namespace;

/// Sends datagrams of so many bytes from one socket inside.
///
/// # Errors
/// When the socket cannot be made. That one cannot be sent is no error: an ICMP error may have come back.
pub fn send(namespace: &Namespace, to: SocketAddr, bytes: usize, count: usize) -> Result<()> {
    namespace.enter(|| -> Result<()> {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        let socket = UdpSocket::bind(any)?;
        let data = vec![b'x'; bytes];
        for _ in 0..count {
            let _ = socket.send_to(&data, to);
        }
        Ok(())
    })?
}

/// A socket inside that takes datagrams, and reads none.
///
/// # Errors
/// When the address is taken.
pub fn receiver(namespace: &Namespace, at: SocketAddr) -> Result<UdpSocket> {
    namespace.enter(|| UdpSocket::bind(at))?.with_context(|| format!("binding {at}"))
}

/// An IPv4 datagram as it goes over the wire.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub port: u16,
    /// Its checksum is wrong.
    pub damaged: bool,
    /// Another IP protocol than UDP, with the same contents.
    pub protocol: Option<u8>,
}

impl Raw {
    /// Sends it from inside, whoever it says it is from.
    ///
    /// # Errors
    /// When a raw socket cannot be made, or the packet cannot leave.
    pub fn send(self, namespace: &Namespace, count: usize) -> Result<()> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(self.source.octets(), self.destination.octets(), 64)
            .udp(4711, self.port)
            .write(&mut bytes, b"some data")?;
        if self.damaged {
            // The last two bytes of the UDP header, behind 20 bytes of IP.
            bytes[26] ^= 0x55;
        }
        if let Some(protocol) = self.protocol {
            // The kernel writes the checksum of the IP header.
            bytes[9] = protocol;
        }
        namespace.enter(|| -> Result<()> {
            let socket = raw_socket()?;
            for _ in 0..count {
                send_to(&socket, &bytes, self.destination)?;
            }
            Ok(())
        })?
    }
}

/// The header is part of what is sent (IPPROTO_RAW, raw(7)).
fn raw_socket() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(Error::last_os_error()).context("a raw socket");
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_to(socket: &OwnedFd, bytes: &[u8], to: Ipv4Addr) -> Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.octets()) },
        sin_zero: [0; 8],
    };
    let length = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: both pointers are to live values, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    if sent < 0 { Err(Error::last_os_error()).context("sending a raw packet") } else { Ok(()) }
}

/// Has the socket take no packet (classic BPF: `ret #0`), or take each whole (`ret #-1`).
///
/// # Errors
/// When the kernel refuses the filter.
pub fn filter(socket: &UdpSocket, takes: bool) -> Result<()> {
    let length = if takes { u32::MAX } else { 0 };
    // BPF_RET | BPF_K
    let mut code = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: length }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    set_option(socket, libc::SO_ATTACH_FILTER, &program)
}

/// Gives the socket the smallest receive buffer that the kernel allows.
///
/// # Errors
/// When the kernel refuses.
pub fn small_buffer(socket: &UdpSocket) -> Result<()> {
    set_option(socket, libc::SO_RCVBUF, &1)
}

fn set_option<T>(socket: &UdpSocket, option: i32, value: &T) -> Result<()> {
    // SAFETY: `value` lives for the call, and is as long as said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 { Err(Error::last_os_error()).context("a socket option") } else { Ok(()) }
}
