//! What is found by key is what a look at the whole window finds.

use proptest::prelude::*;

use super::*;
use crate::probes::{
    Call, CallFailed, Direction, IcmpSent, NeighbourFailed, Owner, Packet, ResetSent, SynAckAgain, Wire,
    protocol,
};
use crate::track::index::Keys;
use crate::track::teller::Teller;

const NEIGH_FAILED: u32 = 7;
const WINDOW: usize = 40;
/// Milliseconds in nanoseconds.
const MS: u64 = 1_000_000;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![Just("10.0.0.1"), Just("10.0.0.2"), Just("fd00::1")].prop_map(|text| text.parse().unwrap())
}

fn end() -> impl Strategy<Value = SocketAddr> {
    (address(), 0_u16..2).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let protocol = prop_oneof![4 => Just(protocol::TCP), 1 => Just(protocol::UDP)];
    (protocol, end(), end()).prop_map(|(protocol, source, destination)| Tuple {
        protocol,
        source,
        destination,
    })
}

fn owner() -> impl Strategy<Value = Option<Owner>> {
    let owner = |tid| Owner { pid: 1, tid, uid: 0, cgroup: 0, comm: "curl".into() };
    proptest::option::of((1_u32..3).prop_map(owner))
}

fn packet() -> impl Strategy<Value = Packet> {
    (tuple(), 0_u32..2, 0_u32..3).prop_map(|(tuple, iif, netns)| Packet {
        tuple,
        flags: 2,
        code: 0,
        ttl: 64,
        direction: Direction::Unknown,
        seq: 1,
        ifindex: 2,
        iif,
        interface: "".into(),
        netns,
    })
}

/// A second or so: some events are older than a connection, and they are not in order.
fn time_ns() -> impl Strategy<Value = u64> {
    (0_u64..1_000).prop_map(|ms| ms * MS)
}

fn drop() -> impl Strategy<Value = Event> {
    let reason = prop_oneof![Just(2), Just(NEIGH_FAILED)];
    (time_ns(), 0_u64..3, reason, packet()).prop_map(|(time_ns, sock, reason, packet)| {
        let stack = Vec::new();
        Event::Drop(Box::new(Drop {
            time_ns,
            sock,
            reason,
            location: 0,
            suppressed: 0,
            limit_key: 0,
            packet,
            stack,
            frames: Default::default(),
            rule: None,
        }))
    })
}

fn event() -> impl Strategy<Value = Event> {
    let others = (proptest::option::of(tuple()), proptest::option::of(tuple()));
    let wire = (time_ns(), packet(), others)
        .prop_map(|(time_ns, packet, (quoted, asked))| Event::Wire(Wire { time_ns, packet, quoted, asked }));
    let icmp = (time_ns(), packet()).prop_map(|(time_ns, packet)| {
        Event::IcmpSent(IcmpSent { time_ns, packet, icmp_type: 3, icmp_code: 1 })
    });
    let reset = (time_ns(), 0_u64..3, packet()).prop_map(|(time_ns, sock, packet)| {
        let (reason, state) = (None, None);
        Event::ResetSent(ResetSent { time_ns, sock, packet, reason, state, accept_queue: 0, backlog: 0 })
    });
    let route = (time_ns(), owner(), tuple()).prop_map(|(time_ns, owner, tuple)| {
        let (netns, iif, oif) = (Some(1), None, None);
        Event::RouteFailed(RouteFailed { time_ns, owner, netns, tuple, table: 254, errno: 101, iif, oif })
    });
    let neighbour = (time_ns(), address(), 0_u32..3).prop_map(|(time_ns, address, netns)| {
        let interface = "".into();
        Event::NeighbourFailed(NeighbourFailed { time_ns, address, ifindex: 2, interface, netns })
    });
    let again = (time_ns(), tuple())
        .prop_map(|(time_ns, tuple)| Event::SynAckAgain(SynAckAgain { time_ns, tuple, netns: 1 }));
    prop_oneof![4 => drop(), 2 => wire, 1 => icmp, 1 => reset, 1 => route, 1 => neighbour, 1 => again]
}

