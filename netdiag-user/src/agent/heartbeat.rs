//! A connection that must fail, now and then: that its record arrives shows that records flow.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, socket};

use crate::enrich::netns;
use crate::track::Connection;

/// Beats whose records may still come.
const REMEMBERED: usize = 8;

/// A port of 127.0.0.1 that is held and on which nothing listens, so that the kernel refuses every connection to it.
#[derive(Debug)]
pub struct Heartbeat {
    held: OwnedFd,
    target: SocketAddr,
    netns: u32,
    /// The ends that connected, oldest first.
    sent: VecDeque<SocketAddr>,
    /// Kept until the next beat, for a kernel that does not answer at once.
    client: Option<OwnedFd>,
    last_sent: Option<Instant>,
}

impl Heartbeat {
    /// # Errors
    /// Where there is no 127.0.0.1.
    pub fn new() -> nix::Result<Self> {
        let (held, target) = bound()?;
        let netns = netns::current_inode().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(0);
        Ok(Self { held, target, netns, sent: VecDeque::new(), client: None, last_sent: None })
    }

    pub fn is_due(&self, every: Duration) -> bool {
        self.last_sent.is_none_or(|last| last.elapsed() >= every)
    }

    /// Lets a connection fail.
    ///
    /// # Errors
    /// If it could not be tried, or did not fail.
    pub fn beat(&mut self) -> nix::Result<()> {
        self.last_sent = Some(Instant::now());
        let (client, local) = bound()?;
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(local);
        let target = name_of(&self.held)?;
        let result = connect(client.as_raw_fd(), &target);
        self.client = Some(client);
        match result {
            Err(Errno::ECONNREFUSED | Errno::EINPROGRESS) => Ok(()),
            Err(errno) => Err(errno),
            Ok(()) => Err(Errno::EISCONN),
        }
    }

    /// Whether a connection is one of these, by all that it can be known by.
    pub fn is_own(&self, connection: &Connection) -> bool {
        let ends = connection.asked();
        ends.peer == self.target
            && self.sent.contains(&ends.local)
            && [0, self.netns].contains(&connection.netns)
    }

    /// Whether a packet with these ends is one of a beat.
    pub fn touches(&self, one: SocketAddr, other: SocketAddr) -> bool {
        one == self.target && self.sent.contains(&other) || other == self.target && self.sent.contains(&one)
    }
}

/// A socket with a port of its own.
fn bound() -> nix::Result<(OwnedFd, SocketAddr)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    let name = name_of(&fd)?;
    Ok((fd, SocketAddr::V4(SocketAddrV4::new(name.ip(), name.port()))))
}

fn name_of(fd: &OwnedFd) -> nix::Result<SockaddrIn> {
    getsockname(fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_refused_and_known_again() {
        let mut heartbeat = Heartbeat::new().unwrap();
        assert!(heartbeat.is_due(Duration::from_secs(60)));
        for _ in 0..3 * REMEMBERED {
            heartbeat.beat().unwrap();
        }
        assert!(!heartbeat.is_due(Duration::from_secs(60)));
        assert_eq!(heartbeat.sent.len(), REMEMBERED);
        let last = *heartbeat.sent.back().unwrap();
        assert!(heartbeat.touches(last, heartbeat.target) && heartbeat.touches(heartbeat.target, last));
        assert!(!heartbeat.touches(last, last));
    }
}
