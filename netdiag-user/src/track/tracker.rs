//! The window of what was seen, and the connections that wait for the last of their evidence.

use std::rc::Rc;
use std::time::Duration;

use super::belongs::{Belongs, By, flow_key, keep_relevant_neighbours, other_end};
use super::connection::{Connection, End};
use super::index::{Key, Keys};
use super::taken::{errno_of, noted_errno_of};
use super::teller::Teller;
use super::timeline::{Moment, What};
use super::translated::{Nat, Seen};
use super::waiting::{Grace, Pending, Waiting};
use super::window::Window;
use crate::enrich::netns::Names;
use crate::kernel::reasons::Reasons;
use crate::probes::{CallFailed, ConnectionEnd, Drop, DroppedSyn, Event, SocketError, Step, StepKind, Tuple};

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
    /// Shared with what is remembered of ended connections.
    pub connection: Rc<Connection>,
    /// Identity of its socket, to find what was sampled for it.
    pub sock: u64,
    pub timeline: Vec<Moment>,
    /// Events like those of the timeline that were left out, as there were so many.
    pub left_out: u64,
    /// The end at the peer, if it ended on this machine too.
    pub other_end: Option<Rc<Connection>>,
}

/// Connections whose grace is over, to be finished one by one: see [`Tracker::finish`].
#[derive(Debug)]
pub struct Due {
    now_ns: u64,
    /// So many of the oldest are finished before they are due.
    excess: usize,
    names: Names,
    numbers: Vec<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    limits: Limits,
    teller: Teller,
    window: Window<Event>,
    /// Connections that ended lately, to find a connection's other end.
    ended: Window<Rc<Connection>>,
    waiting: Waiting,
}

impl Tracker {
    pub fn new(limits: Limits, reasons: Reasons) -> Self {
        let keys = Keys::default();
        Self {
            limits,
            teller: Teller::new(reasons),
            window: Window::new(limits.events, keys.clone()),
            ended: Window::new(limits.pending, keys),
            waiting: Waiting::default(),
        }
    }

    /// Takes one event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Connection(mut end) => self.connection_ended(&mut end),
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

    /// The connections whose grace is over at this time.
    pub fn take_due(&self, now_ns: u64) -> Due {
        let excess = self.waiting.len().saturating_sub(self.limits.pending);
        Due { now_ns, excess, names: Names::default(), numbers: Vec::new() }
    }

    /// The next of these with all that belongs to it. `translated` is asked what NAT made of a connection with this
    /// socket, where no packet tells.
    pub fn finish(
        &mut self,
        due: &mut Due,
        translated: &mut dyn FnMut(&Self, &Connection, u64) -> Option<Tuple>,
    ) -> Option<Finished> {
        let pending = self.waiting.take(due.now_ns, due.excess > 0)?;
        due.excess = due.excess.saturating_sub(1);
        Some(self.finished(pending, due, translated))
    }

    /// Name of the kernel's function at an address, without the compiler's suffixes.
    pub fn symbol(&self, address: u64) -> Option<String> {
        self.teller.symbol(address)
    }

    /// Where the code of these functions of the kernel is.
    pub fn code_of(&self, names: &[&str]) -> Vec<[u64; 2]> {
        self.teller.code_of(names)
    }

    /// Connections whose grace is over.
    #[cfg(test)]
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Finished> {
        let mut due = self.take_due(now_ns);
        std::iter::from_fn(|| self.finish(&mut due, &mut |_, _, _| None)).collect()
    }

    /// All that still waits, with the evidence there is.
    #[cfg(test)]
    pub(super) fn flush(&mut self) -> Vec<Finished> {
        self.due(u64::MAX)
    }

    fn connection_ended(&mut self, end: &mut ConnectionEnd) {
        if let Some(syn) = end.dropped_syn.take() {
            self.syn_dropped(syn);
        }
        let connection = Rc::new(Connection::ended(end, &self.teller.reasons));
        let flow = flow_key(&connection, &self.ended.keys);
        self.ended.push_with(Rc::clone(&connection), [Some(flow), None]);
        let gave_up = connection.died_connecting() && connection.errno.is_none();
        let grace = if gave_up { Grace::Long } else { Grace::Short };
        self.wait(connection, flow, end.sock, grace, |pending| {
            pending.steps = std::mem::take(&mut end.steps);
            pending.error_taken = end.error_taken;
        });
    }

    /// The drop of a SYN that may have had no record of its own, as there were too many.
    fn syn_dropped(&mut self, syn: DroppedSyn) {
        const AT_MOST_NS: u64 = 1_000_000;
        let key = self.window.keys.of(By::flow(&syn.tuple));
        let is_told = self.window.latest(key).any(|event| match event {
            Event::Drop(drop) => {
                drop.packet.tuple == syn.tuple
                    && drop.reason == syn.reason
                    && drop.time_ns.abs_diff(syn.time_ns) < AT_MOST_NS
            }
            _ => false,
        });
        if !is_told {
            self.window.push(Event::Drop(Box::new(Drop::of_syn(&syn))));
        }
    }

