//! Counts sockets that no failing connection tells of: CLOSE_WAIT by process, TIME_WAIT by destination.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::metrics::{self, Board};
use crate::engine::now_ns;
use crate::enrich::sockets::{State, states};
use crate::whose::{Ask, Held, Inventory, Side};

/// How often. Who holds a socket is found by looking through all of /proc.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Shared {
    shed: AtomicBool,
    spent_ns: AtomicU64,
}

/// A thread of its own: a machine with many files takes a second. It ends when this is dropped.
#[derive(Debug)]
pub struct Census {
    shared: Arc<Shared>,
    _ends: SyncSender<()>,
}

impl Census {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(board: Arc<Board>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (ends, ended) = sync_channel(0);
        let own = Arc::clone(&shared);
        thread::Builder::new().name("netdiag-census".into()).spawn(move || {
            loop {
                if own.shed.load(Ordering::Relaxed) {
                    // What is not counted must not look as if nothing changed.
                    board.replace(&metrics::CLOSE_WAIT, HashMap::new());
                    board.replace(&metrics::TIME_WAIT, HashMap::new());
                } else {
                    let start = now_ns();
                    take(&board);
                    own.spent_ns.fetch_add(now_ns().saturating_sub(start), Ordering::Relaxed);
                }
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { shared, _ends: ends })
    }

    /// Whether to go without.
    pub fn shed(&self, shed: bool) {
        self.shared.shed.store(shed, Ordering::Relaxed);
    }

    /// Time that went into it.
    pub fn spent_ns(&self) -> u64 {
        self.shared.spent_ns.load(Ordering::Relaxed)
    }
}

fn take(board: &Board) {
    let all = Inventory::read(Ask { tcp: states::CLOSE_WAIT | states::TIME_WAIT, udp: 0, ports: None });
    let in_state = |state| all.sockets.iter().filter(move |held| held.socket.state == state);
    board.replace(&metrics::CLOSE_WAIT, count(in_state(State::CloseWait).map(process)));
    board.replace(&metrics::TIME_WAIT, count(in_state(State::TimeWait).map(destination)));
}

fn process(held: &Held) -> String {
    held.holder().map_or_else(|| "unknown".to_owned(), |process| process.comm.clone())
}

/// The end that was connected to.
fn destination(held: &Held) -> String {
    match held.side {
        Side::Inbound => held.socket.local.to_string(),
        Side::Outbound | Side::Unconnected => held.socket.peer.to_string(),
    }
}

fn count(names: impl Iterator<Item = String>) -> HashMap<String, f64> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name).or_insert(0.0) += 1.0;
    }
    counts
}
