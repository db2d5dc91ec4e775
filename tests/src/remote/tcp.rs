//! One TCP connection of the remote host: just enough of RFC 9293 to be believed by a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::REMOTE_TTL;
use super::behaviour::Behaviour;
use super::host::Reply;
use super::packet::{Flags, Packet, Segment, Transport, tcp};

/// Fixed, so that a dump of packets reads easily.
const INITIAL_SEQUENCE: u32 = 1_000_000;
const WINDOW: u16 = 64_000;
const MSS: u16 = 1_400;
/// Until what follows a handshake is sent: a RST that overtakes the return of the other end's
/// connect() would become connect()'s error.
const GREETING: Duration = Duration::from_millis(50);

/// A received segment with its two ends.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    pub client: SocketAddr,
    pub own: SocketAddr,
    flags: Flags,
    sequence: u32,
    acknowledgment: u32,
    payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    pub fn new(packet: &'a Packet) -> Option<Self> {
        let Transport::Tcp { source, destination, flags, sequence, acknowledgment, ref payload, .. } =
            packet.transport
        else {
            return None;
        };
        Some(Self {
            client: SocketAddr::new(packet.source, source),
            own: SocketAddr::new(packet.destination, destination),
            flags,
            sequence,
            acknowledgment,
            payload,
        })
    }

    /// The sequence number after this segment.
    fn end(&self) -> u32 {
        let control = u32::from(self.flags.syn) + u32::from(self.flags.fin);
        self.sequence.wrapping_add(u32::try_from(self.payload.len()).unwrap_or(0)).wrapping_add(control)
    }

    fn reply(&self, ttl: u8, segment: Segment<'_>) -> Vec<Reply> {
        tcp(self.own, self.client, ttl, segment).map(Reply::now).into_iter().collect()
    }

    /// The RST for a segment that belongs to no connection (RFC 9293 §3.10.7.1).
    fn reset(&self, ttl: u8) -> Vec<Reply> {
        let segment = if self.flags.ack {
            let flags = Flags { rst: true, ..Flags::default() };
            Segment { flags, sequence: self.acknowledgment, ..Segment::default() }
        } else {
            let flags = Flags { rst: true, ack: true, ..Flags::default() };
            Segment { flags, acknowledgment: self.end(), ..Segment::default() }
        };
        self.reply(ttl, segment)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    SynReceived,
    Established,
    /// We sent FIN.
    Closing,
    /// As if the host's memory of the connection were gone: RST for everything.
    Forgotten,
}

#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    syns: usize,
    /// RCV.NXT and SND.NXT of RFC 9293.
    receive_next: u32,
    send_next: u32,
    received: usize,
    /// The sequence numbers of data segments so far, to count each once (`Lossy` only).
    segments: BTreeSet<u32>,
    /// Data after a gap: sequence number and length.
    early: BTreeMap<u32, usize>,
    last_heard: Instant,
}

