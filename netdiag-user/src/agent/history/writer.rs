//! The store's thread: a disk that hangs must not keep the agent from its records.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::redact::without_arguments;
use super::store::{Failure, Settings, Store};
use crate::agent::Say;
use crate::output::Report;

/// Diagnoses that are stored together.
const BATCH: usize = 256;
/// After a failure the disk is left alone for so long.
const RETRY: Duration = Duration::from_secs(1);
/// How often the run is marked as alive and files are expired.
const TIDY: Duration = Duration::from_secs(10);
/// At the end, what waits for a disk that fails is waited for no longer.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// What the thread says about itself.
#[derive(Debug, Default)]
struct Shared {
    stored: AtomicU64,
    queue_full: AtomicU64,
    failed: AtomicU64,
    set_aside: AtomicU64,
    bytes: AtomicU64,
    ended: AtomicBool,
    problem: Mutex<Option<String>>,
}

/// How much was stored and what was not, in diagnoses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub stored: u64,
    /// Too many waited for the disk.
    pub queue_full: u64,
    /// The store refused them for good, or the agent ended first.
    pub failed: u64,
    pub files_set_aside: u64,
    /// Bytes of all files.
    pub size: u64,
    /// Why nothing can be stored now.
    pub problem: Option<String>,
}

enum Message {
    Store(Box<Report>),
    Settings(Settings),
}

/// Takes diagnoses and stores them, in its own thread. Dropping it stores what it has.
#[derive(Debug)]
pub struct Writer {
    sender: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `queue`: how many may wait.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: Settings, queue: usize, say: Say) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            store: Store::new(settings),
            waiting: Vec::new(),
            failed_at: None,
            tidied: None,
            shared: Arc::clone(&shared),
            say,
        };
        let thread = std::thread::Builder::new().name("netdiag-history".into());
        let thread = thread.spawn(move || worker.run(&receiver))?;
        Ok(Self { sender: Some(sender), shared, thread: Some(thread) })
    }

    /// Never waits: what does not fit is counted.
    pub fn store(&self, report: Report) {
        self.send(Message::Store(Box::new(report)));
    }

    /// All but the directory.
    pub fn set(&self, settings: Settings) {
        self.send(Message::Settings(settings));
    }

    fn send(&self, message: Message) {
        let Some(sender) = &self.sender else { return };
        match sender.try_send(message) {
            Err(TrySendError::Full(Message::Store(_)) | TrySendError::Disconnected(Message::Store(_))) => {
                self.shared.queue_full.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Full(settings @ Message::Settings(_))) => {
                // The thread takes from the queue within a second, even while the disk fails.
                let _ = sender.send(settings);
            }
            Ok(()) | Err(TrySendError::Disconnected(Message::Settings(_))) => {}
        }
    }

    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut problem = shared.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if shared.ended.load(Ordering::Acquire) && self.sender.is_some() {
            problem = Some("its thread has ended".to_owned());
        }
        Counts {
            stored: read(&shared.stored),
            queue_full: read(&shared.queue_full),
            failed: read(&shared.failed),
            files_set_aside: read(&shared.set_aside),
            size: read(&shared.bytes),
            problem,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // It has told of a panic on standard error.
            let _ = thread.join();
        }
    }
}

/// Says that the thread has ended, in whatever way.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

struct Worker {
    store: Store,
    /// Taken from the queue and not stored yet.
    waiting: Vec<Report>,
    failed_at: Option<Instant>,
    tidied: Option<Instant>,
    shared: Arc<Shared>,
    say: Say,
}

impl Worker {
    fn run(mut self, receiver: &Receiver<Message>) {
        let _ended = Ended(Arc::clone(&self.shared));
        loop {
            let open = self.take(receiver);
            self.store.look_at_clocks(Timestamp::now(), Instant::now());
            if self.failed_at.is_none_or(|at| at.elapsed() >= RETRY) {
                self.write();
                self.tidy();
            }
            if !open {
                break;
            }
        }
        self.finish();
    }

    /// Fills the batch. False: nothing will come any more.
    fn take(&mut self, receiver: &Receiver<Message>) -> bool {
        if self.waiting.len() >= BATCH {
            // The disk fails, and the queue is what waits.
            std::thread::sleep(RETRY / 4);
            return true;
        }
        match receiver.recv_timeout(RETRY) {
            Ok(message) => self.message(message),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.waiting.len() < BATCH
            && let Ok(message) = receiver.try_recv()
        {
            self.message(message);
        }
        true
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Store(mut report) => {
                if !self.store.settings.arguments {
                    without_arguments(&mut report);
                }
                self.waiting.push(*report);
            }
            Message::Settings(settings) => {
                let dir: PathBuf = self.store.settings.dir.clone();
                self.store.settings = Settings { dir, ..settings };
                self.tidied = None;
            }
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let result = self.store.write(&self.waiting, Timestamp::now());
        let number = self.waiting.len() as u64;
        match result {
            Ok(()) => {
                self.shared.stored.fetch_add(number, Ordering::Relaxed);
                self.waiting.clear();
            }
            Err(Failure::Never(_)) => {
                self.shared.failed.fetch_add(number, Ordering::Relaxed);
                self.waiting.clear();
            }
            Err(Failure::Later(_)) => {}
        }
        self.note(result);
    }

    fn tidy(&mut self) {
        if self.failed_at.is_some() || self.tidied.is_some_and(|at| at.elapsed() < TIDY) {
            return;
        }
        self.tidied = Some(Instant::now());
        let now = Timestamp::now();
        let alive = self.store.alive(self.lost(), now);
        let expired = alive.and_then(|()| self.store.expire(now)).map(|bytes| {
            self.shared.bytes.store(bytes, Ordering::Relaxed);
        });
        self.note(expired);
    }

    fn lost(&self) -> u64 {
        self.shared.queue_full.load(Ordering::Relaxed) + self.shared.failed.load(Ordering::Relaxed)
    }

    /// Keeps what failed, and tells what is new.
    fn note(&mut self, result: Result<(), Failure>) {
        for text in std::mem::take(&mut self.store.told.set_aside) {
            self.shared.set_aside.fetch_add(1, Ordering::Relaxed);
            (self.say)(&format!("history: {text}"));
        }
        let (problem, failed_at) = match result {
            Ok(()) => (None, None),
            Err(Failure::Later(why)) => (Some(why), Some(Instant::now())),
            Err(Failure::Never(why)) => (Some(why), None),
        };
        self.failed_at = failed_at;
        let mut told = self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == problem {
            return;
        }
        let dir = self.store.settings.dir.display();
        match &problem {
            Some(why) => (self.say)(&format!("history: cannot store in {dir}: {why}")),
            None => (self.say)(&format!("history: stores in {dir} again")),
        }
        *told = problem;
    }

    /// What the agent leaves: the last diagnoses, and until when it lived.
    fn finish(mut self) {
        let end = Instant::now() + LAST_CHANCE;
        while !self.waiting.is_empty() && Instant::now() < end {
            self.write();
            if !self.waiting.is_empty() {
                std::thread::sleep(RETRY / 4);
            }
        }
        let left = self.waiting.len() as u64;
        if left > 0 {
            self.shared.failed.fetch_add(left, Ordering::Relaxed);
            (self.say)(&format!("history: {left} diagnoses could not be stored before the end"));
        }
        // A disk that fails was told of.
        let _ = self.store.alive(self.lost(), Timestamp::now());
    }
}
