use std::net::SocketAddr;

use super::super::tests::{MS, NETNS, end, finish, gave_up, refused_after, syn_dropped, tracker, tuple};
use crate::probes::{ConnectionEnd, Drop, Event, Step, StepKind, TcpState, Tuple, Wire};
use crate::track::{Ends, Finished, What};

const SOCK: u64 = 0xff00;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What NAT makes of the flow.
fn translated() -> Tuple {
    Tuple { destination: address("10.0.9.9:8080"), ..tuple() }
}

fn drop(at_ms: u64, sock: u64, tuple: Tuple) -> Drop {
    let Event::Drop(mut drop) = syn_dropped(at_ms, sock, NETNS) else { panic!("no drop") };
    drop.packet.tuple = tuple;
    *drop
}

fn dropped(at_ms: u64, sock: u64, tuple: Tuple) -> Event {
    Event::Drop(Box::new(drop(at_ms, sock, tuple)))
}

fn on_wire(at_ms: u64, tuple: Tuple, asked: Option<Tuple>) -> Event {
    let packet = drop(at_ms, 0, tuple).packet;
    Event::Wire(Wire { time_ns: at_ms * MS, packet, quoted: None, asked })
}

/// The first that ended.
fn ends(events: Vec<Event>) -> (Ends, Option<Ends>, usize) {
    let Finished { connection, timeline, .. } = finish(events).swap_remove(0);
    (Ends { local: connection.local, peer: connection.peer }, connection.before_nat, timeline.len())
}

fn is_translated(events: Vec<Event>, moments: usize) {
    let (own, asked) = (tuple(), translated());
    let of = |tuple: Tuple| Ends { local: tuple.source, peer: tuple.destination };
    assert_eq!(ends(events), (of(asked), Some(of(own)), moments));
}

fn is_as_asked(events: Vec<Event>, moments: usize) {
    let of = |tuple: Tuple| Ends { local: tuple.source, peer: tuple.destination };
    assert_eq!(ends(events), (of(tuple()), None, moments));
}

#[test]
fn a_syn_that_left_tells_and_what_comes_back_belongs() {
    let answer = || on_wire(1_900, translated().reversed(), None);
    is_translated(vec![on_wire(1_000, translated(), Some(tuple())), answer(), end(gave_up())], 2);
    is_as_asked(vec![on_wire(1_000, translated(), None), answer(), end(gave_up())], 0);
    // Of an earlier connection with the same ends.
    is_as_asked(vec![on_wire(900, translated(), Some(tuple())), end(gave_up())], 0);
    // The source changes too.
    let masqueraded = Tuple { source: address("10.0.0.7:1024"), ..translated() };
    let moments = vec![
        on_wire(1_000, masqueraded, Some(tuple())),
        dropped(1_100, 0, masqueraded),
        dropped(1_200, 0, translated()),
        dropped(1_300, 0, tuple()),
        end(gave_up()),
    ];
    let (wire, asked, moments) = ends(moments);
    assert_eq!((wire.local, asked.unwrap().local, moments), (masqueraded.source, tuple().source, 4));
}

#[test]
fn a_packet_of_its_own_socket_tells() {
    is_translated(vec![dropped(1_000, SOCK, translated()), end(gave_up())], 1);
    is_as_asked(vec![dropped(1_000, 0xbb, translated()), end(gave_up())], 0);
    is_as_asked(vec![dropped(2_001, SOCK, translated()), end(gave_up())], 0);
    let Event::Drop(mut came_in) = dropped(1_000, SOCK, translated()) else { panic!("no drop") };
    came_in.packet.iif = 2;
    is_as_asked(vec![Event::Drop(came_in), end(gave_up())], 0);
    // A socket that has let go of its port.
    let source = SocketAddr::new(tuple().source.ip(), 0);
    let portless = ConnectionEnd { tuple: Tuple { source, ..tuple() }, ..gave_up() };
    let (_, asked, moments) = ends(vec![dropped(1_000, SOCK, tuple()), end(portless)]);
    assert_eq!((asked, moments), (None, 1));
}

