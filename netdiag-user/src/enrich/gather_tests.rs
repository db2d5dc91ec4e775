use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::super::neighbours::NeighbourState;
use super::super::testing::{TestNetns, wait_for};
use super::*;
use crate::probes::{Call, Owner, TcpState, TcpSummary};
use crate::track::End;

/// A TCP connection of this process to `peer` that was refused.
pub(super) fn connection(netns: u64, peer: &str) -> Connection {
    let peer: SocketAddr = peer.parse().unwrap();
    let unspecified = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    Connection {
        protocol: protocol::TCP,
        side: Side::Outbound,
        local: unspecified.parse().unwrap(),
        peer,
        before_nat: None,
        netns: netns as u32,
        cookie: None,
        owner: Some(Owner {
            pid: std::process::id(),
            tid: std::process::id(),
            uid: 0,
            cgroup: 0,
            comm: "test".into(),
        }),
        start_ns: 0,
        end_ns: 1,
        from_start: true,
        asked: true,
        end: End::State { from: TcpState::SynSent, to: TcpState::Close },
        errno: Some(libc::ECONNREFUSED),
        soft_errno: None,
        bound_interface: None,
        ipv6_only: false,
        linger: None,
        keepalive: None,
        orphaned: None,
        tcp: TcpSummary::default(),
        closer: None,
        lost_steps: 0,
    }
}

pub(super) fn bind_failed(netns: u64, local: &str, errno: i32) -> Connection {
    Connection {
        local: local.parse().unwrap(),
        end: End::CallFailed { call: Call::Bind },
        errno: Some(errno),
        ..connection(netns, "0.0.0.0:0")
    }
}

fn call_failed(netns: u64, peer: &str, errno: i32) -> Connection {
    let end = End::CallFailed { call: Call::Connect };
    Connection { end, errno: Some(errno), ..connection(netns, peer) }
}

/// Two namespaces on one wire: 10.66.N.1 and fd66::1 here, 10.66.N.2 there.
fn wired(n: u8) -> (TestNetns, TestNetns) {
    let (here, there) = (TestNetns::new(), TestNetns::new());
    here.ip(&format!("link add g0 type veth peer name g1 netns {}", there.name));
    here.ip(&format!("addr add 10.66.{n}.1/24 dev g0"));
    here.ip("addr add fd66::1/64 dev g0 nodad");
    here.ip("link set g0 up");
    there.ip(&format!("addr add 10.66.{n}.2/24 dev g1"));
    there.ip("link set g1 up");
    (here, there)
}

#[test]
fn no_route_and_no_default() {
    let (here, _there) = wired(1);
    let inode = here.handle().inode();
    let facts = gather(&call_failed(inode, "192.0.2.1:80", libc::ENETUNREACH), Vec::new());
    assert_eq!(facts.netns, Some(NetnsFact { inode, name: Some(here.name.clone()) }));
    assert!(matches!(facts.route, Some(RouteAnswer::Failed { errno: libc::ENETUNREACH, .. })));
    assert_eq!((facts.route_text, facts.has_default_route, facts.neighbour), (None, Some(false), None));
    let links = facts.links.unwrap();
    assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "g0"]);
    assert_eq!(facts.peer_namespaces, Some(Vec::new()));
    assert_eq!(facts.listeners, Some(Vec::new()));
    assert!(facts.peer_sysctls.is_empty() && facts.holders.is_none());
    assert_eq!(facts.process.unwrap().pid, std::process::id());

    // A more specific route that rejects hides the default.
    here.ip("route add default via 10.66.1.2");
    here.ip("route add unreachable 192.0.2.0/24");
    let facts = gather(&call_failed(inode, "192.0.2.1:80", libc::EHOSTUNREACH), Vec::new());
    assert_eq!(facts.has_default_route, Some(true));
    let route = facts.route.as_ref().and_then(RouteAnswer::route).map(|route| route.kind);
    assert_eq!(route, Some(RouteKind::Unreachable));

    let facts = gather(&call_failed(inode, "[2001:db8::1]:80", libc::ENETUNREACH), Vec::new());
    assert_eq!(facts.has_default_route, Some(false), "of its own family");
}

