//! Sockets that stand in the way of a bind() or connect(), grouped by who holds them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::needs::InTheWay;
use crate::enrich::EnrichError;
use crate::enrich::facts::Holder;
use crate::enrich::holders::owners_of;
use crate::enrich::port_range::PortRange;
use crate::enrich::process::Process;
use crate::enrich::sockets::{self, Ports, Protocol, SocketInfo, State, states};
use crate::enrich::sysctl;
use crate::track::Connection;

/// Finds them in the caller's network namespace, most numerous first.
pub(super) fn find(connection: &Connection, which: InTheWay) -> Option<Vec<Holder>> {
    let local = connection.local;
    let sockets = match which {
        InTheWay::OfLocal => {
            // bind() to port 0 fails when the whole range is taken.
            let range = if local.port() == 0 { port_range()? } else { local.port()..=local.port() };
            let ports = (local.port() != 0).then(|| Ports::local(local.port()));
            let mut sockets = list(connection, ports).ok()?;
            sockets.retain(|socket| {
                range.contains(&socket.local.port()) && conflicts(local.ip(), connection.ipv6_only, socket)
            });
            sockets
        }
        InTheWay::OfPeer => {
            let mut sockets = towards(connection, states::ALL)?;
            let taken: HashSet<u16> = sockets.iter().map(|socket| socket.local.port()).collect();
            sockets.extend(bound(connection, &taken)?);
            sockets
        }
    };
    Some(group(&sockets))
}

/// As the kernel names the state.
pub(crate) const TIME_WAIT: &str = "TIME_WAIT";

/// Sockets in TIME_WAIT that keep a port of the range from another connection to the same peer; of the caller's network
/// namespace.
pub(crate) fn waiting_towards(connection: &Connection) -> Option<Vec<SocketInfo>> {
    towards(connection, states::TIME_WAIT)
}

/// Connections of that source and destination, on ports that the kernel may choose.
fn towards(connection: &Connection, states: u32) -> Option<Vec<SocketInfo>> {
    let (range, bound) = (chosen_from()?, connection.local.ip());
    let ports = Some(Ports::peer(connection.peer.port()));
    let mut sockets = sockets::of_protocol(connection.protocol, None, states, ports).ok()?;
    sockets.retain(|socket| {
        socket.peer == connection.peer
            && (bound.is_unspecified() || socket.local.ip() == bound)
            && range.contains(socket.local.port())
    });
    Some(sockets)
}

/// Ports of the range that a listener holds, or a socket that was bound: connect() passes over them whatever their
/// address (net/ipv4/inet_hashtables.c, `__inet_hash_connect`). Each port once.
fn bound(connection: &Connection, taken: &HashSet<u16>) -> Option<Vec<SocketInfo>> {
    let (range, states) = (chosen_from()?, states::LISTEN | states::CLOSE | states::BOUND_INACTIVE);
    let mut sockets = sockets::of_protocol(connection.protocol, None, states, None).ok()?;
    let mut seen = taken.clone();
    sockets.retain(|socket| {
        let port = socket.local.port();
        socket.protocol == Protocol::Tcp && range.contains(port) && seen.insert(port)
    });
    Some(sockets)
}

fn chosen_from() -> Option<PortRange> {
    let reserved = sysctl::read(None, PortRange::RESERVED);
    PortRange::parse(&sysctl::read(None, PortRange::RANGE)?, reserved.as_deref())
}

fn list(connection: &Connection, ports: Option<Ports>) -> Result<Vec<SocketInfo>, EnrichError> {
    sockets::of_protocol(connection.protocol, None, states::ALL, ports)
}

fn port_range() -> Option<std::ops::RangeInclusive<u16>> {
    let text = sysctl::read(None, "net.ipv4.ip_local_port_range")?;
    let mut words = text.split_whitespace().map(str::parse);
    Some(words.next()?.ok()?..=words.next()?.ok()?)
}

/// Whether the address that was asked for and that of a socket exclude each other on one port.
fn conflicts(wanted: IpAddr, ipv6_only: bool, held: &SocketInfo) -> bool {
    match (wanted, held.local.ip()) {
        (IpAddr::V4(wanted), IpAddr::V4(held)) => {
            wanted == held || wanted.is_unspecified() || held.is_unspecified()
        }
        (IpAddr::V6(wanted), IpAddr::V6(held)) => {
            wanted == held || wanted.is_unspecified() || held.is_unspecified()
        }
        (IpAddr::V4(_), IpAddr::V6(address)) => address.is_unspecified() && held.v6only != Some(true),
        (IpAddr::V6(wanted), IpAddr::V4(_)) => wanted.is_unspecified() && !ipv6_only,
    }
}

/// By process, state and local address. Of several processes that share a socket the first is named, so that
/// the counts add up to the number of sockets.
fn group(sockets: &[SocketInfo]) -> Vec<Holder> {
    let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let owners = owners_of(&inodes);
    let mut groups: BTreeMap<(Option<u32>, String, IpAddr), Holder> = BTreeMap::new();
    for socket in sockets {
        let owner = owner(socket, &owners);
        let state = name(socket.state);
        let group = groups.entry((owner.map(|process| process.pid), state.clone(), socket.local.ip()));
        let holder =
            group.or_insert_with(|| Holder { process: owner.cloned(), state, local: socket.local, count: 0 });
        holder.count += 1;
        if holder.local != socket.local {
            holder.local = SocketAddr::new(socket.local.ip(), 0);
        }
    }
    let mut holders: Vec<Holder> = groups.into_values().collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.count));
    holders
}

