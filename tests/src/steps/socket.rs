//! System calls on sockets of either kind and family, with the errno left as the kernel gave it.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, getsockopt, sockopt};

/// A socket for `address`'s family. It is a `TcpStream` to Rust whatever its kind: reading and
/// writing are the same system calls.
pub(super) fn new(kind: SockType, address: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(TcpStream::from)
}

pub(super) fn bind(socket: &TcpStream, address: SocketAddr) -> Result<(), Errno> {
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

pub(super) fn connect(socket: &TcpStream, address: SocketAddr) -> Result<(), Errno> {
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// Connects without blocking and polls, as an event loop does; false when `limit` passed.
pub(super) fn connect_within(
    socket: &TcpStream,
    address: SocketAddr,
    limit: Duration,
) -> Result<bool, Errno> {
    socket.set_nonblocking(true).map_err(|_| Errno::last())?;
    match connect(socket, address) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            let deadline = Instant::now() + limit;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                    Ok(0) => return Ok(false),
                    Ok(_) => break,
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            let error = getsockopt(socket, sockopt::SocketError)?;
            if error != 0 {
                return Err(Errno::from_raw(error));
            }
        }
        Err(errno) => return Err(errno),
    }
    socket.set_nonblocking(false).map_err(|_| Errno::last())?;
    Ok(true)
}

pub(super) fn accept(listener: &OwnedFd) -> Result<(TcpStream, SocketAddr), std::io::Error> {
    let raw = socket::accept(listener.as_raw_fd())?;
    // SAFETY: accept(2) just returned this descriptor and nobody else has it.
    let stream = unsafe { TcpStream::from_raw_fd(raw) };
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}

pub(super) fn await_unread(socket: &TcpStream, count: usize) -> Result<(), Errno> {
    while super::unread(socket)? < count {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
