//! One agent at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use procfs::LockType;

/// Held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held")] Flock<File>);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another agent runs already{}: it holds {}", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display())]
    Taken { path: PathBuf, holder: Option<u32> },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl Lock {
    /// Takes the lock `name` in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// If another process holds it, or the file cannot be had.
    pub fn take(directory: &Path, name: &str) -> Result<Self, LockError> {
        let path = directory.join(name);
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(io)?;
                lock.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io)?;
                Ok(Self(lock))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // Who it is is a help and no more.
                let _ = file.read_to_string(&mut text);
                Err(LockError::Taken { holder: text.trim().parse().ok(), path })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

/// The process that holds the lock `name` in a directory; 0 for one that is not to be seen from here. By the kernel's
/// own list: to try the lock would be in the way of an agent that starts at this moment.
///
/// # Errors
/// When the list cannot be read.
pub fn holder(directory: &Path, name: &str) -> Result<Option<u32>, String> {
    let Ok(file) = std::fs::metadata(directory.join(name)) else { return Ok(None) };
    let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    let locks = procfs::locks().map_err(|error| error.to_string())?;
    let held = locks.iter().find(|lock| {
        let device = (u64::from(lock.devmaj), u64::from(lock.devmin));
        lock.lock_type == LockType::FLock && lock.inode == file.ino() && device == (major, minor)
    });
    Ok(held.map(|lock| lock.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_without_trying() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path(), "agent.lock"), Ok(None));
        let lock = Lock::take(directory.path(), "agent.lock").unwrap();
        assert_eq!(holder(directory.path(), "agent.lock"), Ok(Some(std::process::id())));
        drop(lock);
        assert_eq!(holder(directory.path(), "agent.lock"), Ok(None));
    }

    #[test]
    fn the_second_is_told_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("run");
        let first = Lock::take(&place, "agent.lock").unwrap();
        let error = Lock::take(&place, "agent.lock").unwrap_err().to_string();
        let expected = format!("another agent runs already (process {}): it holds", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        drop(first);
        Lock::take(&place, "agent.lock").unwrap();
    }
}
