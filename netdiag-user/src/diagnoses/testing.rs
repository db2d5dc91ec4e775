//! Evidence for the tests of the diagnoses.
//!
//! Times are milliseconds after connect().

use std::net::SocketAddr;

use super::{Diagnosis, Evidence, Finding, Verdict, catalogue, diagnose, find};
use crate::enrich::facts::{NetnsFact, QueueSample};
use crate::enrich::listeners::Listener;
use crate::enrich::process::Process;
use crate::enrich::sockets::Protocol;
use crate::probes::{Closer, Direction, DropRule, Owner, Packet, TcpState, TcpSummary, Tuple, protocol};
use crate::track::{Connection, End, Hook, Moment, Place, What};

pub const CLIENT_NETNS: u32 = 4_026_531_840;
pub const PEER_NETNS: u32 = 4_026_532_999;
pub const START_NS: u64 = 1_000_000_000_000;

pub const SYN: u8 = Packet::SYN;
pub const RST: u8 = Packet::RST;
pub const ACK: u8 = Packet::ACK;

/// Builds the evidence of one connection: curl[4213], 10.0.1.2:40000 -> 10.0.2.2:8080, outbound TCP, seen from
/// its start, no errno, the peer on another machine, nothing lost.
#[derive(Debug, Clone)]
pub struct Case {
    evidence: Evidence,
}

impl Case {
    /// Ended in SYN_SENT after 5 s.
    pub fn connecting() -> Self {
        Self::ending(TcpState::SynSent, TcpState::Close)
    }

    /// Was established; `from` and `to` are its last transition, after 5 s.
    pub fn ending(from: TcpState, to: TcpState) -> Self {
        let tuple = Tuple {
            protocol: protocol::TCP,
            source: address("10.0.1.2:40000"),
            destination: address("10.0.2.2:8080"),
        };
        let connection = Connection {
            cookie: Some(4711),
            owner: Some(Owner { pid: 4213, tid: 4213, uid: 1000, cgroup: 1, comm: "curl".into() }),
            end_ns: START_NS + 5_000_000_000,
            from_start: true,
            asked: true,
            end: End::State { from, to },
            linger: Some(false),
            keepalive: Some(false),
            orphaned: Some(false),
            tcp: TcpSummary {
                bytes_acked: Some(0),
                bytes_received: Some(0),
                srtt_us: None,
                total_retrans: Some(0),
                packets_out: Some(0),
                unread: Some(0),
                unacked: Some(0),
                user_timeout_ms: Some(0),
                retransmits: Some(0),
                probes_out: Some(0),
                lingertime: Some(0),
            },
            closer: Some(Closer { pid: 4213, comm: "curl".into(), uid: 1000, exiting: false }),
            ..Connection::of_flow(tuple, CLIENT_NETNS, START_NS)
        };
        let mut evidence = Evidence {
            connection,
            timeline: Vec::new(),
            other_end: None,
            facts: Default::default(),
            coverage: Default::default(),
        };
        evidence.facts.peer_namespaces = Some(Vec::new());
        evidence.facts.listeners = Some(Vec::new());
        Self { evidence }
    }

    /// What the application got. The kernel ended it then, so nobody closed it.
    pub fn errno(mut self, errno: i32) -> Self {
        self.evidence.connection.errno = Some(errno);
        self.evidence.connection.closer = None;
        self
    }

    pub fn lasted(mut self, ms: u64) -> Self {
        self.evidence.connection.end_ns = START_NS + ms * 1_000_000;
        self
    }

    /// Whatever has no method of its own.
    pub fn with(mut self, change: impl FnOnce(&mut Evidence)) -> Self {
        change(&mut self.evidence);
        self
    }

    pub fn tcp(self, change: impl FnOnce(&mut TcpSummary)) -> Self {
        self.with(|e| change(&mut e.connection.tcp))
    }

    pub fn at(mut self, ms: u64, what: What) -> Self {
        self.evidence.timeline.push(Moment { time_ns: START_NS + ms * 1_000_000, what });
        self
    }

    /// The SYN was sent again at these times.
    pub fn syn_again(self, times: &[u64]) -> Self {
        self.retransmits(TcpState::SynSent, times)
    }

    /// Data was sent again at these times, unanswered.
    pub fn data_again(self, times: &[u64]) -> Self {
        self.retransmits(TcpState::Established, times).tcp(|tcp| tcp.unacked = Some(100))
    }

    fn retransmits(mut self, state: TcpState, times: &[u64]) -> Self {
        for (index, ms) in times.iter().enumerate() {
            self = self.at(*ms, What::Retransmit { state, retransmits: Some(index as u32 + 1) });
        }
        let count = times.len();
        self.tcp(|tcp| {
            tcp.retransmits = Some(count as u8);
            tcp.total_retrans = Some(count as u32);
        })
    }

    /// A packet of the local end that tc saw leave eth0.
    pub fn sent(self, ms: u64, flags: u8) -> Self {
        let packet = self.packet(flags, true);
        self.at(ms, What::Wire { packet, outgoing: true, place: here() })
    }

    /// A packet of the peer that tc saw arrive on eth0.
    pub fn came(self, ms: u64, flags: u8) -> Self {
        let packet = self.packet(flags, false);
        self.at(ms, What::Wire { packet, outgoing: false, place: here() })
    }

    /// tc watched from the start, and these are the SYNs that left.
    pub fn wire(mut self, syns: &[u64]) -> Self {
        self.evidence.coverage.wire = true;
        self.evidence.coverage.wire_since_suspect = true;
        syns.iter().fold(self, |case, ms| case.sent(*ms, SYN))
    }

