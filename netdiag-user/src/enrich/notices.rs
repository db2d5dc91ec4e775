//! What the kernel tells of its own accord: netlink's multicast groups.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, setsockopt,
    socket, sockopt,
};

use super::error::EnrichError;
use super::netlink::{HEADER, Message, RECEIVE_BUFFER, align};

/// The kernel's queue of notices of one subscription, bytes: as much as a ruleset of ten thousand rules takes.
const NOTICES: usize = 4 * 1024 * 1024;

/// Tells of changes; it belongs for good to the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Subscription(OwnedFd);

/// One message about a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice<'a> {
    pub(super) kind: u16,
    /// The netlink port of who asked for it: by custom its process id. 0: the kernel itself.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

impl Subscription {
    /// Subscribes to these multicast groups of a protocol, in the caller's namespace.
    pub(super) fn new(protocol: SockProtocol, groups: &[u32]) -> Result<Self, EnrichError> {
        let what = "netlink notifications";
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .map_err(|errno| EnrichError::errno(what, errno))?;
        // What does not fit is told as lost.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &NOTICES);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(|errno| EnrichError::errno(what, errno))?;
        for group in groups {
            join(&fd, *group).map_err(|source| EnrichError::Io { what, source })?;
        }
        Ok(Self(fd))
    }

    /// Hands out what is there; whether something was lost before it. `buffer`: working memory.
    pub(super) fn take(&self, buffer: &mut Vec<u8>, each: &mut dyn FnMut(Notice<'_>)) -> bool {
        let mut lost = false;
        buffer.resize(RECEIVE_BUFFER, 0);
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let received = recvmsg::<NetlinkAddr>(self.0.as_raw_fd(), &mut slices, None, MsgFlags::empty());
            let received = received.map(|message| {
                let from_kernel = message.address.is_some_and(|address| address.pid() == 0);
                (message.bytes, from_kernel, message.flags.contains(MsgFlags::MSG_TRUNC))
            });
            match received {
                Ok((_, false, _)) | Err(Errno::EINTR) => {}
                Ok((length, true, cut)) => {
                    lost |= cut;
                    let mut rest = &buffer[..length];
                    while let Some(message) = Message::first(rest) {
                        rest = rest.get(align(message.length).max(HEADER)..).unwrap_or(&[]);
                        let Message { kind, port, payload, .. } = message;
                        each(Notice { kind, port, payload });
                    }
                }
                Err(Errno::ENOBUFS) => lost = true,
                Err(_) => return lost,
            }
        }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `NETLINK_ADD_MEMBERSHIP`: a mask at bind() has no room for all groups.
fn join(fd: &OwnedFd, group: u32) -> std::io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value is live, and as long as is said.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
