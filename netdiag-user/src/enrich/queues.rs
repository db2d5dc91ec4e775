//! A listener's queues, where the peer of a connection is on this machine.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::facts::QueueSample;
use super::netns::{self, NetnsHandle};
use super::sockets::{self, Ports, SocketInfo, State, states};
use super::{listeners, sysctl};

/// Counters that tell of a full queue (net/ipv4/tcp_input.c, `tcp_conn_request`), and of handshakes that are finished.
const COUNTERS: &[(&str, &str)] = &[
    ("TcpExt", "ListenOverflows"),
    ("TcpExt", "ListenDrops"),
    ("TcpExt", "TCPReqQFullDrop"),
    ("TcpExt", "TCPReqQFullDoCookies"),
    ("TcpExt", "SyncookiesSent"),
    ("TcpExt", "SyncookiesRecv"),
    ("TcpExt", "SyncookiesFailed"),
    ("Tcp", "PassiveOpens"),
];

/// Samples the queues of the TCP listeners that take connections to `peer` from the namespace `from_netns`
/// (inode number). Several where they share the port (SO_REUSEPORT) or are bound to interfaces; none where
/// the peer is not on this machine, nothing listens, or its namespace cannot be looked into.
///
/// `time_ns` (`CLOCK_MONOTONIC`) is copied into the samples.
pub fn sample(peer: SocketAddr, from_netns: u32, time_ns: u64) -> Vec<QueueSample> {
    let namespaces = listeners::where_is(peer.ip(), from_netns.into()).found;
    let handles = namespaces.into_iter().filter_map(netns::find);
    handles.flat_map(|netns| sample_in(&netns, peer, time_ns)).collect()
}

/// The same of the listeners that take connections to `local`, an address of the namespace `inode` itself.
pub fn sample_at(local: SocketAddr, inode: u32, time_ns: u64) -> Vec<QueueSample> {
    netns::find(inode.into()).map(|netns| sample_in(&netns, local, time_ns)).unwrap_or_default()
}

fn sample_in(netns: &NetnsHandle, peer: SocketAddr, time_ns: u64) -> Vec<QueueSample> {
    let look = || {
        let sockets = sockets::tcp(None, states::LISTEN | states::SYN_RECV, Some(Ports::local(peer.port())));
        let sockets =
            sockets.ok().filter(|found| found.iter().any(|socket| socket.state == State::Listen))?;
        Some((sockets, sysctl::netstat(None)))
    };
    let Ok(Some((sockets, mut all_counters))) = netns::enter(netns, look) else { return Vec::new() };

    let counter = |(table, name): &(&str, &str)| {
        Some(((*name).to_owned(), all_counters.remove(&format!("{table}.{name}"))?))
    };
    let counters: BTreeMap<_, _> = COUNTERS.iter().filter_map(counter).collect();
    let address = if peer.ip().is_unspecified() { loopback(peer.ip()) } else { peer.ip() };
    takers(&sockets, address)
        .into_iter()
        .filter_map(|listener| {
            let (accept_queue, backlog) = listener.accept_queue()?;
            Some(QueueSample {
                time_ns,
                netns: netns.inode(),
                local: listener.local,
                accept_queue,
                backlog,
                syn_recv: embryonic(&sockets, listener).count() as u32,
                syn_sources: Some(sources(embryonic(&sockets, listener))),
                counters: counters.clone(),
            })
        })
        .collect()
}

/// What connect() to the unspecified address means.
fn loopback(unspecified: IpAddr) -> IpAddr {
    match unspecified {
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// The listeners that get a SYN to this address: of those that accept it the most specific, as the kernel
/// ranks them (net/ipv4/inet_hashtables.c, `compute_score`), and any that are bound to an interface, as it is
/// not known where the SYN comes in.
fn takers(sockets: &[SocketInfo], address: IpAddr) -> Vec<&SocketInfo> {
    let rank = |socket: &SocketInfo| (!socket.local.ip().is_unspecified(), socket.local.is_ipv4());
    let accepting: Vec<&SocketInfo> = sockets
        .iter()
        .filter(|socket| socket.state == State::Listen)
        .filter(|socket| listeners::accepts(socket.local.ip(), socket.v6only, address))
        .collect();
    let best = accepting.iter().filter(|socket| socket.interface == 0).map(|socket| rank(socket)).max();
    accepting.into_iter().filter(|socket| socket.interface != 0 || Some(rank(socket)) == best).collect()
}

/// Connections in SYN_RECV that came to an address which the listener takes. inet_diag shows request sockets
/// (NEW_SYN_RECV) in that state too.
fn embryonic<'a>(
    sockets: &'a [SocketInfo],
    listener: &'a SocketInfo,
) -> impl Iterator<Item = &'a SocketInfo> {
    let of_listener = move |socket: &&SocketInfo| {
        socket.state == State::SynRecv
            && listeners::accepts(listener.local.ip(), listener.v6only, socket.local.ip())
    };
    sockets.iter().filter(of_listener)
}