    pub fn dropped(self, ms: u64, drop: Drop) -> Self {
        let Drop { flags, outgoing, reason, symbol, hook, place, rule } = drop;
        let packet = self.packet(flags, outgoing);
        let symbol = symbol.map(str::to_owned);
        let reason = reason.to_owned();
        self.at(
            ms,
            What::Dropped {
                packet,
                outgoing,
                reason,
                symbol,
                hook,
                stack: Vec::new(),
                place,
                suppressed: 0,
                rule: rule.map(Box::new),
            },
        )
    }

    /// An ICMP error about this connection from 10.0.1.1.
    pub fn icmp(self, ms: u64, icmp_type: u8, icmp_code: u8) -> Self {
        let mut packet = self.packet(icmp_type, false);
        packet.code = icmp_code;
        packet.tuple.protocol = protocol::ICMP;
        packet.tuple.source = address("10.0.1.1:0");
        packet.tuple.destination.set_port(0);
        self.at(ms, What::IcmpReceived { packet, place: here() })
    }

    /// The peer's address is in namespace `srv` of this machine, where nginx[800] listens with a backlog of 5.
    pub fn peer_on_this_machine(self) -> Self {
        self.with(|e| {
            let name = Some("srv".to_owned());
            e.facts.peer_namespaces = Some(vec![NetnsFact { inode: PEER_NETNS.into(), name: name.clone() }]);
            e.facts.listeners = Some(vec![Listener {
                protocol: Protocol::Tcp,
                netns: PEER_NETNS.into(),
                netns_name: name,
                local: address("0.0.0.0:8080"),
                v6only: None,
                accept_queue: 0,
                backlog: 5,
                interface: 0,
                inode: 77,
                cookie: 88,
                processes: vec![Process { pid: 800, comm: "nginx".into(), ..Process::default() }],
            }]);
        })
    }

    /// That listener's queues, with counters of its namespace.
    pub fn queues(self, ms: u64, accept_queue: u32, syn_recv: u32, counters: &[(&str, u64)]) -> Self {
        let counters = counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        self.with(|e| {
            e.facts.queue_samples.push(QueueSample {
                time_ns: START_NS + ms * 1_000_000,
                netns: PEER_NETNS.into(),
                local: address("0.0.0.0:8080"),
                accept_queue,
                backlog: 5,
                syn_recv,
                syn_sources: None,
                counters,
            });
        })
    }

    pub fn packet(&self, flags: u8, outgoing: bool) -> Packet {
        let connection = &self.evidence.connection;
        let sent = Tuple { protocol: protocol::TCP, source: connection.local, destination: connection.peer };
        Packet {
            tuple: if outgoing { sent } else { sent.reversed() },
            flags,
            code: 0,
            ttl: 64,
            direction: if outgoing { Direction::Egress } else { Direction::Ingress },
            seq: 1,
            ifindex: 2,
            iif: 0,
            interface: "eth0".into(),
            netns: CLIENT_NETNS,
        }
    }

    pub fn build(mut self) -> Evidence {
        self.evidence.timeline.sort_by_key(|moment| moment.time_ns);
        self.evidence
    }

    /// What the whole catalogue says.
    #[track_caller]
    pub fn diagnosed(self) -> (&'static str, Finding) {
        let evidence = self.build();
        let Some((diagnosis, finding)) = diagnose(&evidence) else {
            panic!("nothing found in {evidence:#?}")
        };
        (diagnosis.code, finding)
    }

    /// What one diagnosis says.
    #[track_caller]
    pub fn asked(self, code: &str) -> Verdict {
        (entry(code).check)(&self.build())
    }

    /// The finding of one diagnosis.
    #[track_caller]
    pub fn found(self, code: &str) -> Finding {
        match self.asked(code) {
            Verdict::Found(finding) => *finding,
            other => panic!("{code}: {other:?}"),
        }
    }

    /// No diagnosis of this symptom finds anything, and none is unsure.
    #[track_caller]
    pub fn healthy(self, symptom: &str) {
        let evidence = self.build();
        for diagnosis in catalogue().filter(|diagnosis| diagnosis.symptom() == symptom) {
            assert_eq!((diagnosis.check)(&evidence), Verdict::Healthy, "{}", diagnosis.code);
        }
    }
}

#[track_caller]
fn entry(code: &str) -> &'static Diagnosis {
    match find(code) {
        Some(diagnosis) => diagnosis,
        None => panic!("{code} is not in the catalogue"),
    }
}

/// A dropped packet.
#[derive(Debug, Clone)]
pub struct Drop {
    pub flags: u8,
    pub outgoing: bool,
    pub reason: &'static str,
    pub symbol: Option<&'static str>,
    pub hook: Option<Hook>,
    pub place: Place,
    pub rule: Option<DropRule>,
}

impl Drop {
    /// The SYN, in the client's namespace.
    pub fn syn(reason: &'static str, symbol: &'static str) -> Self {
        Self {
            flags: SYN,
            outgoing: true,
            reason,
            symbol: Some(symbol),
            hook: None,
            place: here(),
            rule: None,
        }
    }

    /// The answer, in the client's namespace.
    pub fn syn_ack(reason: &'static str, symbol: &'static str) -> Self {
        Self { flags: SYN | ACK, outgoing: false, ..Self::syn(reason, symbol) }
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    pub fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    pub fn rule(mut self, rule: DropRule) -> Self {
        self.rule = Some(rule);
        self
    }
}

/// eth0 of the client's namespace.
pub fn here() -> Place {
    Place { netns: CLIENT_NETNS, netns_name: None, interface: Some("eth0".into()) }
}

/// eth0 of namespace `srv`, the peer's where that is on this machine.
pub fn there() -> Place {
    Place { netns: PEER_NETNS, netns_name: Some("srv".into()), interface: Some("eth0".into()) }
}

pub fn address(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(address) => address,
        Err(error) => panic!("{text}: {error}"),
    }
}
