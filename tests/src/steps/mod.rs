//! A process that does to its sockets exactly what its command line says, step by step.
//!
//! `nd-client tcp connect=10.0.0.1:80 send=100 recv=4 linger0 close` is a whole client;
//! `nd-server tcp bind=0.0.0.0:80 listen=1 accept await-unread=100 close` a whole server. Each step
//! works on the current socket, which `connect`, `bind` and `accept` bring about. The first step
//! that fails ends the run with `STEP: ERRNO` on standard output and exit code 1.
//!
//! | step | does |
//! |---|---|
//! | `tcp`, `udp` | the kind of the sockets that follow |
//! | `bind=ADDR:PORT` | a new socket, bound |
//! | `listen=N` | listens with backlog N, prints `listening` |
//! | `accept` | takes one connection; it becomes the current socket, the listener stays open |
//! | `connect=ADDR:PORT[,MS]` | connects; with MS without blocking, and gives up after that time (exit 3) |
//! | `many=N,ADDR:PORT` | N more connections, all kept open |
//! | `churn=N,ADDR:PORT` | N connections one after the other, each closed at once |
//! | `send=N`, `recv=N`, `recv` | N bytes out; N bytes in; bytes in until the other end closes |
//! | `await-unread=N` | waits until N bytes lie unread in the receive queue |
//! | `echo`, `http` | serves every connection (or datagram) for ever |
//! | `sleep=MS`, `wait` | waits; for ever |
//! | `linger0`, `reuseaddr`, `reuseport`, `v6only`, `nodelay` | the socket option |
//! | `keepalive=IDLE,INTERVAL,COUNT` | keepalive on, seconds and a count |
//! | `user-timeout=MS`, `timeout=MS` | `TCP_USER_TIMEOUT`; a limit for each later send and receive |
//! | `rcvbuf=N`, `sndbuf=N`, `mark=N` | the socket option |
//! | `shutdown` | sends FIN, keeps receiving |
//! | `close`, `close-listener` | closes the current socket; the listener |
//! | `exit=N` | ends at once without closing anything itself |
//! | `nofile=N`, `uid=N` | limits open files; gives up root |

mod options;
mod serve;
mod socket;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{Backlog, SockType, listen};

/// Exit code when a step failed.
pub const FAILED: u8 = 1;
/// Exit code for a command line that makes no sense.
pub const USAGE: u8 = 2;
/// Exit code when `connect` with a limit gave up.
pub const GAVE_UP: u8 = 3;

#[derive(Debug)]
enum Stop {
    Errno(Errno),
    After(Errno, usize),
    GaveUp(Duration),
    Usage(&'static str),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPIPE)))
    }
}

#[derive(Debug)]
struct State {
    kind: SockType,
    current: Option<TcpStream>,
    listener: Option<OwnedFd>,
    kept: Vec<TcpStream>,
    /// Options asked for before there is a socket.
    pending: Vec<(String, String)>,
}

/// Runs the steps of this process's command line.
pub fn main() -> ExitCode {
    let mut state = State {
        kind: SockType::Stream,
        current: None,
        listener: None,
        kept: Vec::new(),
        pending: Vec::new(),
    };
    for step in std::env::args().skip(1) {
        let (word, argument) = step.split_once('=').unwrap_or((&step, ""));
        let code = match state.step(word, argument) {
            Ok(()) => continue,
            Err(Stop::Errno(errno)) => {
                say(&format!("{word}: {errno:?}"));
                FAILED
            }
            Err(Stop::After(errno, count)) => {
                say(&format!("{word}: {errno:?} after {count}"));
                FAILED
            }
            Err(Stop::GaveUp(limit)) => {
                say(&format!("{word}: gave up after {} ms", limit.as_millis()));
                GAVE_UP
            }
            Err(Stop::Usage(why)) => {
                eprintln!("{step}: {why}");
                USAGE
            }
        };
        return ExitCode::from(code);
    }
    say("done");
    ExitCode::SUCCESS
}

/// One line to standard output, at once, whoever reads it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

