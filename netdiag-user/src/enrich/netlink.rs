//! Netlink requests and their answers, for the protocols that the other modules here speak.
//!
//! Every length that the kernel states is checked before it is used, and a request has a deadline, so that
//! no answer can make this module panic or hang. Format: RFC 3549 and include/uapi/linux/netlink.h; all
//! integers are in host byte order unless a protocol says otherwise.

use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::EnrichError;
use super::netns::{self, NetnsHandle};

pub(super) const HEADER: usize = 16;
/// The kernel fills at most 32 KiB per datagram of a dump (`netlink_recvmsg`); one message is smaller still.
pub(super) const RECEIVE_BUFFER: usize = 64 * 1024;
const DEADLINE_SECONDS: i64 = 5;
/// How often a dump is begun anew when the table changed under it.
const DUMP_ATTEMPTS: usize = 3;

const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_NOOP: u16 = libc::NLMSG_NOOP as u16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

/// One request: message type, the protocol's fixed header, attributes.
#[derive(Debug, Clone)]
pub(super) struct Request {
    what: &'static str,
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// `what` names the request in errors. `fixed` is the protocol's header, such as `struct rtmsg`.
    pub(super) fn new(what: &'static str, kind: u16, fixed: &[u8]) -> Self {
        let mut body = fixed.to_vec();
        pad(&mut body);
        Self { what, kind, body }
    }

    /// Appends an attribute. Values are a few bytes long: addresses, numbers, names.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(attribute(kind, value));
        self
    }

    pub(super) fn attribute_u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(super) fn attribute_ip(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }
}

/// An attribute, to be nested in another.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    pad(&mut bytes);
    bytes
}

