//! Connections that fail.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use serde::{Deserialize, Serialize};

/// An answer of this machine comes within it.
const ANSWERED: Duration = Duration::from_secs(2);

/// How many were tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failed {
    pub tried: u64,
}

/// Connects to `count` ports, from `first` on.
pub fn refused(first: SocketAddrV4, count: u16, interval_ms: u64) -> Failed {
    for number in 0..count {
        // That it fails is the point.
        let _ = TcpStream::connect((*first.ip(), first.port() + number));
        std::thread::sleep(Duration::from_millis(interval_ms));
    }
    Failed { tried: count.into() }
}

/// In turn: refused, no route, given up while a firewall drops the SYN, refused datagram, reset by the peer.
pub fn run(seconds: f64, dropped: SocketAddrV4, interval_ms: u64) -> Result<Failed> {
    let pause = || std::thread::sleep(Duration::from_millis(interval_ms));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let open = listener.local_addr()?;
    let start = Instant::now();
    let mut tried = 0;
    while start.elapsed().as_secs_f64() < seconds {
        let port = 1024 + (tried % 30_000) as u16;
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        pause();
        let _ = TcpStream::connect((Ipv4Addr::new(192, 0, 2, 1), port));
        pause();
        let waits = give_up(dropped)?;
        pause();
        drop(waits);
        refused_datagram(port)?;
        pause();
        reset(&listener, open)?;
        pause();
        tried += 5;
    }
    Ok(Failed { tried })
}

/// It waits until it is dropped.
fn give_up(to: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // EINPROGRESS.
    let _ = connect(socket.as_raw_fd(), &SockaddrIn::from(to));
    Ok(socket)
}

/// A socket that is closed before the answer came would be told nothing, and then nothing failed.
fn refused_datagram(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(ANSWERED))?;
    let result = socket.send(b"?").and_then(|_| socket.recv(&mut [0]));
    let kind = result.err().map(|error| error.kind());
    ensure!(
        kind == Some(ErrorKind::ConnectionRefused),
        "a datagram to port {port} was not refused: {kind:?}"
    );
    Ok(())
}

/// After data: who connects and resets without a word is taken for a health check.
fn reset(listener: &TcpListener, to: SocketAddr) -> Result<()> {
    let mut client = TcpStream::connect(to).context("connecting to the open port")?;
    let (mut server, _) = listener.accept()?;
    server.write_all(b"!")?;
    client.read_exact(&mut [0])?;
    setsockopt(&server, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(server);
    drop(client);
    Ok(())
}
