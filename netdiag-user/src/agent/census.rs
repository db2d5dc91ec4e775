//! Counts sockets that no failing connection tells of, and whose they are: TIME_WAIT by who closed them, and
//! CLOSE_WAIT by who keeps them. Remembers who held a port last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::metrics::{self, Board};
use crate::engine::now_ns;
use crate::enrich::sockets::{State, states};
use crate::kernel::last_listeners::LastListeners;
use crate::kernel::time_wait::Closers;
use crate::memory;
use crate::whose::last_holders::{LastHolder, LastHolders};
use crate::whose::time_wait::{Owners, Tracker};
use crate::whose::{Ask, Inventory};

/// How often CLOSE_WAIT is counted and ports are looked at. Who holds a socket is found by looking through all of /proc.
const CLOSE_WAIT_EVERY: Duration = Duration::from_secs(60);
/// How often TIME_WAIT is counted, where there is any: each must be seen once in its minute.
const TIME_WAIT_EVERY: Duration = Duration::from_secs(15);
/// How often it is looked whether the kernel side fills up.
const WAKE: Duration = Duration::from_millis(500);
/// More closes than this since the last look call for another one, before the kernel side forgets. What comes until
/// the next time that it is looked has to fit, too.
const CLOSES: u64 = (Closers::ROOM / 8 * 3) as u64;
/// Sockets in TIME_WAIT whose owner is remembered.
const REMEMBERED: usize = 1 << 16;

#[derive(Debug, Default)]
struct Shared {
    shed: AtomicBool,
    spent_ns: AtomicU64,
}

/// A thread of its own: a machine with many files takes a second. It ends when this, and all that can ask it, are
/// dropped.
#[derive(Debug)]
pub struct Census {
    shared: Arc<Shared>,
    asker: Asker,
}

/// Asks the census from any thread.
#[derive(Debug, Clone)]
pub struct Asker(Sender<Question>);

#[derive(Debug)]
enum Question {
    TimeWait(SyncSender<Owners>),
    Port(u16, SyncSender<Vec<LastHolder>>),
}

impl Census {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(board: Arc<Board>, noted: (Closers, LastListeners)) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (asker, questions) = channel();
        let own = Arc::clone(&shared);
        let run = move || Counting::new(board, noted, own).run(&questions);
        thread::Builder::new().name("netdiag-census".into()).spawn(run)?;
        Ok(Self { shared, asker: Asker(asker) })
    }

    /// Whether to go without. What is asked is still answered.
    pub fn shed(&self, shed: bool) {
        self.shared.shed.store(shed, Ordering::Relaxed);
    }

    /// Time that went into it.
    pub fn spent_ns(&self) -> u64 {
        self.shared.spent_ns.load(Ordering::Relaxed)
    }

    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }
}

impl Asker {
    /// Who closed the sockets that are in TIME_WAIT now. `None`: there is no answer in that time.
    pub fn time_wait(&self, patience: Duration) -> Option<Owners> {
        let (answer, answered) = sync_channel(1);
        self.0.send(Question::TimeWait(answer)).ok()?;
        answered.recv_timeout(patience).ok()
    }

    /// Who held a port last: listened on a TCP port, or was bound to a UDP port, in each namespace and at each
    /// address; the latest first. Whether somebody holds it now is not looked at. `None`: there is no answer in that
    /// time.
    pub fn last_holders(&self, port: u16, patience: Duration) -> Option<Vec<LastHolder>> {
        let (answer, answered) = sync_channel(1);
        self.0.send(Question::Port(port, answer)).ok()?;
        answered.recv_timeout(patience).ok()
    }
}

/// The thread's own.
struct Counting {
    board: Arc<Board>,
    shared: Arc<Shared>,
    closers: Closers,
    tracker: Tracker,
    listeners: LastListeners,
    holders: LastHolders,
    /// When it was last looked at TIME_WAIT, the closes until then, and how many sockets there were.
    time_wait: Option<(Instant, u64, u64)>,
    close_wait: Option<Instant>,
}