#[test]
fn a_syn_without_its_socket_is_known_by_its_source() {
    let here = || dropped(1_000, 0, translated());
    is_translated(vec![here(), end(gave_up())], 1);
    // Its own was seen: the other is of a socket that shares the port.
    is_as_asked(vec![here(), on_wire(1_000, tuple(), None), end(gave_up())], 1);
    let other = ConnectionEnd { tuple: translated(), sock: 0xbb, ..gave_up() };
    is_as_asked(vec![here(), end(gave_up()), end(other)], 0);
    let second = Tuple { destination: address("10.0.9.8:8080"), ..tuple() };
    is_as_asked(vec![here(), dropped(1_000, 0, second), end(gave_up())], 0);
    let stranger = Tuple { source: address("10.0.0.1:40001"), ..translated() };
    is_as_asked(vec![dropped(1_000, 0, stranger), end(gave_up())], 0);
}

#[test]
fn a_syn_in_another_namespace_is_known_by_the_refusal_right_after() {
    let refused = |dropped_ms| end(refused_after(dropped_ms, translated(), NETNS + 1));
    is_translated(vec![refused(1_998)], 1);
    is_as_asked(vec![refused(1_990)], 0);
    let gave_up = ConnectionEnd { errno: None, ..refused_after(1_998, translated(), NETNS + 1) };
    is_as_asked(vec![end(gave_up)], 0);
    // Every namespace has a loopback of its own.
    let local = Tuple { source: address("127.0.0.1:40000"), ..translated() };
    let asked = Tuple { destination: address("127.0.0.1:80"), ..local };
    let local = ConnectionEnd { tuple: asked, ..refused_after(1_998, local, NETNS + 1) };
    assert_eq!(ends(vec![end(local)]).1, None);
    // A connection of any namespace that asked for just these ends.
    let other = ConnectionEnd { tuple: translated(), sock: 0xbb, netns: NETNS + 2, ..self::gave_up() };
    is_as_asked(vec![refused(1_998), end(other)], 0);
}

#[test]
fn connection_tracking_is_not_asked_where_it_cannot_know() {
    let asks = |events: Vec<Event>| {
        let mut tracker = tracker(events);
        let mut due = tracker.take_due(u64::MAX);
        let mut asked = false;
        tracker.finish(&mut due, &mut |_, _, _| {
            asked = true;
            None
        });
        asked
    };
    let step = |kind| Step { time_ns: 1_900 * MS, kind };
    let with = |steps: Vec<Step>| end(ConnectionEnd { steps, ..gave_up() });
    let again = StepKind::Retransmit { state: TcpState::SynSent, retransmits: Some(1) };
    assert!(asks(vec![end(gave_up())]));
    assert!(!asks(vec![with(vec![step(StepKind::ResetReceived)])]), "the RST took the entry along");
    assert!(
        asks(vec![with(vec![step(again), step(StepKind::ResetReceived)])]),
        "it may be known from before"
    );
    assert!(
        !asks(vec![dropped(1_000, 0, tuple()), end(gave_up())]),
        "a packet had the ends that were asked for"
    );
}

#[test]
fn where_no_packet_tells_somebody_is_asked() {
    let mut tracker = tracker([dropped(1_200, 0, translated().reversed()), end(gave_up())]);
    let mut due = tracker.take_due(u64::MAX);
    let mut asked = Vec::new();
    let finished = tracker.finish(&mut due, &mut |_, connection, sock| {
        asked.push((connection.peer, sock));
        Some(translated())
    });
    let Finished { connection, timeline, .. } = finished.unwrap();
    assert_eq!(asked, [(tuple().destination, SOCK)]);
    assert_eq!((connection.peer, connection.asked().peer), (translated().destination, tuple().destination));
    assert!(matches!(timeline[0].what, What::Dropped { outgoing: false, .. }), "{timeline:?}");
}
