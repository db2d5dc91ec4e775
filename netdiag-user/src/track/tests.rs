use std::time::Duration;

use crate::kernel::reasons::Reasons;
use crate::probes::{
    Call, CallFailed, ConnectionEnd, Direction, Drop, DroppedSyn, Event, NeighbourFailed, Owner, Packet,
    Step, StepKind, TcpState, TcpSummary, Tuple, Wire, protocol,
};
use crate::track::{End, Finished, Limits, Side, Tracker, What};

pub(super) const MS: u64 = 1_000_000;
pub(super) const NETNS: u32 = 4_026_531_840;
const OTHER_NETNS: u32 = 4_026_532_000;

pub(super) fn tuple() -> Tuple {
    Tuple {
        protocol: protocol::TCP,
        source: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
    }
}

fn owner(pid: u32) -> Option<Owner> {
    Some(Owner { pid, tid: pid, uid: 0, cgroup: 1, comm: "curl".into() })
}

/// Opened at 1 s, gave up at 2 s.
pub(super) fn gave_up() -> ConnectionEnd {
    ConnectionEnd {
        time_ns: 2_000 * MS,
        start_ns: 1_000 * MS,
        sock: 0xff00,
        cookie: Some(7),
        owner: owner(100),
        tuple: tuple(),
        netns: NETNS,
        asked: true,
        from_start: true,
        outbound: true,
        sk_flags: 0,
        errno: None,
        error_taken: false,
        soft_errno: None,
        from: TcpState::SynSent,
        to: TcpState::Close,
        bound_interface: None,
        tcp: TcpSummary::default(),
        closer: None,
        dropped_syn: None,
        steps: Vec::new(),
        lost_steps: 0,
    }
}

pub(super) fn syn_dropped(at_ms: u64, sock: u64, netns: u32) -> Event {
    let packet = Packet {
        tuple: tuple(),
        flags: 2,
        code: 0,
        ttl: 64,
        direction: Direction::Egress,
        seq: 1,
        ifindex: 2,
        iif: 0,
        interface: "eth0".into(),
        netns,
    };
    let (time_ns, stack) = (at_ms * MS, Vec::new());
    Event::Drop(Box::new(Drop {
        time_ns,
        sock,
        reason: 12,
        location: 0,
        suppressed: 0,
        limit_key: 0,
        packet,
        stack,
        frames: Default::default(),
        rule: None,
    }))
}

fn failed_connect(pid: u32, at_ms: u64) -> Event {
    Event::CallFailed(CallFailed {
        time_ns: at_ms * MS,
        sock: 0xff00,
        owner: owner(pid),
        tuple: tuple(),
        call: Call::Connect,
        errno: libc::EADDRNOTAVAIL,
        netns: NETNS,
        bound_interface: None,
        asked: true,
        ipv6_only: false,
    })
}

pub(super) fn tracker(events: impl IntoIterator<Item = Event>) -> Tracker {
    let mut tracker = Tracker::new(Limits::default(), Reasons::default());
    for event in events {
        tracker.add(event);
    }
    tracker
}

pub(super) fn finish(events: impl IntoIterator<Item = Event>) -> Vec<Finished> {
    tracker(events).flush()
}

pub(super) fn end(end: ConnectionEnd) -> Event {
    Event::Connection(Box::new(end))
}

fn drops(finished: &Finished) -> usize {
    finished.timeline.iter().filter(|m| matches!(m.what, What::Dropped { .. })).count()
}

#[test]
fn who_sent_a_syn_has_opened_the_connection() {
    let side = |from| {
        let lost = ConnectionEnd { from, outbound: false, owner: None, from_start: false, ..gave_up() };
        finish(vec![end(lost)])[0].connection.side
    };
    assert_eq!((side(TcpState::SynSent), side(TcpState::Established)), (Side::Outbound, Side::Inbound));
}

#[test]
fn a_late_answer_is_waited_for_only_after_giving_up() {
    let mut waiting = tracker([end(gave_up())]);
    assert!(waiting.due(2_500 * MS).is_empty());
    assert_eq!(waiting.due(3_000 * MS).len(), 1);
    let mut refused = tracker([end(ConnectionEnd { errno: Some(libc::ECONNREFUSED), ..gave_up() })]);
    assert_eq!(refused.due(2_000 * MS + Limits::default().grace.as_nanos() as u64).len(), 1);
}

#[test]
fn an_icmp_error_that_two_probes_saw_is_one() {
    let router = "10.0.0.254:0".parse().unwrap();
    let icmp = |at_ms: u64, netns, code| {
        let error = Tuple { protocol: protocol::ICMP, source: router, destination: router };
        let Event::Drop(drop) = syn_dropped(at_ms, 0, netns) else { panic!("no drop") };
        let packet = Packet { tuple: error, flags: 3, code, ..drop.packet };
        Event::Wire(Wire { time_ns: at_ms * MS, packet, quoted: Some(tuple()), asked: None })
    };
    let received = |events: Vec<Event>| finish(events)[0].timeline.len();
    assert_eq!(received(vec![icmp(1_100, 0, 1), icmp(1_101, NETNS, 1), end(gave_up())]), 1);
    assert_eq!(received(vec![icmp(1_100, 0, 1), icmp(1_101, NETNS, 13), end(gave_up())]), 2);
    assert_eq!(received(vec![icmp(1_100, 0, 1), icmp(1_700, NETNS, 1), end(gave_up())]), 2);
}