/// A netlink socket; it belongs for good to the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket for rtnetlink (`NETLINK_ROUTE`) in `netns`, or in the caller's namespace.
    pub(super) fn route(netns: Option<&NetnsHandle>) -> Result<Self, EnrichError> {
        Self::open(netns, SockProtocol::NetlinkRoute)
    }

    /// Opens a socket for sock_diag (`NETLINK_SOCK_DIAG`) in `netns`, or in the caller's namespace.
    pub(super) fn diag(netns: Option<&NetnsHandle>) -> Result<Self, EnrichError> {
        Self::open(netns, SockProtocol::NetlinkSockDiag)
    }

    /// Opens a socket for the packet filter (`NETLINK_NETFILTER`) in `netns`, or in the caller's namespace.
    pub(super) fn netfilter(netns: Option<&NetnsHandle>) -> Result<Self, EnrichError> {
        Self::open(netns, SockProtocol::NetlinkNetFilter)
    }

    /// Opens a socket in the caller's namespace that hears what the packet filter tells this group (1 to 32).
    pub(super) fn netfilter_group(group: u32) -> Result<Self, EnrichError> {
        let socket = Self::netfilter(None)?;
        let address = NetlinkAddr::new(0, 1 << (group - 1));
        bind(socket.fd.as_raw_fd(), &address).map_err(|errno| EnrichError::errno("netlink group", errno))?;
        Ok(socket)
    }

    /// Hands the type and payload of all that the kernel has told by now to `each`; waits for nothing.
    pub(super) fn heard(&self, mut each: impl FnMut(u16, &[u8])) {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let length = match recvmsg::<NetlinkAddr>(
                self.fd.as_raw_fd(),
                &mut slices,
                None,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) if message.address.is_some_and(|address| address.pid() == 0) => message.bytes,
                // Somebody else's, or more than there was room for.
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => continue,
                Err(_) => return,
            };
            let mut rest = &buffer[..length.min(buffer.len())];
            while let Some(message) = Message::first(rest) {
                each(message.kind, message.payload);
                rest = rest.get(align(message.length)..).unwrap_or(&[]);
            }
        }
    }

    fn open(netns: Option<&NetnsHandle>, protocol: SockProtocol) -> Result<Self, EnrichError> {
        let fd = netns::within(netns, || {
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        })?
        .map_err(|errno| EnrichError::errno("netlink socket", errno))?;
        let deadline = TimeVal::seconds(DEADLINE_SECONDS);
        setsockopt(&fd, sockopt::ReceiveTimeout, &deadline)
            .map_err(|errno| EnrichError::errno("netlink receive timeout", errno))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Asks for one object. `None` if the kernel acknowledged the request without sending one.
    pub(super) fn get<T>(
        &mut self,
        request: &Request,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, EnrichError> {
        let mut found = None;
        self.exchange(request, NLM_F_ACK, &mut |payload| {
            if found.is_none() {
                found = parse(payload);
            }
        })?;
        Ok(found)
    }

    /// Asks for all objects; keeps those for which `parse` returns a value.
    ///
    /// A dump that the kernel marks as inconsistent, because the table changed meanwhile, is repeated; if it
    /// stays so, the last attempt is returned.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, EnrichError> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            let consistent =
                self.exchange(request, NLM_F_DUMP, &mut |payload| found.extend(parse(payload)))?;
            if consistent {
                break;
            }
        }
        Ok(found)
    }

    /// Sends the request and hands each payload to `each`; returns whether the answer is consistent.
    fn exchange(
        &mut self,
        request: &Request,
        flags: u16,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, EnrichError> {
        let what = request.what;
        self.sequence = self.sequence.wrapping_add(1);
        self.send(request, flags)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut consistent = true;
        loop {
            let Some(length) = self.receive(what, &mut buffer)? else { continue };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let message = Message::first(rest).ok_or(EnrichError::Malformed { what })?;
                rest = rest.get(align(message.length)..).unwrap_or(&[]);
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = u32_at(message.payload, 0).unwrap_or(0) as i32;
                        return match code {
                            0.. => Ok(consistent),
                            _ => Err(EnrichError::Netlink { what, errno: code.saturating_neg() }),
                        };
                    }
                    _ => each(message.payload),
                }
            }
        }
    }

    fn send(&self, request: &Request, flags: u16) -> Result<(), EnrichError> {
        let mut message = Vec::with_capacity(HEADER + request.body.len());
        message.extend(((HEADER + request.body.len()) as u32).to_ne_bytes());
        message.extend(request.kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(&request.body);
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendto(self.fd.as_raw_fd(), &message, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(EnrichError::errno(request.what, errno)),
            }
        }
    }

    /// One datagram; `None` if it is not from the kernel and so not an answer.
    fn receive(&self, what: &'static str, buffer: &mut [u8]) -> Result<Option<usize>, EnrichError> {
        loop {
            let mut slices = [IoSliceMut::new(&mut *buffer)];
            match recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut slices, None, MsgFlags::empty()) {
                Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Err(EnrichError::Malformed { what });
                }
                Ok(message) => {
                    let from_kernel = message.address.is_some_and(|address| address.pid() == 0);
                    return Ok(from_kernel.then_some(message.bytes));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(EnrichError::NoAnswer { what }),
                Err(errno) => return Err(EnrichError::errno(what, errno)),
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub(super) length: usize,
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    pub(super) fn first(bytes: &'a [u8]) -> Option<Self> {
        let length = u32_at(bytes, 0)? as usize;
        Some(Self {
            length,
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            payload: bytes.get(HEADER..length)?,
        })
    }
}

/// The attributes of a message (`struct nlattr`): type without its flag bits, and value. Ends at the first
/// one whose length does not fit.
#[derive(Debug, Clone)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Attributes that begin `offset` bytes into a message.
    pub(super) fn at(payload: &'a [u8], offset: usize) -> Self {
        Self(payload.get(offset..).unwrap_or(&[]))
    }

    /// The value of the first that is of this kind.
    pub(super) fn value(&self, wanted: u16) -> Option<&'a [u8]> {
        self.clone().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

pub(super) fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(align(bytes.len()), 0);
}

pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// An address attribute: 4 or 16 bytes in network byte order.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A name attribute, which may or may not end in NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv6() { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_at_a_bad_length() {
        let good = Request::new("test", 0, &[]).attribute(1, &[7]).attribute(2, &[1, 2, 3, 4]).body;
        let all: Vec<_> = Attributes::at(&good, 0).collect();
        assert_eq!(all, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
        for cut in 0..good.len() {
            assert!(Attributes::at(&good[..cut], 0).count() <= 2);
        }
        assert_eq!(Attributes::at(&[0, 0, 1, 0], 0).count(), 0);
        assert_eq!(Attributes::at(&[255, 255, 1, 0, 9], 0).count(), 0);
        assert_eq!(Attributes::at(&[1], 5).count(), 0);
    }

    #[test]
    fn messages_with_a_bad_length_are_refused() {
        assert!(Message::first(&[0; HEADER]).is_none());
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&17u32.to_ne_bytes());
        assert!(Message::first(&bytes).is_none());
        bytes[..4].copy_from_slice(&16u32.to_ne_bytes());
        assert!(Message::first(&bytes).is_some());
    }

    #[test]
    fn the_kernels_error_is_reported() {
        let mut socket = Socket::route(None).unwrap();
        // No network interface has this index.
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let request = Request::new("link", libc::RTM_GETLINK, &header);
        let error = socket.get(&request, |_| Some(())).unwrap_err();
        assert_eq!(error.netlink_errno(), Some(libc::ENODEV));
    }
}
