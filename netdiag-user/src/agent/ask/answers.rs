//! The socket: takes requests, hands them to those who can answer, and sends what they say.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group};

use super::frame::{self, Lines};
use super::sources::Sources;
use super::{Hello, Line, PROTOCOL, Request, access};
use crate::agent::privileges;
use crate::agent::stream::{listen_unix, write_all};

/// A request at most.
const MAX_REQUEST: usize = 16 << 10;
/// Connections at the same time; more are closed at once.
const MAX_CONNECTIONS: usize = 8;
/// Who look up answers; requests beyond theirs wait.
const WORKERS: usize = 2;
/// Pieces of an answer that wait to be sent.
const QUEUE: usize = 16;
/// For a request to arrive, and for each piece of an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// For an answer to be found.
const WORK: Duration = Duration::from_secs(30);
/// For a whole answer to be taken.
const ALTOGETHER: Duration = Duration::from_secs(120);
/// The owner's alone, and the group's, too.
const OWNER: u32 = 0o600;
const AND_GROUP: u32 = 0o660;

/// A request, and where its answer goes: lines, as many as there are to be sent together.
struct Job {
    request: Request,
    to: SyncSender<Vec<u8>>,
}

/// A socket that nobody answers yet.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    group: Option<u32>,
    /// Why the group cannot ask, where it cannot.
    pub root_alone: Option<String>,
}

impl Door {
    /// For root and, where there is one of that name, a group. To give it to a group takes CAP_CHOWN, or to be in that
    /// group.
    ///
    /// # Errors
    /// When it cannot listen; with the path.
    pub fn open(path: &Path, group: &str) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot listen on {}: {error}", path.display());
        let listener = listen_unix(path, OWNER).map_err(failed)?;
        let (group, root_alone) = match give_to(path, group) {
            Ok(gid) => (Some(gid.as_raw()), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Self { listener, path: path.to_owned(), group, root_alone })
    }
}

/// Answers until the process ends. The threads sleep unless somebody asks.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
}

impl Answers {
    /// # Errors
    /// When no thread can be started.
    pub fn start(door: Door, since_us: i64, sources: Sources) -> Result<Self, String> {
        let Door { listener, path, group, .. } = door;
        let answers = Self { path };
        let hello = Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            since_us,
            owners: sources.owners.is_some(),
        };
        let (jobs, work) = sync_channel(MAX_CONNECTIONS);
        let (sources, work) = (Arc::new(sources), Arc::new(Mutex::new(work)));
        for _ in 0..WORKERS {
            let (sources, work) = (Arc::clone(&sources), Arc::clone(&work));
            spawn("netdiag-answer", 2 << 20, move || work_off(&sources, &work))?;
        }
        let host = Host { hello, group, jobs };
        spawn("netdiag-ask", 256 << 10, move || serve(&listener, &host))?;
        Ok(answers)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Lets a group, by name or number, use a socket.
fn give_to(path: &Path, group: &str) -> Result<Gid, String> {
    let gid = match (group.parse(), Group::from_name(group)) {
        (Ok(number), _) => Gid::from_raw(number),
        (_, Ok(Some(group))) => group.gid,
        (_, Ok(None)) => return Err(format!("there is no group {group}")),
        (_, Err(errno)) => return Err(format!("group {group}: {}", errno.desc())),
    };
    let failed = |error: io::Error| format!("it cannot be given to group {group}: {error}");
    std::os::unix::fs::chown(path, None, Some(gid.as_raw())).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(AND_GROUP)).map_err(failed)?;
    Ok(gid)
}

fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.into()).stack_size(stack);
    thread.spawn(work).map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// What each connection needs.
#[derive(Clone)]
struct Host {
    hello: Hello,
    group: Option<u32>,
    jobs: SyncSender<Job>,
}

fn work_off(sources: &Sources, work: &Mutex<Receiver<Job>>) {
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { request, to }) = job else { return };
        sources.answer(request, |bytes| to.send(bytes).is_ok());
    }
}

fn serve(listener: &UnixListener, host: &Host) {
    // On a kernel that refuses, the answers are the same.
    let _ = privileges::give_up_all();
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // No descriptors left, as like as not: they do not come back by asking at once.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if busy.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (host, counted) = (host.clone(), Arc::clone(&busy));
        let started = spawn("netdiag-ask", 256 << 10, move || {
            // What goes wrong with who asks is their affair.
            let _ = converse(stream, &host);
            counted.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn converse(mut stream: UnixStream, host: &Host) -> io::Result<()> {
    let patience = || Instant::now() + PATIENCE;
    if !access::may_ask(&stream, host.group) {
        let refused = frame::error("root and the agent's group alone may ask");
        return write_all(&mut stream, &refused, patience());
    }
    write_all(&mut stream, &frame::line(&Line::Item(&host.hello)), patience())?;
    let Some(line) = Lines::default().next(&mut stream, MAX_REQUEST, patience())? else { return Ok(()) };
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let nonsense = frame::error(format!("this is no request: {error}"));
            return write_all(&mut stream, &nonsense, patience());
        }
    };
    let (to, lines) = sync_channel(QUEUE);
    if host.jobs.try_send(Job { request, to }).is_err() {
        return write_all(&mut stream, &frame::error("the agent is busy"), patience());
    }
    let end = Instant::now() + ALTOGETHER;
    loop {
        match lines.recv_timeout(WORK) {
            Ok(bytes) => write_all(&mut stream, &bytes, patience().min(end))?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                return write_all(&mut stream, &frame::error("the agent has no time"), patience());
            }
        }
    }
}
