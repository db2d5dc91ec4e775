//! The command's end.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;

use super::frame::{self, Lines};
use super::{Hello, Line, PROTOCOL, Request};
use crate::agent::config::ConfigError;
use crate::agent::stream::write_all;

/// A line at most.
const MAX_LINE: usize = 8 << 20;
/// For the agent to say who it is.
const GREETING: Duration = Duration::from_secs(3);
/// For an answer to begin, and to go on.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why an agent is not asked.
#[derive(Debug, thiserror::Error)]
pub enum NotAsked {
    /// None runs, as far as its socket tells.
    #[error("no agent runs")]
    NoAgent,
    /// One was killed.
    #[error("the agent of {} does not run any more", .0.display())]
    Gone(PathBuf),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the agent is netdiag {version} and speaks protocol {protocol}, not {PROTOCOL}: restart it after an upgrade"
    )]
    Version { version: String, protocol: u32 },
    #[error("the agent gives no answer: {0}")]
    Silent(String),
    #[error("where the agent is to be asked is not known: {0}")]
    Nowhere(#[from] ConfigError),
}

/// An agent that runs, and can be asked once.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    lines: Lines,
    hello: Hello,
}

impl Agent {
    /// # Errors
    /// When there is none that answers this netdiag.
    pub fn find(path: &Path) -> Result<Self, NotAsked> {
        let mut stream = open(path)?;
        let mut lines = Lines::default();
        let end = Instant::now() + GREETING;
        let line = lines.next(&mut stream, MAX_LINE, end).map_err(silent)?;
        let line = line.ok_or_else(|| NotAsked::Silent("it is busy".to_owned()))?;
        let hello: Hello = match serde_json::from_slice(&line) {
            Ok(Line::Item(hello)) => hello,
            Ok(Line::Error(why)) => return Err(NotAsked::Refused(why)),
            Ok(Line::End) | Err(_) => return Err(NotAsked::Silent("it is no agent".to_owned())),
        };
        if hello.protocol != PROTOCOL {
            return Err(NotAsked::Version { version: hello.version, protocol: hello.protocol });
        }
        Ok(Self { stream, lines, hello })
    }

    /// When it began.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_microsecond(self.hello.since_us).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Whether it can say who closed connections.
    pub fn knows_owners(&self) -> bool {
        self.hello.owners
    }

    /// Asks; `each` gets one item after the other, and may end it.
    ///
    /// # Errors
    /// When it does not answer, or cannot.
    pub fn ask<T: DeserializeOwned>(
        mut self,
        request: &Request,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), NotAsked> {
        write_all(&mut self.stream, &frame::line(request), Instant::now() + GREETING).map_err(silent)?;
        loop {
            let line =
                self.lines.next(&mut self.stream, MAX_LINE, Instant::now() + PATIENCE).map_err(silent)?;
            let line = line.ok_or_else(|| NotAsked::Silent("it ended in the middle".to_owned()))?;
            match serde_json::from_slice(&line).map_err(|error| NotAsked::Silent(error.to_string()))? {
                Line::Item(item) => {
                    if each(item).is_break() {
                        return Ok(());
                    }
                }
                Line::End => return Ok(()),
                Line::Error(why) => return Err(NotAsked::Refused(why)),
            }
        }
    }
}

/// Without waiting for an agent whose socket takes nobody any more.
fn open(path: &Path) -> Result<UnixStream, NotAsked> {
    let address = UnixAddr::new(path).map_err(|_| NotAsked::NoAgent)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None).and_then(|fd: OwnedFd| {
        use std::os::fd::AsRawFd;
        connect(fd.as_raw_fd(), &address).map(|()| fd)
    });
    match connected {
        Ok(fd) => {
            let stream = UnixStream::from(fd);
            stream.set_nonblocking(false).map_err(silent)?;
            Ok(stream)
        }
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(NotAsked::NoAgent),
        Err(Errno::ECONNREFUSED) => Err(NotAsked::Gone(path.to_owned())),
        Err(Errno::EACCES | Errno::EPERM) => {
            let who = "root and its group alone may ask the agent";
            Err(NotAsked::Refused(format!("{who} ({})", path.display())))
        }
        Err(errno) => Err(NotAsked::Silent(errno.desc().to_owned())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn silent(error: io::Error) -> NotAsked {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            NotAsked::Silent("it takes too long".to_owned())
        }
        _ => NotAsked::Silent(error.to_string()),
    }
}
