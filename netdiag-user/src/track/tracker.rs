//! The window of what was seen, and the connections that wait for the last of their evidence.

use std::collections::VecDeque;
use std::time::Duration;

use super::belongs::{Belongs, keep_relevant_neighbours, other_end};
use super::connection::{Connection, End};
use super::taken::errno_of;
use super::teller::Teller;
use super::timeline::{Moment, What};
use super::waiting::{Pending, Waiting};
use super::window::Window;
use crate::enrich::netns::Names;
use crate::kernel::reasons::Reasons;
use crate::probes::{CallFailed, ConnectionEnd, Event, SocketError};

/// Bounds of the window.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events kept; the oldest go first.
    pub events: usize,
    /// Connections that wait at the same time; beyond it the oldest is finished early.
    pub pending: usize,
    /// Late evidence is waited for this long.
    pub grace: Duration,
    /// The same for a connection that the application gave up: the answer may come after it has left.
    pub late_answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events: 16_384,
            pending: 4_096,
            grace: Duration::from_millis(60),
            late_answer: Duration::from_millis(1_000),
        }
    }
}

/// What a finished connection comes with.
#[derive(Debug)]
pub struct Finished {
    pub connection: Connection,
    /// Identity of its socket, to find what was sampled for it.
    pub sock: u64,
    pub timeline: Vec<Moment>,
    /// Events like those of the timeline that were left out, as there were so many.
    pub left_out: u64,
    /// The end at the peer, if it ended on this machine too.
    pub other_end: Option<Box<Connection>>,
}

/// Connections whose grace is over, to be finished one by one: see [`Tracker::finish`].
#[derive(Debug)]
pub struct Due {
    pending: VecDeque<Box<Pending>>,
    names: Names,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    limits: Limits,
    teller: Teller,
    window: Window<Event>,
    /// Connections that ended lately, to find a connection's other end.
    ended: Window<Connection>,
    waiting: Waiting,
}

impl Tracker {
    pub fn new(limits: Limits, reasons: Reasons) -> Self {
        Self {
            limits,
            teller: Teller::new(reasons),
            window: Window::new(limits.events),
            ended: Window::new(limits.pending),
            waiting: Waiting::default(),
        }
    }

    /// Takes one event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Connection(end) => self.connection_ended(*end),
            Event::CallFailed(call) => self.call_failed(call),
            Event::SocketError(error) => self.socket_error(error),
            Event::Suspect(_) | Event::Exec(_) => {}
            other => self.window.push(other),
        }
    }

    /// When the next connection is due, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.waiting.next_due_ns()
    }

    /// Takes out connections whose grace is over.
    pub fn take_due(&mut self, now_ns: u64) -> Due {
        Due { pending: self.waiting.take_due(now_ns, self.limits.pending), names: Names::default() }
    }

    /// The next of these with all that belongs to it.
    pub fn finish(&self, due: &mut Due) -> Option<Finished> {
        due.pending.pop_front().map(|pending| self.finished(*pending, &due.names))
    }

    /// Connections whose grace is over.
    pub fn due(&mut self, now_ns: u64) -> Vec<Finished> {
        let mut due = self.take_due(now_ns);
        std::iter::from_fn(|| self.finish(&mut due)).collect()
    }

    /// All that still waits, with the evidence there is.
    pub fn flush(&mut self) -> Vec<Finished> {
        self.due(u64::MAX)
    }

    fn connection_ended(&mut self, end: ConnectionEnd) {
        let connection = Connection::ended(&end, &self.teller.reasons);
        self.ended.push(connection.clone());
        let grace = if connection.died_connecting() && connection.errno.is_none() {
            self.limits.late_answer
        } else {
            self.limits.grace
        };
        self.wait(connection, end.sock, grace, |pending| {
            pending.steps = end.steps;
            pending.error_taken = end.error_taken;
        });
    }

    fn call_failed(&mut self, call: CallFailed) {
        if self.waiting.takes(&call, nanoseconds(self.limits.grace)) {
            return;
        }
        let (sock, failed) = (call.sock, (call.time_ns, call.call, call.errno));
        let set = |pending: &mut Pending| pending.call = Some(failed);
        self.wait(Connection::call_failed(call), sock, self.limits.grace, set);
    }

    fn socket_error(&mut self, error: SocketError) {
        let (sock, error_taken) = (error.sock, error.errno == 0 && error.soft_errno == 0);
        let set = |pending: &mut Pending| pending.error_taken = error_taken;
        self.wait(Connection::socket_error(error), sock, self.limits.grace, set);
    }

    fn wait(&mut self, connection: Connection, sock: u64, grace: Duration, set: impl FnOnce(&mut Pending)) {
        let due_ns = connection.end_ns.saturating_add(nanoseconds(grace));
        let mut pending =
            Pending { connection, sock, steps: Vec::new(), call: None, error_taken: false, due_ns };
        set(&mut pending);
        self.waiting.push(pending);
    }

    fn finished(&self, pending: Pending, names: &Names) -> Finished {
        let Pending { mut connection, sock, steps, call, error_taken, .. } = pending;
        let belongs = Belongs::new(&connection, sock);
        let (events, left_out) = belongs.select(&self.window, &self.teller.reasons);
        let mut timeline = Vec::with_capacity(steps.len() + usize::from(call.is_some()) + events.len());
        timeline.extend(steps.iter().filter_map(|step| self.teller.step(step)));
        if let Some((time_ns, call, errno)) = call {
            timeline.push(Moment { time_ns, what: What::CallFailed { call, errno } });
        }
        timeline.extend(events.into_iter().filter_map(|event| self.teller.moment(&connection, event, names)));
        keep_relevant_neighbours(&connection, &mut timeline);
        timeline.sort_by_key(|moment| moment.time_ns);
        // What led to a failed call came before it, and an ICMP error comes for a datagram sent earlier.
        if let (Some(first), End::CallFailed { .. } | End::SocketError) = (timeline.first(), &connection.end)
        {
            connection.start_ns = connection.start_ns.min(first.time_ns);
        }
        if error_taken && connection.errno.is_none() {
            connection.errno = errno_of(&connection, &timeline);
        }
        let other_end = other_end(&connection, &self.ended).cloned().map(Box::new);
        Finished { connection, sock, timeline, left_out, other_end }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