fn owner<'a>(socket: &SocketInfo, owners: &'a HashMap<u64, Vec<Process>>) -> Option<&'a Process> {
    owners.get(&socket.inode)?.first()
}

/// A request that has no socket yet shows as what it will be.
fn name(state: State) -> String {
    match state {
        State::NewSynRecv => State::SynRecv,
        other => other,
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::super::tests::{bind_failed, connection};
    use super::*;
    use crate::enrich::netns;
    use crate::enrich::testing::{TestNetns, wait_for};
    use crate::probes::protocol;

    fn find_in(netns: &TestNetns, connection: &Connection, which: InTheWay) -> Vec<Holder> {
        netns::enter(&netns.handle(), || find(connection, which)).unwrap().unwrap()
    }

    fn pid(holder: &Holder) -> Option<u32> {
        holder.process.as_ref().map(|process| process.pid)
    }

    #[test]
    fn this_process_holds_the_port() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        let _held = netns::enter(&netns.handle(), || {
            (TcpListener::bind("0.0.0.0:47100").unwrap(), UdpSocket::bind("127.0.0.1:47100").unwrap())
        })
        .unwrap();
        let mut failed = bind_failed(inode, "127.0.0.5:47100", libc::EADDRINUSE);
        let holders = find_in(&netns, &failed, InTheWay::OfLocal);
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert_eq!((pid(&holders[0]), holders[0].count), (Some(std::process::id()), 1));
        assert_eq!(
            (holders[0].state.as_str(), holders[0].local),
            ("LISTEN", "0.0.0.0:47100".parse().unwrap())
        );

        failed.local = "[::1]:47100".parse().unwrap();
        assert!(find_in(&netns, &failed, InTheWay::OfLocal).is_empty());
        failed.local = "[::]:47100".parse().unwrap();
        assert_eq!(find_in(&netns, &failed, InTheWay::OfLocal).len(), 1);
        failed.ipv6_only = true;
        assert!(find_in(&netns, &failed, InTheWay::OfLocal).is_empty(), "IPv4 is not in its way");

        failed.protocol = protocol::UDP;
        failed.local = "0.0.0.0:47100".parse().unwrap();
        let holders = find_in(&netns, &failed, InTheWay::OfLocal);
        assert_eq!((holders.len(), holders[0].state.as_str()), (1, "CLOSE"));
        failed.local = "127.0.0.2:47100".parse().unwrap();
        assert!(find_in(&netns, &failed, InTheWay::OfLocal).is_empty());
    }

    /// Opens connections from a range of ten ports until none is left; the first `close` end in TIME_WAIT.
    fn exhaust(close: usize, server: &'static str) -> (TcpListener, Vec<TcpStream>, Vec<TcpStream>) {
        for (file, value) in [("ip_local_port_range", "42000 42009"), ("tcp_tw_reuse", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv4/{file}"), value).unwrap();
        }
        let listener = TcpListener::bind(server).unwrap();
        let connect = || TcpStream::connect(server).map(|client| (client, listener.accept().unwrap().0));
        let (mut clients, mut servers): (Vec<_>, Vec<_>) = (0..10).map(|_| connect().unwrap()).unzip();
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::EADDRNOTAVAIL));
        // The end that closes first is the one that waits.
        clients.drain(..close);
        servers.drain(..close);
        (listener, clients, servers)
    }

    #[test]
    fn an_exhausted_range_is_accounted_for() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let sockets = netns::enter(&handle, || exhaust(4, "127.0.0.1:47101")).unwrap();
        let mut failed = connection(handle.inode(), "127.0.0.1:47101");
        failed.errno = Some(libc::EADDRNOTAVAIL);
        failed.local = "0.0.0.0:0".parse().unwrap();
        let holders = wait_for(|| {
            let holders = find_in(&netns, &failed, InTheWay::OfPeer);
            holders.iter().any(|holder| holder.state == "TIME_WAIT" && holder.count == 4).then_some(holders)
        });
        let seen: Vec<_> = holders.iter().map(|h| (h.state.as_str(), h.count, pid(h))).collect();
        assert_eq!(seen, [("ESTABLISHED", 6, Some(std::process::id())), ("TIME_WAIT", 4, None)]);
        assert_eq!(holders[0].local, "127.0.0.1:0".parse().unwrap());

        failed.peer = "127.0.0.1:47102".parse().unwrap();
        assert!(find_in(&netns, &failed, InTheWay::OfPeer).is_empty());
        // A bind() to port 0 meets the same ten, whatever their peer.
        let failed = bind_failed(handle.inode(), "0.0.0.0:0", libc::EADDRINUSE);
        let holders = find_in(&netns, &failed, InTheWay::OfLocal);
        assert_eq!(holders.iter().map(|holder| holder.count).sum::<u32>(), 10, "{holders:?}");
        drop(sockets);
    }
}
