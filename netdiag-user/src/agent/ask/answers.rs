//! The socket: takes requests, hands them to those who can answer, and sends what they say.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group};

use super::frame::{self, Lines};
use super::sources::Sources;
use super::{Hello, Line, PROTOCOL, Request, access};
use crate::agent::host::{Host, spawn};
use crate::agent::stream::{SocketFile, listen_unix, write_all};

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
    file: SocketFile,
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
        let (listener, file) = listen_unix(path, OWNER).map_err(failed)?;
        let (group, root_alone) = match give_to(path, group) {
            Ok(gid) => (Some(gid.as_raw()), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Self { listener, file, group, root_alone })
    }
}

/// Answers until the process ends. The threads sleep unless somebody asks.
#[derive(Debug)]
pub struct Answers {
    _file: SocketFile,
}

impl Answers {
    /// # Errors
    /// When no thread can be started.
    pub fn start(door: Door, since_us: i64, sources: Sources) -> Result<Self, String> {
        let Door { listener, file, group, .. } = door;
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
        let talker = Talker { hello, group, jobs };
        let accept = move || listener.accept().map(|(stream, _)| stream);
        Host::new("netdiag-ask", MAX_CONNECTIONS).serve(accept, move |stream| talker.converse(stream))?;
        Ok(Self { _file: file })
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

/// What each connection needs.
struct Talker {
    hello: Hello,
    group: Option<u32>,
    jobs: SyncSender<Job>,
}

impl Talker {
    fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let patience = || Instant::now() + PATIENCE;
        if !access::may_ask(&stream, self.group) {
            let refused = frame::error("root and the agent's group alone may ask");
            return write_all(&mut stream, &refused, patience());
        }
        write_all(&mut stream, &frame::line(&Line::Item(&self.hello)), patience())?;
        let Some(line) = Lines::default().next(&mut stream, MAX_REQUEST, patience())? else { return Ok(()) };
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let nonsense = frame::error(format!("this is no request: {error}"));
                return write_all(&mut stream, &nonsense, patience());
            }
        };
        let (to, lines) = sync_channel(QUEUE);
        if self.jobs.try_send(Job { request, to }).is_err() {
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
}

fn work_off(sources: &Sources, work: &Mutex<Receiver<Job>>) {
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { request, to }) = job else { return };
        sources.answer(request, |bytes| to.send(bytes).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::PathBuf;

    use super::super::{Agent, NotAsked, drops::DropBook};
    use super::*;
    use crate::agent::metrics::Board;

    struct Running {
        _answers: Answers,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    /// One that knows nothing, and answers the group of this process.
    fn start() -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let group = nix::unistd::getgid().to_string();
        let door = Door::open(&path, &group).unwrap();
        assert_eq!(door.root_alone, None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, AND_GROUP);
        let drops = Arc::new(DropBook::default());
        let sources = Sources { history: None, drops, board: Board::new(9), owners: None };
        let answers = Answers::start(door, 1_700_000_000_000_000, sources).unwrap();
        Running { _answers: answers, path, _directory: directory }
    }

    fn ask(path: &Path, request: &Request) -> Result<Vec<serde_json::Value>, NotAsked> {
        let mut items = Vec::new();
        Agent::find(path)?.ask(request, |item| {
            items.push(item);
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(items)
    }

    fn history(code: &str, filter: &str) -> Request {
        let (code, filter) = (Some(code.to_owned()), vec![filter.to_owned()]);
        Request::History { since_us: 0, until_us: Some(0), code, filter, details: false }
    }

    #[test]
    fn it_answers_or_says_why_not() {
        let running = start();
        assert_eq!(Agent::find(&running.path).unwrap().since().as_second(), 1_700_000_000);
        assert_eq!(ask(&running.path, &Request::Drops).unwrap(), [serde_json::json!({ "not-recorded": 0 })]);
        for (request, why) in [
            (Request::TimeWait, "does not note who closes"),
            (history("timeout.*", "port 80"), "stores nothing"),
            (history("timeout.*", "port eighty"), "found `eighty`"),
            (history("*a*b*c*d", "port 80"), "too long"),
        ] {
            let error = ask(&running.path, &request).unwrap_err().to_string();
            assert!(error.contains(why), "{request:?}: {error}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let running = start();
        let long = format!("{{\"ask\":\"{}\"}}\n", "x".repeat(2 * MAX_REQUEST));
        for request in ["{}\n", "what?\n", "{\"ask\":\"everything\"}\n", "\n", &long] {
            let mut stream = UnixStream::connect(&running.path).unwrap();
            // It may have hung up already.
            let _ = stream.write_all(request.as_bytes());
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            let is_refusal = answer.lines().nth(1).is_none_or(|line| line.contains("this is no request"));
            assert!(
                answer.starts_with("{\"item\":{\"protocol\":1,") && is_refusal,
                "{request:.40}: {answer}"
            );
            assert!(!answer.contains("end"), "{answer}");
        }
        assert!(ask(&running.path, &Request::Drops).is_ok());
    }

    #[test]
    fn a_socket_that_nobody_answers_is_told_from_none() {
        let running = start();
        let gone = running.path.with_extension("gone");
        drop(UnixListener::bind(&gone).unwrap());
        assert!(matches!(Agent::find(&gone), Err(NotAsked::Gone(_))));
        assert!(matches!(Agent::find(&running.path.with_extension("none")), Err(NotAsked::NoAgent)));
        let path = running.path.with_extension("other");
        let other = Door::open(&path, "no such group").unwrap();
        assert_eq!(other.root_alone.as_deref(), Some("there is no group no such group"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, OWNER);
        drop(other);
        assert!(!path.exists(), "an agent that does not start leaves none");
    }
}
