//! The window of what was seen, and the connections that wait for the last of their evidence.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::time::Duration;

use super::belongs::{Belongs, keep_relevant_neighbours};
use super::connection::{Connection, End, Side};
use super::hook::hook_of;
use super::taken::errno_of;
use super::timeline::{Moment, Place, What};
use crate::enrich::netns;
use crate::kernel::reasons::Reasons;
use crate::kernel::symbols::Symbols;
use crate::probes::{
    Call, CallFailed, ConnectionEnd, Drop, Event, IcmpSent, NeighbourFailed, ResetSent, RouteFailed,
    SocketError, StepKind, SynAckAgain, Tuple, Wire,
};

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

#[derive(Debug)]
struct Pending {
    connection: Connection,
    sock: u64,
    steps: Vec<crate::probes::Step>,
    call: Option<(u64, Call, i32)>,
    error_taken: bool,
    due_ns: u64,
}

/// What a finished connection comes with.
#[derive(Debug)]
pub struct Finished {
    pub connection: Connection,
    /// Identity of its socket, to find what was sampled for it.
    pub sock: u64,
    pub timeline: Vec<Moment>,
    /// The end at the peer, if it ended on this machine too.
    pub other_end: Option<Box<Connection>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    limits: Limits,
    reasons: Reasons,
    symbols: OnceCell<Option<Symbols>>,
    window: VecDeque<Event>,
    /// Connections that ended lately, to find a connection's other end.
    ended: VecDeque<Connection>,
    pending: VecDeque<Pending>,
}

impl Tracker {
    pub fn new(limits: Limits, reasons: Reasons) -> Self {
        Self {
            limits,
            reasons,
            symbols: OnceCell::new(),
            window: VecDeque::new(),
            ended: VecDeque::new(),
            pending: VecDeque::new(),
        }
    }