impl Connection {
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            syns: 0,
            receive_next: 0,
            send_next: INITIAL_SEQUENCE,
            received: 0,
            segments: BTreeSet::new(),
            early: BTreeMap::new(),
            last_heard: now,
        }
    }

    pub fn receive(&mut self, now: Instant, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        if segment.flags.rst {
            self.state = State::Closed;
            return Vec::new();
        }
        if segment.flags.syn {
            return self.receive_syn(now, behaviour, segment);
        }
        if let Behaviour::ForgetsIdle { after, reset } = behaviour
            && self.state == State::Established
            && now.duration_since(self.last_heard) > *after
        {
            return if *reset { segment.reset(REMOTE_TTL) } else { Vec::new() };
        }
        self.last_heard = now;
        match self.state {
            State::Closed if matches!(behaviour, Behaviour::ChallengeAck) => Vec::new(),
            State::Closed | State::Forgotten => segment.reset(REMOTE_TTL),
            State::SynReceived => {
                self.state = State::Established;
                let mut replies = self.greet(behaviour, segment);
                if self.state == State::Established && segment.end() != segment.sequence {
                    replies.extend(self.receive_data(behaviour, segment));
                }
                replies
            }
            State::Established => self.receive_data(behaviour, segment),
            State::Closing => self.receive_while_closing(segment),
        }
    }

    fn receive_syn(&mut self, now: Instant, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        // The same SYN again is a retransmission; another sequence number is a new connection.
        if self.state == State::Closed || self.receive_next != segment.end() {
            let syns = if self.receive_next == segment.end() { self.syns } else { 0 };
            *self = Self { syns, receive_next: segment.end(), ..Self::new(now) };
        }
        self.syns += 1;
        let mut delay = Duration::ZERO;
        match behaviour {
            Behaviour::Reset { ttl } => return segment.reset(*ttl),
            Behaviour::IgnoreSyns(count) if self.syns <= *count => return Vec::new(),
            Behaviour::AnswerLate(_) if self.syns > 1 => return Vec::new(),
            Behaviour::AnswerLate(late) => delay = *late,
            Behaviour::ChallengeAck => {
                let flags = Flags { ack: true, ..Flags::default() };
                let acknowledgment = segment.sequence.wrapping_sub(100_000);
                let bare = Segment {
                    flags,
                    sequence: self.send_next,
                    acknowledgment,
                    window: WINDOW,
                    ..Segment::default()
                };
                return segment.reply(REMOTE_TTL, bare);
            }
            _ => {}
        }
        if self.state == State::Closed {
            self.send_next = INITIAL_SEQUENCE.wrapping_add(1);
        }
        self.state = State::SynReceived;
        let flags = Flags { syn: true, ack: true, ..Flags::default() };
        let beyond = if matches!(behaviour, Behaviour::AcknowledgesTooMuch) { 1_000_000 } else { 0 };
        let answer = Segment {
            flags,
            sequence: INITIAL_SEQUENCE,
            acknowledgment: self.receive_next.wrapping_add(beyond),
            window: self.window(behaviour),
            mss: Some(MSS),
            payload: &[],
        };
        let mut replies = segment.reply(REMOTE_TTL, answer);
        replies.iter_mut().for_each(|reply| reply.after = delay);
        replies
    }

    /// What is sent of our own accord when the handshake is complete.
    fn greet(&mut self, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        let mut replies = match behaviour {
            Behaviour::HandshakeThenReset { after_data: 0, ttl } => self.abort(segment, *ttl),
            Behaviour::HandshakeThenFin { after_data: 0 } => self.close(behaviour, segment),
            _ => Vec::new(),
        };
        replies.iter_mut().for_each(|reply| reply.after = GREETING);
        replies
    }

    fn receive_data(&mut self, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        if self.is_deaf(behaviour) {
            return Vec::new();
        }
        if let Behaviour::Lossy { every } = behaviour
            && self.loses(*every, segment)
        {
            return Vec::new();
        }
        if segment.sequence != self.receive_next {
            // Old data, a keepalive or window probe, or a gap: say what is expected.
            return self.acknowledge(behaviour, segment);
        }
        if segment.end() == segment.sequence {
            return Vec::new();
        }
        match behaviour {
            Behaviour::HandshakeThenVanish { ack_data_bytes }
                if self.received + segment.payload.len() > *ack_data_bytes =>
            {
                // From here on nothing is heard.
                self.received = usize::MAX;
                return Vec::new();
            }
            Behaviour::ZeroWindow { after_data }
                if self.received + segment.payload.len() > usize::from(*after_data) =>
            {
                return self.acknowledge(behaviour, segment);
            }
            _ => {}
        }
        self.received += segment.payload.len();
        self.receive_next = segment.end();
        while let Some(length) = self.early.remove(&self.receive_next) {
            self.receive_next = self.receive_next.wrapping_add(u32::try_from(length).unwrap_or(0));
        }
        if segment.flags.fin {
            return self.close(behaviour, segment);
        }
        match behaviour {
            Behaviour::HandshakeThenReset { after_data, ttl } if self.received >= *after_data => {
                self.abort(segment, *ttl)
            }
            Behaviour::HandshakeThenFin { after_data } if self.received >= *after_data => {
                self.close(behaviour, segment)
            }
            Behaviour::Respond(answer) => {
                let mut replies = self.send(behaviour, segment, answer);
                replies.extend(self.close(behaviour, segment));
                replies
            }
            Behaviour::HandshakeThenReset { .. }
            | Behaviour::HandshakeThenFin { .. }
            | Behaviour::HandshakeThenVanish { .. }
            | Behaviour::ZeroWindow { .. }
            | Behaviour::Lossy { .. } => self.acknowledge(behaviour, segment),
            _ => self.send(behaviour, segment, segment.payload),
        }
    }

    /// Whether this segment is lost on its way; if not, and it came early, its place is kept.
    fn loses(&mut self, every: usize, segment: &Incoming<'_>) -> bool {
        if segment.payload.is_empty() {
            return false;
        }
        let first_time = self.segments.insert(segment.sequence);
        if first_time && self.segments.len().is_multiple_of(every) {
            return true;
        }
        if segment.sequence.wrapping_sub(self.receive_next).cast_signed() > 0 {
            self.early.insert(segment.sequence, segment.payload.len());
        }
        false
    }

    /// After our FIN: the other end may close too, but data finds nobody.
    fn receive_while_closing(&mut self, segment: &Incoming<'_>) -> Vec<Reply> {
        if !segment.payload.is_empty() {
            self.state = State::Forgotten;
            return segment.reset(REMOTE_TTL);
        }
        if segment.flags.fin {
            self.receive_next = segment.end();
            return self.acknowledge(&Behaviour::Accept, segment);
        }
        Vec::new()
    }

    fn is_deaf(&self, behaviour: &Behaviour) -> bool {
        matches!(behaviour, Behaviour::HandshakeThenVanish { ack_data_bytes } if self.received >= *ack_data_bytes)
    }

    fn window(&self, behaviour: &Behaviour) -> u16 {
        match behaviour {
            Behaviour::ZeroWindow { after_data } => {
                after_data.saturating_sub(u16::try_from(self.received).unwrap_or(u16::MAX))
            }
            _ => WINDOW,
        }
    }

    fn acknowledge(&self, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        let flags = Flags { ack: true, ..Flags::default() };
        segment.reply(REMOTE_TTL, self.segment(behaviour, flags, &[]))
    }

    fn send(&mut self, behaviour: &Behaviour, segment: &Incoming<'_>, data: &[u8]) -> Vec<Reply> {
        let mut replies = Vec::new();
        for chunk in data.chunks(usize::from(MSS)) {
            let flags = Flags { ack: true, psh: true, ..Flags::default() };
            replies.extend(segment.reply(REMOTE_TTL, self.segment(behaviour, flags, chunk)));
            self.send_next = self.send_next.wrapping_add(u32::try_from(chunk.len()).unwrap_or(0));
        }
        replies
    }

    fn close(&mut self, behaviour: &Behaviour, segment: &Incoming<'_>) -> Vec<Reply> {
        let flags = Flags { fin: true, ack: true, ..Flags::default() };
        let replies = segment.reply(REMOTE_TTL, self.segment(behaviour, flags, &[]));
        self.send_next = self.send_next.wrapping_add(1);
        self.state = State::Closing;
        replies
    }

    fn abort(&mut self, segment: &Incoming<'_>, ttl: Option<u8>) -> Vec<Reply> {
        self.state = State::Forgotten;
        let flags = Flags { rst: true, ack: true, ..Flags::default() };
        let reset = Segment {
            flags,
            sequence: self.send_next,
            acknowledgment: self.receive_next,
            ..Segment::default()
        };
        segment.reply(ttl.unwrap_or(REMOTE_TTL), reset)
    }

    fn segment<'d>(&self, behaviour: &Behaviour, flags: Flags, payload: &'d [u8]) -> Segment<'d> {
        Segment {
            flags,
            sequence: self.send_next,
            acknowledgment: self.receive_next,
            window: self.window(behaviour),
            mss: None,
            payload,
        }
    }
}
