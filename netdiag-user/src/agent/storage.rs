//! The agent's store: its lock, its settings, and its numbers.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::config::Config;
use super::health::Health;
use super::history::{Counts, Settings, Writer};
use super::lock::{Lock, LockError};
use super::metrics::{self, Board};
use super::{LOCK, Say};

/// A store that cannot be written has no lock either, and nobody else who writes it.
pub(super) fn lock(dir: &Path) -> Result<Option<Lock>, LockError> {
    // What fails here fails below, too.
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    match Lock::take(dir, LOCK) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Io { .. }) => Ok(None),
        Err(taken) => Err(taken),
    }
}

/// `None` where nothing is to be stored.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(config: &Config, say: &Say) -> io::Result<Option<Writer>> {
    let start = || Writer::start(settings(config), config.history.queue.get(), Arc::clone(say));
    config.history.enabled.then(start).transpose()
}

pub(super) fn settings(config: &Config) -> Settings {
    let history = &config.history;
    Settings {
        dir: history.dir.clone(),
        keep: history.keep.get(),
        max_size: history.max_size.bytes(),
        arguments: history.arguments,
    }
}

/// Shows its numbers where they are looked for.
pub(super) fn show(counts: Counts, board: &Board, health: &Health) {
    board.set(&metrics::STORED, &[], counts.stored as f64);
    board.set(&metrics::NOT_STORED, &["queue-full"], counts.queue_full as f64);
    board.set(&metrics::NOT_STORED, &["refused"], counts.failed as f64);
    board.set(&metrics::HISTORY_SET_ASIDE, &[], counts.files_set_aside as f64);
    board.set(&metrics::HISTORY_BYTES, &[], counts.size as f64);
    board.set(&metrics::HISTORY_OK, &[], f64::from(u8::from(counts.problem.is_none())));
    health.part("history", counts.problem);
}