fn connection() -> impl Strategy<Value = Connection> {
    (tuple(), owner(), 0_u32..3, time_ns(), 0_u64..500).prop_map(|(tuple, owner, netns, start_ns, ms)| {
        let failed = Connection::call_failed(CallFailed {
            time_ns: start_ns,
            sock: 0,
            owner,
            tuple,
            call: Call::Connect,
            errno: libc::EHOSTUNREACH,
            netns,
            bound_interface: None,
            asked: false,
            ipv6_only: false,
        });
        Connection { end_ns: start_ns + ms * MS, ..failed }
    })
}

fn timeline<'a>(connection: &Connection, events: impl Iterator<Item = &'a Event>) -> Vec<Moment> {
    thread_local! {
        // It reads the kernel's symbols, once.
        static TELLER: Teller = Teller::new(Reasons::of_drops([(NEIGH_FAILED, NO_NEIGHBOUR)]));
    }
    let names = Default::default();
    let mut timeline =
        TELLER.with(|teller| events.filter_map(|event| teller.moment(connection, event, &names)).collect());
    keep_relevant_neighbours(connection, &mut timeline);
    timeline
}

proptest! {
    #[test]
    fn what_is_found_by_key_is_what_a_scan_finds(
        events in proptest::collection::vec(event(), 0..3 * WINDOW),
        connections in proptest::collection::vec((connection(), 0_u64..3), 1..8),
    ) {
        let mut window = Window::new(WINDOW, Keys::default());
        events.iter().cloned().for_each(|event| window.push(event));
        let kept = &events[events.len().saturating_sub(WINDOW)..];
        let reasons = Reasons::of_drops([(NEIGH_FAILED, NO_NEIGHBOUR)]);
        for (connection, sock) in &connections {
            let belongs = Belongs::new(connection, *sock);
            let mut numbers = Vec::new();
            let (found, left_out) = belongs.select(flow_key(connection, &window.keys), &window, &reasons, &mut numbers);
            let scanned = kept.iter().filter(|event| belongs.has(event));
            prop_assert_eq!(timeline(connection, found), timeline(connection, scanned));
            prop_assert_eq!(left_out, 0);
        }
    }
}

#[test]
fn of_a_storm_the_first_and_the_last_are_kept_and_the_rest_is_counted() {
    let tuple = Tuple {
        protocol: protocol::TCP,
        source: "10.0.0.1:1".parse().unwrap(),
        destination: "10.0.0.2:2".parse().unwrap(),
    };
    let again = |ms: u64| Event::SynAckAgain(SynAckAgain { time_ns: ms * MS, tuple, netns: 1 });
    let mut window = Window::new(20_000, Keys::default());
    (0..20_000).for_each(|ms| window.push(again(ms)));
    let failed = |start_ms: u64, end_ms: u64| {
        let call = CallFailed {
            time_ns: start_ms * MS,
            sock: 0,
            owner: None,
            tuple,
            call: Call::Connect,
            errno: libc::ETIMEDOUT,
            netns: 1,
            bound_interface: None,
            asked: false,
            ipv6_only: false,
        };
        Connection { end_ns: end_ms * MS, ..Connection::call_failed(call) }
    };
    let select = |connection: &Connection| {
        let mut numbers = Vec::new();
        let belongs = Belongs::new(connection, 0);
        let (events, left_out) =
            belongs.select(flow_key(connection, &window.keys), &window, &Reasons::default(), &mut numbers);
        (events.map(|event| event.time_ns() / MS).collect::<Vec<u64>>(), left_out)
    };
    let (times, left_out) = select(&failed(0, 20_000));
    assert_eq!((times.len(), times.first(), times.last()), (256, Some(&0), Some(&19_999)));
    assert_eq!(left_out, 20_000 - 256);
    // A short one among them gets its own, as many as there are.
    let (times, left_out) = select(&failed(19_900, 20_000));
    assert!(left_out > 0, "events may be out of order by a second, so these were too many");
    assert_eq!(times.last(), Some(&19_999));
    assert!(times.contains(&19_850), "from 50 ms before it");
}