#[test]
fn next_hop_and_text() {
    let (here, _there) = wired(2);
    let inode = here.handle().inode();
    here.ip("route add default via 10.66.2.2");
    here.ip("neigh add 10.66.2.2 lladdr 02:00:00:00:00:07 dev g0");
    let facts = gather(&connection(inode, "192.0.2.1:80"), Vec::new());
    assert_eq!(facts.route_text.as_deref(), Some("default via 10.66.2.2 dev g0"));
    assert_eq!(facts.has_default_route, Some(true));
    assert_eq!(facts.neighbour.unwrap().lladdr.as_deref(), Some("02:00:00:00:00:07"));

    let unresolved: SocketAddr = "10.66.2.9:80".parse().unwrap();
    let connect = || TcpStream::connect_timeout(&unresolved, Duration::from_millis(50)).is_err();
    assert!(netns::enter(&here.handle(), connect).unwrap());
    let facts = gather(&connection(inode, "10.66.2.9:80"), Vec::new());
    let state = facts.neighbour.unwrap().state;
    assert!(matches!(state, NeighbourState::Incomplete | NeighbourState::Failed), "{state:?}");
}

#[test]
fn a_source_and_an_interface_decide_the_route() {
    let (here, _there) = wired(3);
    let inode = here.handle().inode();
    let mut failed = connection(inode, "10.66.3.2:80");
    failed.local = "10.66.3.1:40000".parse().unwrap();
    failed.bound_interface = Some(1);
    let facts = gather(&failed, Vec::new());
    let route = facts.route.unwrap();
    assert!(route.route().is_none_or(|route| route.oif == Some(1)), "{route:?}");
    failed.bound_interface = None;
    failed.local = "10.66.3.77:40000".parse().unwrap();
    let facts = gather(&failed, Vec::new());
    assert!(matches!(facts.route, Some(RouteAnswer::Failed { foreign_source: true, .. })));
}

#[test]
fn the_peer_is_in_another_namespace() {
    let (here, there) = wired(4);
    let handle = there.handle();
    let listener = netns::enter(&handle, || {
        std::fs::write("/proc/sys/net/ipv4/tcp_abort_on_overflow", "1").unwrap();
        TcpListener::bind("10.66.4.2:47200").unwrap()
    })
    .unwrap();
    let start = Instant::now();
    let facts = gather(&connection(here.handle().inode(), "10.66.4.2:47200"), Vec::new());
    println!("gathering took {:?}", start.elapsed());
    let expected = NetnsFact { inode: handle.inode(), name: Some(there.name.clone()) };
    assert_eq!(facts.peer_namespaces, Some(vec![expected]));
    assert_eq!(facts.listeners.as_ref().unwrap().len(), 1);
    assert_eq!(facts.listeners.unwrap()[0].netns, handle.inode());
    assert_eq!(facts.peer_sysctls["net.ipv4.tcp_abort_on_overflow"], "1");
    assert_eq!(facts.peer_sysctls.len(), PEER_SETTINGS.len());
    assert_eq!(facts.sysctls.len(), SETTINGS.len(), "{:?}", facts.sysctls);
    drop(listener);
}

#[test]
fn a_loopback_peer_is_in_the_own_namespace() {
    let netns = TestNetns::new();
    let inode = netns.handle().inode();
    let _socket = netns::enter(&netns.handle(), || UdpSocket::bind("127.0.0.1:47201").unwrap()).unwrap();
    let mut failed = connection(inode, "127.0.0.1:47201");
    let facts = gather(&failed, Vec::new());
    assert_eq!(facts.peer_namespaces, Some(vec![NetnsFact { inode, name: Some(netns.name.clone()) }]));
    assert_eq!(facts.listeners, Some(Vec::new()), "a UDP socket takes no TCP");
    assert!(!facts.listeners_incomplete, "other namespaces do not matter");
    assert_eq!(facts.peer_sysctls["net.ipv4.tcp_abort_on_overflow"], "0");
    failed.protocol = protocol::UDP;
    failed.end = End::SocketError;
    assert_eq!(gather(&failed, Vec::new()).listeners.unwrap().len(), 1);
}