impl State {
    fn step(&mut self, word: &str, argument: &str) -> Result<(), Stop> {
        match word {
            "tcp" => self.kind = SockType::Stream,
            "udp" => self.kind = SockType::Datagram,
            "bind" => {
                let address = parse(argument)?;
                let socket = self.new_socket(address)?;
                socket::bind(&socket, address)?;
                self.current = Some(socket);
            }
            "listen" => {
                let socket = self.current.take().ok_or(Stop::Usage("bind first"))?;
                listen(&socket, Backlog::new(parse::<i32>(argument)?)?)?;
                say(&format!("listening {}", socket.local_addr()?));
                self.listener = Some(socket.into());
            }
            "accept" => {
                let (stream, peer) = socket::accept(self.listener()?)?;
                say(&format!("accepted {peer}"));
                self.current = Some(stream);
            }
            "connect" => self.connect(argument)?,
            "many" | "churn" => self.connect_often(argument, word == "many")?,
            "send" => self.current()?.write_all(&vec![b'x'; parse(argument)?])?,
            "recv" if argument.is_empty() => {
                let count = std::io::copy(self.current()?, &mut std::io::sink())?;
                say(&format!("received {count}, then end"));
            }
            "recv" => self.receive(parse(argument)?)?,
            "await-unread" => socket::await_unread(self.current()?, parse(argument)?)?,
            "echo" | "http" => self.serve(word == "http")?,
            "sleep" => std::thread::sleep(Duration::from_millis(parse(argument)?)),
            "wait" => loop {
                std::thread::park();
            },
            "shutdown" => self.current()?.shutdown(Shutdown::Write)?,
            "close" => drop(self.current.take().ok_or(Stop::Usage("nothing to close"))?),
            "close-listener" => drop(self.listener.take().ok_or(Stop::Usage("no listener"))?),
            "exit" => {
                let code = parse(argument)?;
                // SAFETY: _exit(2) takes any number and does not return; it leaves every socket
                // to the kernel, which is what this step is for.
                unsafe { libc::_exit(code) }
            }
            "nofile" => options::limit_files(parse(argument)?)?,
            "uid" => nix::unistd::setuid(nix::unistd::Uid::from_raw(parse(argument)?))?,
            option => match &self.current {
                Some(socket) => options::set(socket, option, argument)?,
                None => self.pending.push((option.to_owned(), argument.to_owned())),
            },
        }
        Ok(())
    }

    fn current(&mut self) -> Result<&mut TcpStream, Stop> {
        self.current.as_mut().ok_or(Stop::Usage("no socket yet"))
    }

    fn listener(&self) -> Result<&OwnedFd, Stop> {
        self.listener.as_ref().ok_or(Stop::Usage("listen first"))
    }

    fn new_socket(&self, address: SocketAddr) -> Result<TcpStream, Stop> {
        let socket = socket::new(self.kind, address)?;
        for (option, argument) in &self.pending {
            options::set(&socket, option, argument)?;
        }
        Ok(socket)
    }

    fn connect(&mut self, argument: &str) -> Result<(), Stop> {
        let (address, limit) = match argument.split_once(',') {
            Some((address, limit)) => (parse(address)?, Some(Duration::from_millis(parse(limit)?))),
            None => (parse(argument)?, None),
        };
        let socket = match self.current.take() {
            // A socket that `bind` made, and not one that is connected already.
            Some(bound) if bound.peer_addr().is_err() => bound,
            _ => self.new_socket(address)?,
        };
        match limit {
            None => socket::connect(&socket, address)?,
            Some(limit) => {
                if !socket::connect_within(&socket, address, limit)? {
                    return Err(Stop::GaveUp(limit));
                }
            }
        }
        say(&format!("connected {} to {address}", socket.local_addr()?));
        self.current = Some(socket);
        Ok(())
    }

    fn connect_often(&mut self, argument: &str, keep: bool) -> Result<(), Stop> {
        let (count, address) = argument.split_once(',').ok_or(Stop::Usage("N,ADDR:PORT"))?;
        let (count, address): (usize, SocketAddr) = (parse(count)?, parse(address)?);
        for done in 0..count {
            let after = |stop| match stop {
                Stop::Errno(errno) => Stop::After(errno, done),
                other => other,
            };
            let socket = self.new_socket(address).map_err(after)?;
            socket::connect(&socket, address).map_err(|errno| Stop::After(errno, done))?;
            if keep {
                self.kept.push(socket);
            }
        }
        say(&format!("connected {count} times"));
        Ok(())
    }

    fn receive(&mut self, count: usize) -> Result<(), Stop> {
        let datagram = self.kind == SockType::Datagram;
        let socket = self.current()?;
        let mut buffer = vec![0; count];
        let mut received = 0;
        while received < count {
            match socket.read(&mut buffer[received..])? {
                0 => {
                    say(&format!("received {received}, then end"));
                    return Ok(());
                }
                length => received += length,
            }
            if datagram {
                break;
            }
        }
        say(&format!("received {received}"));
        Ok(())
    }

    fn serve(&mut self, http: bool) -> Result<(), Stop> {
        match (self.kind, &self.listener) {
            (SockType::Datagram, _) => {
                let socket = self.current.take().ok_or(Stop::Usage("bind first"))?;
                say(&format!("listening {}", socket.local_addr()?));
                serve::datagrams(socket.into())
            }
            (_, Some(listener)) => serve::connections(listener, http),
            _ => serve::one(self.current()?, http),
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Stop> {
    text.parse().map_err(|_| Stop::Usage("not a number or address"))
}

/// How many bytes lie unread; shared by the step and its tests.
fn unread(socket: &TcpStream) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which is valid for the call; the
    // descriptor is open because `socket` is borrowed.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}