impl Counting {
    fn new(board: Arc<Board>, (closers, listeners): (Closers, LastListeners), shared: Arc<Shared>) -> Self {
        let tracker = Tracker::bounded(closers.since_ns(), REMEMBERED);
        let holders = LastHolders::default();
        Self { board, shared, closers, tracker, listeners, holders, time_wait: None, close_wait: None }
    }

    fn run(mut self, questions: &Receiver<Question>) {
        let mut wait = Duration::ZERO;
        loop {
            let question = questions.recv_timeout(wait);
            wait = WAKE;
            let start = now_ns();
            match question {
                Ok(Question::TimeWait(answer)) => {
                    self.count_time_wait();
                    // Who asked may have left.
                    let closers = &self.closers;
                    let _ = answer.send(self.tracker.owners(|key| closers.peek(key)));
                }
                Ok(Question::Port(port, answer)) => {
                    let noted = self.listeners.of_port(port);
                    let _ = answer.send(self.holders.of_port(port, &noted, now_ns()));
                }
                Err(RecvTimeoutError::Timeout) => self.count_what_is_due(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.shared.spent_ns.fetch_add(now_ns().saturating_sub(start), Ordering::Relaxed);
        }
    }

    fn count_what_is_due(&mut self) {
        if self.shared.shed.load(Ordering::Relaxed) {
            if self.time_wait.is_some() || self.close_wait.is_some() {
                (self.time_wait, self.close_wait) = (None, None);
                // What is not counted must not look as if nothing changed.
                for metric in [&metrics::CLOSE_WAIT, &metrics::TIME_WAIT, &metrics::TIME_WAIT_TO] {
                    self.board.replace(metric, HashMap::new());
                }
            }
            return;
        }
        if self.is_time_wait_due() {
            self.count_time_wait();
        }
        if self.close_wait.is_none_or(|at| at.elapsed() >= CLOSE_WAIT_EVERY) {
            self.close_wait = Some(Instant::now());
            self.count_held();
        }
    }

    fn is_time_wait_due(&self) -> bool {
        let Some((at, closes, sockets)) = self.time_wait else { return true };
        let more = self.closers.closes().saturating_sub(closes);
        more >= CLOSES || (more > 0 || sockets > 0) && at.elapsed() >= TIME_WAIT_EVERY
    }

    fn count_time_wait(&mut self) {
        // Before the sockets are listed: what is closed meanwhile counts as new.
        let closes = self.closers.closes();
        let counted = self.tracker.count(|key| self.closers.take(key));
        let sockets = counted.processes.values().sum();
        let by = counted.processes.into_iter().map(|(name, count)| (label(name.as_deref()), count as f64));
        self.board.replace(&metrics::TIME_WAIT, by.collect());
        let to = counted.destinations.into_iter().map(|(end, count)| (end.to_string(), count as f64));
        self.board.replace(&metrics::TIME_WAIT_TO, to.collect());
        let missed = self.tracker.missed();
        self.board.set(&metrics::TIME_WAIT_MISSED, &["not-noted"], missed.not_noted as f64);
        self.board.set(&metrics::TIME_WAIT_MISSED, &["too-many"], missed.beyond as f64);
        if sockets as usize > REMEMBERED / 4 {
            memory::give_back();
        }
        self.time_wait = Some((Instant::now(), closes, sockets));
    }

    fn count_held(&mut self) {
        // Listeners come with what is asked for.
        let all = Inventory::read(Ask { tcp: states::CLOSE_WAIT, udp: states::CLOSE, ports: None });
        let mut counts = HashMap::new();
        for held in all.sockets.iter().filter(|held| held.socket.state == State::CloseWait) {
            *counts.entry(label(held.holder().map(|process| process.comm.as_str()))).or_insert(0.0) += 1.0;
        }
        self.board.replace(&metrics::CLOSE_WAIT, counts);
        self.holders.look(&all.sockets, Timestamp::now());
    }
}

fn label(process: Option<&str>) -> String {
    process.unwrap_or("unknown").to_owned()
}