#[test]
fn a_bind_conflict_names_this_process() {
    let netns = TestNetns::new();
    let inode = netns.handle().inode();
    let (_held, error) = netns::enter(&netns.handle(), || {
        let held = TcpListener::bind("0.0.0.0:47202").unwrap();
        (held, TcpListener::bind("127.0.0.1:47202").unwrap_err())
    })
    .unwrap();
    let facts = gather(&bind_failed(inode, "127.0.0.1:47202", error.raw_os_error().unwrap()), Vec::new());
    let holders = facts.holders.unwrap();
    assert_eq!(holders.len(), 1);
    assert_eq!(holders[0].process.as_ref().map(|process| process.pid), Some(std::process::id()));
    assert_eq!((facts.route, facts.listeners, facts.links), (None, None, None), "not asked for");
    assert!(facts.sysctls.contains_key("net.ipv4.ip_local_port_range"));

    let facts = gather(&bind_failed(inode, "10.99.0.1:80", libc::EADDRNOTAVAIL), Vec::new());
    assert_eq!((facts.links.unwrap().len(), facts.holders), (1, None));
}

#[test]
fn what_is_gone_is_none() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let mut failed = connection(1, "192.0.2.1:80");
    failed.owner.as_mut().unwrap().pid = child.id();
    let facts = gather(&failed, Vec::new());
    assert_eq!(facts.netns, Some(NetnsFact { inode: 1, name: None }));
    assert_eq!((facts.process, facts.route, facts.links, facts.has_default_route), (None, None, None, None));
    assert!(facts.sysctls.is_empty());
    failed.netns = 0;
    assert_eq!(gather(&failed, Vec::new()).netns, None);
}

#[test]
fn a_reset_asks_for_the_peer_alone() {
    let netns = TestNetns::new();
    let mut reset = connection(netns.handle().inode(), "127.0.0.1:47203");
    reset.end = End::State { from: TcpState::Established, to: TcpState::Close };
    reset.errno = Some(libc::ECONNRESET);
    let facts = gather(&reset, Vec::new());
    assert!(facts.listeners.is_some() && facts.peer_namespaces.is_some());
    assert!(facts.route.is_none() && facts.links.is_none() && facts.sysctls.is_empty());
    reset.side = Side::Inbound;
    assert!(gather(&reset, Vec::new()).listeners.is_none(), "its peer's port is a client's");
}

#[test]
fn a_gatherer_reads_the_process_anew() {
    let netns = TestNetns::new();
    let mut failed = connection(netns.handle().inode(), "127.0.0.1:47204");
    let mut gatherer = Gatherer::new();
    let first = gatherer.gather(&failed, Vec::new());
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let comm = wait_for(|| process::read(child.id()).filter(|process| process.comm == "sleep")).comm;
    failed.owner.as_mut().unwrap().pid = child.id();
    let second = gatherer.gather(&failed, Vec::new());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        second.process.as_ref().map(|process| (process.pid, process.comm.clone())),
        Some((child.id(), comm))
    );
    assert_eq!((first.route, first.netns), (second.route, second.netns));
    assert_eq!(gatherer.skipped(), 0);
}

#[test]
fn equal_addresses_in_reach_are_ambiguous() {
    let (here, there) = wired(5);
    let stranger = TestNetns::new();
    stranger.ip("addr add 10.66.5.2/24 dev lo");
    let listen = |netns: &TestNetns| {
        netns::enter(&netns.handle(), || TcpListener::bind("10.66.5.2:47205").unwrap()).unwrap()
    };
    let _listeners = [listen(&there), listen(&stranger)];
    let failed = connection(here.handle().inode(), "10.66.5.2:47205");
    let facts = gather(&failed, Vec::new());
    assert_eq!(facts.peer_namespaces.unwrap()[0].inode, there.handle().inode());
    assert_eq!(facts.listeners.unwrap().len(), 1);
    assert!(!facts.peer_ambiguous);

    stranger.ip(&format!("link add g0 type veth peer name g2 netns {}", here.name));
    let facts = gather(&failed, Vec::new());
    assert_eq!((facts.peer_namespaces.unwrap().len(), facts.listeners.unwrap().len()), (2, 2));
    assert!(facts.peer_ambiguous);
}
