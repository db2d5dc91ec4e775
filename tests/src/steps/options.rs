//! Socket options and process limits that steps set.

use std::net::TcpStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Stop, parse};

pub(super) fn set(socket: &TcpStream, option: &str, argument: &str) -> Result<(), Stop> {
    match option {
        "linger0" => setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?,
        "reuseaddr" => setsockopt(socket, sockopt::ReuseAddr, &true)?,
        "reuseport" => setsockopt(socket, sockopt::ReusePort, &true)?,
        "v6only" => setsockopt(socket, sockopt::Ipv6V6Only, &true)?,
        "nodelay" => setsockopt(socket, sockopt::TcpNoDelay, &true)?,
        "keepalive" => {
            let mut numbers = argument.split(',').map(parse);
            let mut next = || numbers.next().unwrap_or(Err(Stop::Usage("IDLE,INTERVAL,COUNT")));
            setsockopt(socket, sockopt::TcpKeepIdle, &next()?)?;
            setsockopt(socket, sockopt::TcpKeepInterval, &next()?)?;
            setsockopt(socket, sockopt::TcpKeepCount, &next()?)?;
            setsockopt(socket, sockopt::KeepAlive, &true)?;
        }
        "user-timeout" => setsockopt(socket, sockopt::TcpUserTimeout, &parse(argument)?)?,
        "timeout" => {
            let limit = Some(Duration::from_millis(parse(argument)?));
            socket.set_read_timeout(limit)?;
            socket.set_write_timeout(limit)?;
        }
        "rcvbuf" => setsockopt(socket, sockopt::RcvBuf, &parse(argument)?)?,
        "sndbuf" => setsockopt(socket, sockopt::SndBuf, &parse(argument)?)?,
        "mark" => setsockopt(socket, sockopt::Mark, &parse(argument)?)?,
        _ => return Err(Stop::Usage("no such step")),
    }
    Ok(())
}

/// Allows this process so many open files.
pub(super) fn limit_files(count: u64) -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: setrlimit(2) reads one rlimit, which lives for the call.
    Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}
