//! What `netdiag doctor` asks before somebody relies on an agent: could it run here, and does one?

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, faccessat};

use super::config::Config;
use super::{LOCK, lock, privileges};
use crate::kernel::KernelError;
use crate::kernel::capabilities::{Capability, Sets, lacking};

pub use super::health::{State, Status as Health};
pub use privileges::Confined;

/// An agent that is well answers in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer; /readyz is some hundred bytes.
const LONGEST: u64 = 64 << 10;

/// Which of its capabilities an agent would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// What this process lacks, and so an agent that its user starts.
    pub lacking: Vec<&'static Capability>,
    /// What nothing that is started from here can have, as root neither: the bounding set is without it.
    pub withheld: Vec<&'static Capability>,
}

/// Whether a directory can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is there, and its disk has so many bytes left.
    There {
        path: PathBuf,
        free: u64,
    },
    /// The agent makes it at its start.
    ToBeMade {
        path: PathBuf,
    },
    Unusable {
        path: PathBuf,
        why: String,
    },
}

/// The agent that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// 0 for one in another pid namespace.
    pub pid: u32,
    /// What it says of itself, or why it does not answer.
    pub state: Result<State, String>,
}

/// # Errors
/// Without /proc.
pub fn rights() -> Result<Rights, KernelError> {
    let sets = Sets::own()?;
    Ok(Rights { lacking: lacking(sets.effective).collect(), withheld: lacking(sets.bounding).collect() })
}

/// The directory of the lock, which the agent takes with all the rights that it was started with.
pub fn run_dir(config: &Config) -> Place {
    look(&config.run_dir)
}

/// The directory of the store, which it writes with those that it keeps. `None` if nothing is to be stored.
pub fn store(config: &Config) -> Option<Place> {
    let dir = &config.history.dir;
    if !config.history.enabled {
        return None;
    }
    let place = look(dir);
    if !matches!(place, Place::There { .. }) {
        return Some(place);
    }
    let failed = |why: String| Place::Unusable { path: dir.clone(), why };
    let with_less = dir.clone();
    let asked = std::thread::spawn(move || privileges::keep().map(|()| look(&with_less))).join();
    Some(match asked {
        Ok(Ok(Place::Unusable { why, .. })) => {
            failed(format!("{why} without CAP_DAC_OVERRIDE, which the agent gives up"))
        }
        Ok(Ok(place)) => place,
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("the thread that tried it ended".to_owned()),
    })
}

/// By the rights of this thread, and without making anything.
fn look(path: &Path) -> Place {
    let path = path.to_owned();
    let unusable = |path, why: String| Place::Unusable { path, why };
    let absolute = match std::path::absolute(&path) {
        Ok(absolute) => absolute,
        Err(error) => return unusable(path, error.to_string()),
    };
    // The nearest that is there.
    let Some(there) = absolute.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok()) else {
        return unusable(path, "not even / is there".to_owned());
    };
    let is_itself = there == absolute;
    let named = |why: &str| if is_itself { why.to_owned() } else { format!("{}: {why}", there.display()) };
    if !there.is_dir() {
        return unusable(path, named("it is no directory"));
    }
    let writable = AccessFlags::W_OK | AccessFlags::X_OK;
    if let Err(errno) = faccessat(AT_FDCWD, there, writable, AtFlags::AT_EACCESS) {
        return unusable(path, named(errno.desc()));
    }
    if !is_itself {
        return Place::ToBeMade { path };
    }
    let free = statvfs(there).map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
    Place::There { path, free }
}

/// The agent that holds the lock in the run directory, if there is one.
///
/// # Errors
/// When that cannot be found out.
pub fn running(config: &Config) -> Result<Option<Running>, String> {
    let holder = lock::holder(&config.run_dir, LOCK)?;
    Ok(holder.map(|pid| Running { pid, state: ask(config) }))
}

/// What it says at /readyz.
fn ask(config: &Config) -> Result<State, String> {
    if !config.socket.as_os_str().is_empty() {
        let path = config.socket.display();
        let stream = UnixStream::connect(&config.socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        return stream
            .map_err(|error| error.to_string())
            .and_then(answer)
            .map_err(|why| format!("{path}: {why}"));
    }
    let address = config.listen.0.filter(|address| address.port() != 0);
    let address = address.ok_or("its configuration names no address to ask it at")?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    });
    stream.map_err(|error| error.to_string()).and_then(answer).map_err(|why| format!("{address}: {why}"))
}

fn answer(mut stream: impl Read + Write) -> Result<State, String> {
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    asked.and_then(|()| stream.take(LONGEST).read_to_string(&mut text)).map_err(|error| error.to_string())?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    serde_json::from_str(body).map_err(|_| "the answer is none of a netdiag agent".to_owned())
}

/// How far the threads that answer strangers are shut off here.
///
/// # Errors
/// Those of the kernel.
pub fn confinement() -> std::io::Result<Confined> {
    std::thread::spawn(privileges::give_up_all)
        .join()
        .map_err(|_| std::io::Error::other("the thread that tried it ended"))?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_is_there_or_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        assert!(matches!(look(&path), Place::There { free, .. } if free > 0));
        let missing = path.join("a/b");
        assert_eq!(look(&missing), Place::ToBeMade { path: missing.clone() });
        assert!(!path.join("a").exists(), "it was made");
        std::fs::write(path.join("a"), "").unwrap();
        let why = format!("{}: it is no directory", path.join("a").display());
        assert_eq!(look(&missing), Place::Unusable { path: missing, why });
    }

    /// CAP_DAC_OVERRIDE is what lets root write everywhere, and what an agent gives up.
    #[test]
    fn a_store_that_the_agent_may_not_write() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let mut config = Config::default();
        config.history.dir = directory.path().to_owned();
        match store(&config) {
            Some(Place::Unusable { why, .. }) => assert!(why.starts_with("Permission denied"), "{why}"),
            other => panic!("{other:?}"),
        }
        config.history.enabled = false;
        assert_eq!(store(&config), None);
    }

    #[test]
    fn an_agent_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { run_dir: directory.path().to_owned(), ..Config::default() };
        config.listen.0 = None;
        assert_eq!(running(&config), Ok(None));
        let _held = lock::Lock::take(directory.path(), LOCK).unwrap();
        let running = running(&config).unwrap().unwrap();
        assert_eq!(running.pid, std::process::id());
        assert!(running.state.unwrap_err().contains("names no address"));
    }

    #[test]
    fn an_answer_is_read() {
        struct Peer(std::io::Cursor<&'static [u8]>);
        impl Read for Peer {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl Write for Peer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let says = |text: &'static str| answer(Peer(std::io::Cursor::new(text.as_bytes())));
        let state = says("HTTP/1.1 503 x\r\nA: b\r\n\r\n{\"status\":\"failing\",\"problems\":[\"late\"]}\n");
        assert_eq!(state.unwrap().problems, ["late"]);
        assert!(says("SSH-2.0-x\r\n").is_err());
        assert!(says("HTTP/1.1 200 OK\r\n\r\n<html>").is_err());
    }
}