/// Different addresses among the peers.
fn sources<'a>(sockets: impl Iterator<Item = &'a SocketInfo>) -> u32 {
    sockets.map(|socket| socket.peer.ip()).collect::<HashSet<IpAddr>>().len() as u32
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use nix::sys::socket::{Backlog, listen};

    use super::super::testing::{TestNetns, wait_for};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_overfilled_accept_queue() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let inode = handle.inode() as u32;
        let at = address("127.0.0.1:47001");
        let listener = netns::enter(&handle, || {
            let listener = TcpListener::bind(at).unwrap();
            listen(&listener, Backlog::new(1).unwrap()).unwrap();
            listener
        })
        .unwrap();
        let idle = sample(at, inode, 7);
        assert_eq!(idle.len(), 1);
        assert_eq!((idle[0].time_ns, idle[0].netns, idle[0].local), (7, inode.into(), at));
        assert_eq!((idle[0].accept_queue, idle[0].backlog, idle[0].syn_recv), (0, 1, 0));
        assert_eq!(idle[0].counters["ListenOverflows"], 0);
        assert_eq!(idle[0].counters.len(), COUNTERS.len());

        let _waiting = netns::enter(&handle, || {
            let connect = |timeout| TcpStream::connect_timeout(&at, Duration::from_millis(timeout));
            let waiting = [connect(1000).unwrap(), connect(1000).unwrap()];
            connect(100).unwrap_err();
            waiting
        })
        .unwrap();
        let full = wait_for(|| sample(at, inode, 8).pop().filter(|s| s.counters["ListenOverflows"] > 0));
        assert!(full.accept_queue > full.backlog, "{full:?}");
        assert!(full.counters["ListenDrops"] > 0);
        // 0.0.0.0 is loopback to connect().
        assert_eq!(sample(address("0.0.0.0:47001"), inode, 8).len(), 1);
        assert!(sample(address("127.0.0.1:47002"), inode, 8).is_empty());
        drop(listener);
    }

    #[test]
    fn embryonic_connections_of_a_listener_elsewhere() {
        let (here, there) = (TestNetns::new(), TestNetns::new());
        // Ends of different indexes: else a new carrier may be noted up to 1 s late (net/core/link_watch.c).
        here.ip(&format!("link add q0 index 11 type veth peer name q1 index 12 netns {}", there.name));
        here.ip("addr add 10.77.0.1/24 dev q0");
        here.ip("link set q0 up");
        there.ip("addr add 10.77.0.2/24 dev q1");
        there.ip("link set q1 up");
        // The SYN-ACK goes nowhere: the server knows a wrong link-layer address of the client.
        there.ip("neigh replace 10.77.0.1 lladdr 02:00:00:00:00:99 dev q1 nud permanent");
        let listener = netns::enter(&there.handle(), || TcpListener::bind("[::]:47003").unwrap()).unwrap();
        let peer = address("10.77.0.2:47003");
        let connect = || {
            let connecting = netns::enter(&here.handle(), || {
                TcpStream::connect_timeout(&peer, Duration::from_millis(100)).unwrap_err()
            });
            assert!(connecting.is_ok());
            sample(peer, here.handle().inode() as u32, 1)
        };
        // The first may be lost while the link comes up.
        let found =
            (0..50).map(|_| connect()).find(|found| found.iter().any(|one| one.syn_recv > 0)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].netns, found[0].syn_recv), (there.handle().inode(), 1));
        assert_eq!(found[0].local, address("[::]:47003"));
        assert!(sample(address("10.77.0.3:47003"), here.handle().inode() as u32, 1).is_empty());
        drop(listener);
    }

    #[test]
    fn the_most_specific_listener_takes_it() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode() as u32;
        let _listeners = netns::enter(&netns.handle(), || {
            ["127.0.0.2:47004", "127.0.0.3:47004", "[::1]:47004"].map(|at| TcpListener::bind(at).unwrap())
        })
        .unwrap();
        let locals = |at: &str| -> Vec<SocketAddr> {
            sample(address(at), inode, 0).into_iter().map(|sample| sample.local).collect()
        };
        assert_eq!(locals("127.0.0.3:47004"), [address("127.0.0.3:47004")]);
        assert_eq!(locals("[::1]:47004"), [address("[::1]:47004")]);
        assert!(locals("127.0.0.1:47004").is_empty());
    }

    #[test]
    fn a_namespace_that_is_gone_has_no_samples() {
        assert!(sample(address("127.0.0.1:80"), 1, 0).is_empty());
    }
}