    fn call_failed(&mut self, call: CallFailed) {
        if self.waiting.takes(&call, nanoseconds(self.limits.grace)) {
            return;
        }
        let (sock, failed) = (call.sock, (call.time_ns, call.call, call.errno));
        let set = |pending: &mut Pending| pending.call = Some(failed);
        let connection = Rc::new(Connection::call_failed(call));
        let flow = flow_key(&connection, &self.ended.keys);
        self.wait(connection, flow, sock, Grace::Short, set);
    }

    fn socket_error(&mut self, error: SocketError) {
        let (sock, error_taken) = (error.sock, error.errno == 0 && error.soft_errno == 0);
        let set = |pending: &mut Pending| pending.error_taken = error_taken;
        let connection = Rc::new(Connection::socket_error(error));
        let flow = flow_key(&connection, &self.ended.keys);
        self.wait(connection, flow, sock, Grace::Short, set);
    }

    fn wait(
        &mut self,
        connection: Rc<Connection>,
        flow: Key,
        sock: u64,
        grace: Grace,
        set: impl FnOnce(&mut Pending),
    ) {
        let time = if grace == Grace::Short { self.limits.grace } else { self.limits.late_answer };
        let due_ns = connection.end_ns.saturating_add(nanoseconds(time));
        let mut pending =
            Pending { connection, flow, sock, steps: Vec::new(), call: None, error_taken: false, due_ns };
        set(&mut pending);
        self.waiting.push(pending, grace);
    }

    fn finished(
        &self,
        pending: Pending,
        due: &mut Due,
        translated: &mut dyn FnMut(&Self, &Connection, u64) -> Option<Tuple>,
    ) -> Finished {
        let Pending { mut connection, mut flow, sock, steps, call, error_taken, .. } = pending;
        let Due { names, numbers, .. } = due;
        let seen = Seen { window: &self.window, ended: &self.ended };
        let wire = match seen.translated(&connection, sock, flow, numbers) {
            Nat::Made(wire) => Some(wire),
            Nat::Nothing => None,
            // The entry of connection tracking is gone (nf_conntrack_proto_tcp.c, `nf_conntrack_tcp_packet`).
            Nat::NotSeen if is_reset_at_once(&connection, &steps) => None,
            Nat::NotSeen => translated(self, &connection, sock),
        };
        if let Some(wire) = wire {
            Rc::make_mut(&mut connection).translate(&wire);
            flow = flow_key(&connection, &self.window.keys);
        }
        let belongs = Belongs::new(&connection, sock);
        let (events, left_out) = belongs.select(flow, &self.window, &self.teller.reasons, numbers);
        let mut timeline =
            Vec::with_capacity(steps.len() + usize::from(call.is_some()) + events.size_hint().1.unwrap_or(0));
        timeline.extend(steps.iter().filter_map(|step| self.teller.step(step)));
        if let Some((time_ns, call, errno)) = call {
            timeline.push(Moment { time_ns, what: What::CallFailed { call, errno } });
        }
        timeline.extend(events.filter_map(|event| self.teller.moment(&connection, event, names)));
        keep_relevant_neighbours(&connection, &mut timeline);
        timeline.sort_by_key(|moment| moment.time_ns);
        timeline.dedup_by(|later, earlier| is_seen_twice(earlier, later));
        // What led to a failed call came before it, and an ICMP error comes for a datagram sent earlier.
        if let (Some(first), End::CallFailed { .. } | End::SocketError) = (timeline.first(), &connection.end)
        {
            let start_ns = connection.start_ns.min(first.time_ns);
            Rc::make_mut(&mut connection).start_ns = start_ns;
        }
        let taken = match connection.errno {
            Some(_) => None,
            None if error_taken => errno_of(&connection, &timeline),
            None => noted_errno_of(&connection, &timeline),
        };
        if taken.is_some() {
            Rc::make_mut(&mut connection).errno = taken;
        }
        let other_end = other_end(&connection, flow, &self.ended).map(Rc::clone);
        Finished { connection, sock, timeline, left_out, other_end }
    }
}

/// Whether a RST answered the first SYN.
fn is_reset_at_once(connection: &Connection, steps: &[Step]) -> bool {
    let has = |is: fn(&StepKind) -> bool| steps.iter().any(|step| is(&step.kind));
    connection.died_connecting()
        && has(|kind| matches!(kind, StepKind::ResetReceived))
        && !has(|kind| matches!(kind, StepKind::Retransmit { .. }))
}

/// One ICMP error, on the wire and in the function that takes it.
fn is_seen_twice(earlier: &Moment, later: &Moment) -> bool {
    const AT_MOST_NS: u64 = 20_000_000;
    match (&earlier.what, &later.what) {
        (What::IcmpReceived { packet: wire, .. }, What::IcmpReceived { packet, .. }) => {
            (wire.tuple, wire.flags, wire.code) == (packet.tuple, packet.flags, packet.code)
                && wire.ifindex == packet.ifindex
                && later.time_ns - earlier.time_ns < AT_MOST_NS
        }
        _ => false,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