    /// Takes one event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Connection(end) => self.connection_ended(*end),
            Event::CallFailed(call) => self.call_failed(call),
            Event::SocketError(error) => self.socket_error(&error),
            Event::Suspect(_) | Event::Exec(_) => {}
            other => {
                if self.window.len() >= self.limits.events {
                    self.window.pop_front();
                }
                self.window.push_back(other);
            }
        }
    }

    /// When the next connection is due, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.pending.iter().map(|p| p.due_ns).min()
    }

    /// Connections whose grace is over.
    pub fn due(&mut self, now_ns: u64) -> Vec<Finished> {
        let mut due = Vec::new();
        let mut waiting = VecDeque::with_capacity(self.pending.len());
        let excess = self.pending.len().saturating_sub(self.limits.pending);
        for (index, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if pending.due_ns <= now_ns || index < excess {
                due.push(pending);
            } else {
                waiting.push_back(pending);
            }
        }
        self.pending = waiting;
        due.into_iter().map(|pending| self.finish(pending)).collect()
    }

    /// All that still waits, with the evidence there is.
    pub fn flush(&mut self) -> Vec<Finished> {
        self.due(u64::MAX)
    }

    fn connection_ended(&mut self, end: ConnectionEnd) {
        let reasons = &self.reasons;
        let connection = Connection {
            protocol: end.tuple.protocol,
            side: if end.outbound { Side::Outbound } else { Side::Inbound },
            local: end.tuple.source,
            peer: end.tuple.destination,
            netns: end.netns,
            cookie: end.cookie,
            owner: end.owner,
            start_ns: end.start_ns,
            end_ns: end.time_ns,
            from_start: end.from_start,
            asked: end.asked,
            end: End::State { from: end.from, to: end.to },
            // A socket that the application has closed has nobody to tell.
            errno: end.errno.filter(|_| reasons.is_orphaned(end.sk_flags) != Some(true)),
            soft_errno: end.soft_errno,
            bound_interface: end.bound_interface,
            linger: reasons.has_linger(end.sk_flags),
            keepalive: reasons.has_keepalive(end.sk_flags),
            orphaned: reasons.is_orphaned(end.sk_flags),
            tcp: end.tcp,
            closer: end.closer,
            lost_steps: end.lost_steps,
        };
        if self.ended.len() >= self.limits.pending {
            self.ended.pop_front();
        }
        self.ended.push_back(connection.clone());
        let grace = if connection.died_connecting() && connection.errno.is_none() {
            self.limits.late_answer
        } else {
            self.limits.grace
        };
        self.push(connection, end.sock, end.steps, grace);
        if let Some(pending) = self.pending.back_mut() {
            pending.error_taken = end.error_taken;
        }
    }

    fn push(&mut self, connection: Connection, sock: u64, steps: Vec<crate::probes::Step>, grace: Duration) {
        let due_ns = connection.end_ns.saturating_add(grace.as_nanos() as u64);
        self.pending.push_back(Pending { connection, sock, steps, call: None, error_taken: false, due_ns });
    }

    fn call_failed(&mut self, call: CallFailed) {
        // The state change of the same connect() came just before: one failure, told once.
        // The memory of a closed socket is used again at once, so its address alone says nothing.
        let same = self.pending.iter_mut().rev().find(|p| {
            let c = &p.connection;
            call.call == Call::Connect
                && p.sock == call.sock
                && p.call.is_none()
                && c.peer == call.tuple.destination
                && c.netns == call.netns
                && c.owner.as_ref().map(|o| o.tid) == call.owner.as_ref().map(|o| o.tid)
        });
        if let Some(pending) = same {
            pending.call = Some((call.time_ns, call.call, call.errno));
            if pending.connection.errno.is_none() {
                pending.connection.end = End::CallFailed { call: call.call };
                pending.connection.errno = Some(call.errno);
                pending.due_ns = call.time_ns.saturating_add(self.limits.grace.as_nanos() as u64);
            }
            return;
        }
        let connection = Connection {
            protocol: call.tuple.protocol,
            side: Side::Outbound,
            local: call.tuple.source,
            peer: call.tuple.destination,
            netns: call.netns,
            cookie: None,
            owner: call.owner,
            start_ns: call.time_ns,
            end_ns: call.time_ns,
            from_start: true,
            asked: call.asked,
            end: End::CallFailed { call: call.call },
            errno: Some(call.errno),
            soft_errno: None,
            bound_interface: call.bound_interface,
            linger: None,
            keepalive: None,
            orphaned: None,
            tcp: Default::default(),
            closer: None,
            lost_steps: 0,
        };
        let sock = call.sock;
        self.push(connection, sock, Vec::new(), self.limits.grace);
        if let Some(pending) = self.pending.back_mut() {
            pending.call = Some((call.time_ns, call.call, call.errno));
        }
    }

    fn socket_error(&mut self, error: &SocketError) {
        let connection = Connection {
            protocol: error.tuple.protocol,
            side: Side::Outbound,
            local: error.tuple.source,
            peer: error.tuple.destination,
            netns: error.netns,
            cookie: None,
            owner: error.owner.clone(),
            start_ns: error.time_ns,
            end_ns: error.time_ns,
            from_start: false,
            asked: error.asked,
            end: End::SocketError,
            errno: (error.errno != 0).then_some(error.errno),
            soft_errno: (error.soft_errno != 0).then_some(error.soft_errno),
            bound_interface: None,
            linger: None,
            keepalive: None,
            orphaned: None,
            tcp: Default::default(),
            closer: None,
            lost_steps: 0,
        };
        self.push(connection, error.sock, Vec::new(), self.limits.grace);
        if error.errno == 0
            && error.soft_errno == 0
            && let Some(pending) = self.pending.back_mut()
        {
            pending.error_taken = true;
        }
    }

    fn finish(&self, pending: Pending) -> Finished {
        let Pending { mut connection, sock, steps, call, error_taken, .. } = pending;
        let mut timeline: Vec<Moment> =
            steps.into_iter().filter_map(|step| self.step(step.time_ns, step.kind)).collect();
        if let Some((time_ns, call, errno)) = call {
            timeline.push(Moment { time_ns, what: What::CallFailed { call, errno } });
        }
        let owned = Belongs::new(&connection, sock);
        let events: Vec<Event> = self.window.iter().filter(|event| owned.has(event)).cloned().collect();
        timeline.extend(events.into_iter().filter_map(|event| self.moment(&connection, event)));
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
        let other_end = self.other_end(&connection);
        Finished { connection, sock, timeline, other_end }
    }

    fn other_end(&self, connection: &Connection) -> Option<Box<Connection>> {
        let reversed = connection.tuple().reversed();
        self.ended
            .iter()
            .rev()
            .find(|other| other.tuple() == reversed && other.end_ns >= connection.start_ns)
            .map(|other| Box::new(other.clone()))
    }

    fn step(&self, time_ns: u64, kind: StepKind) -> Option<Moment> {
        let what = match kind {
            StepKind::State { from, to } => What::State { from, to },
            StepKind::Retransmit { state, retransmits } => What::Retransmit { state, retransmits },
            StepKind::Error { errno, soft } => What::Error { errno, soft },
            StepKind::ResetReceived => What::ResetReceived,
            StepKind::ResetSent { reason } => What::ResetSent { reason: self.reset_name(reason) },
            // The drop's own record says more; the step in the kernel marks the socket as in trouble.
            StepKind::Drop { .. } => return None,
        };
        Some(Moment { time_ns, what })
    }

    fn reset_name(&self, reason: Option<u32>) -> Option<String> {
        reason.and_then(|reason| self.reasons.reset_name(reason)).map(str::to_owned)
    }

    fn moment(&self, connection: &Connection, event: Event) -> Option<Moment> {
        let outgoing = |tuple: &Tuple| tuple.destination == connection.peer;
        Some(match event {
            Event::Drop(drop) => {
                let Drop { time_ns, reason, location, suppressed, packet, stack, rule, .. } = *drop;
                let outgoing = outgoing(&packet.tuple);
                let place = place(packet.netns, &packet.interface);
                let symbol = self.symbol(location);
                let stack: Vec<String> =
                    stack.into_iter().filter_map(|address| self.symbol(address)).collect();
                let hook = hook_of(&stack);
                let reason = self.reasons.drop_name(reason);
                let what =
                    What::Dropped { packet, outgoing, reason, symbol, hook, stack, place, suppressed, rule };
                Moment { time_ns, what }
            }
            Event::Wire(Wire { time_ns, packet, quoted }) => {
                let place = place(packet.netns, &packet.interface);
                let what = if quoted.is_some() {
                    What::IcmpReceived { packet, place }
                } else {
                    What::Wire { outgoing: outgoing(&packet.tuple), packet, place }
                };
                Moment { time_ns, what }
            }
            Event::IcmpSent(IcmpSent { time_ns, packet, icmp_type, icmp_code }) => {
                let place = place(packet.netns, &packet.interface);
                let outgoing = outgoing(&packet.tuple);
                Moment { time_ns, what: What::IcmpSent { icmp_type, icmp_code, outgoing, place } }
            }
            Event::ResetSent(ResetSent { time_ns, packet, reason, state, accept_queue, backlog, .. }) => {
                let place = place(packet.netns, &packet.interface);
                let reason = self.reset_name(reason);
                Moment { time_ns, what: What::ResetAnswered { reason, state, accept_queue, backlog, place } }
            }
            Event::RouteFailed(RouteFailed { time_ns, netns, tuple, table, errno, iif, .. }) => {
                let place = place(netns.unwrap_or(0), "");
                let what = What::RouteFailed { tuple, table, errno, forwarded: iif.is_some(), place };
                Moment { time_ns, what }
            }
            Event::SynAckAgain(SynAckAgain { time_ns, netns, .. }) => {
                Moment { time_ns, what: What::SynAckRetransmitted { place: place(netns, "") } }
            }
            Event::NeighbourFailed(NeighbourFailed { time_ns, address, interface, netns, .. }) => {
                let place = place(netns, &interface);
                Moment { time_ns, what: What::NeighbourFailed { address, place } }
            }
            Event::Connection(_)
            | Event::Suspect(_)
            | Event::CallFailed(_)
            | Event::SocketError(_)
            | Event::Exec(_) => return None,
        })
    }

    /// Name of the function at an address, without the compiler's suffixes. The table is read at the first
    /// need: it takes 60 ms that most runs never pay.
    pub fn symbol(&self, address: u64) -> Option<String> {
        let symbols = self.symbols.get_or_init(|| Symbols::load().ok()).as_ref()?;
        Some(symbols.resolve(address)?.base_name().to_owned())
    }
}

fn place(netns: u32, interface: &str) -> Place {
    Place {
        netns,
        netns_name: if netns == 0 { None } else { netns::name_of(netns.into()) },
        interface: (!interface.is_empty()).then(|| interface.to_owned()),
    }
}