#[test]
fn its_own_drops_are_evidence() {
    let finished = finish([syn_dropped(1_001, 0xff00, NETNS), end(gave_up())]);
    assert_eq!(drops(&finished[0]), 1);
    // Before it began.
    assert_eq!(drops(&finish([syn_dropped(500, 0xff00, NETNS), end(gave_up())])[0]), 0);
}

#[test]
fn the_same_ports_in_another_namespace_are_another_connection() {
    assert_eq!(drops(&finish([syn_dropped(1_001, 0xee00, OTHER_NETNS), end(gave_up())])[0]), 0);
}

#[test]
fn a_socket_without_a_port_is_known_by_itself_while_it_lives() {
    let without_port = || {
        let mut connection = gave_up();
        connection.tuple.source.set_port(0);
        end(connection)
    };
    assert_eq!(drops(&finish([syn_dropped(1_001, 0xff00, NETNS), without_port()])[0]), 1);
    // Later its memory is another socket's.
    assert_eq!(drops(&finish([without_port(), syn_dropped(2_050, 0xff00, NETNS)])[0]), 0);
    assert_eq!(drops(&finish([syn_dropped(1_001, 0xff00, OTHER_NETNS), without_port()])[0]), 0);
}

#[test]
fn a_failed_call_and_its_state_change_are_one_failure() {
    let finished = finish([end(gave_up()), failed_connect(100, 2_000)]);
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].connection.errno, Some(libc::EADDRNOTAVAIL));
    assert_eq!(finished[0].connection.end, End::CallFailed { call: Call::Connect });
}

#[test]
fn a_failed_call_of_another_thread_is_another_failure() {
    let finished = finish([end(gave_up()), failed_connect(200, 2_000)]);
    assert_eq!(finished.len(), 2);
    assert_eq!(finished[0].connection.errno, None);
}

#[test]
fn an_error_that_the_application_took_is_inferred() {
    let reset = Step { time_ns: 1_500 * MS, kind: StepKind::ResetReceived };
    let taken = ConnectionEnd { error_taken: true, steps: vec![reset], ..gave_up() };
    assert_eq!(finish([end(taken)])[0].connection.errno, Some(libc::ECONNREFUSED));
    let unknown = ConnectionEnd { error_taken: true, ..gave_up() };
    assert_eq!(finish([end(unknown)])[0].connection.errno, None);
}

#[test]
fn both_ends_on_this_machine_know_each_other() {
    let here = ConnectionEnd { from: TcpState::Established, ..gave_up() };
    let there = ConnectionEnd { tuple: tuple().reversed(), sock: 0xee00, netns: OTHER_NETNS, ..here.clone() };
    let finished = finish([end(here), end(there)]);
    assert_eq!(finished[0].other_end.as_ref().map(|other| other.netns), Some(OTHER_NETNS));
    assert_eq!(finished[1].other_end.as_ref().map(|other| other.netns), Some(NETNS));
}

#[test]
fn a_neighbour_of_strangers_says_nothing() {
    let failed = |address: &str, netns| {
        Event::NeighbourFailed(NeighbourFailed {
            time_ns: 1_500 * MS,
            address: address.parse().unwrap(),
            ifindex: 2,
            interface: "eth0".into(),
            netns,
        })
    };
    let neighbours = |event| finish([event, end(gave_up())])[0].timeline.len();
    assert_eq!(neighbours(failed("10.9.9.9", OTHER_NETNS)), 0);
    assert_eq!(neighbours(failed("10.0.0.254", NETNS)), 1);
    assert_eq!(neighbours(failed("10.0.0.2", OTHER_NETNS)), 1);
}

#[test]
fn the_window_is_bounded() {
    let limits = Limits { events: 2, pending: 1, grace: Duration::ZERO, late_answer: Duration::ZERO };
    let mut tracker = Tracker::new(limits, Reasons::default());
    for at_ms in [1_001, 1_002, 1_003] {
        tracker.add(syn_dropped(at_ms, 0xff00, NETNS));
    }
    tracker.add(end(gave_up()));
    assert_eq!(drops(&tracker.flush()[0]), 2);
}

/// What the end of a refused connection brings along.
pub(super) fn refused_after(dropped_ms: u64, tuple: Tuple, netns: u32) -> ConnectionEnd {
    let dropped_syn = Some(DroppedSyn { time_ns: dropped_ms * MS, tuple, reason: 12, netns });
    ConnectionEnd { errno: Some(libc::ECONNREFUSED), dropped_syn, ..gave_up() }
}

#[test]
fn a_drop_above_the_limit_comes_with_the_end_of_its_connection() {
    let refused = || end(refused_after(1_999, tuple(), OTHER_NETNS));
    let finished = finish([refused()]);
    let What::Dropped { packet, outgoing: true, symbol: None, place, .. } = &finished[0].timeline[0].what
    else {
        panic!("{finished:?}")
    };
    assert!(packet.is_syn() && place.netns == OTHER_NETNS);
    // It had a record after all.
    let finished = finish([syn_dropped(1_999, 0, OTHER_NETNS), refused()]);
    assert_eq!(drops(&finished[0]), 1);
    // An earlier one is another.
    let finished = finish([syn_dropped(1_500, 0, OTHER_NETNS), refused()]);
    assert_eq!(drops(&finished[0]), 2);
}
