//! Who listens on a port, and who has an address, in any network namespace of this machine.

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netns::{self, Namespaces, NetnsHandle};
use super::process::Process;
use super::reach::Reach;
use super::sockets::{self, Ports, Protocol, SocketInfo, states};
use super::{holders, links};

/// A socket that takes connections, or of UDP, datagrams of any sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub protocol: Protocol,
    /// Inode number of its network namespace.
    pub netns: u64,
    /// The namespace's name below `/run/netns`.
    pub netns_name: Option<String>,
    pub local: SocketAddr,
    /// Whether it takes IPv6 traffic only; `None` of IPv4 sockets.
    pub v6only: Option<bool>,
    /// Connections that wait for `accept`; 0 of UDP.
    pub accept_queue: u32,
    /// How many may wait; 0 of UDP.
    pub backlog: u32,
    /// Index of the interface that it is bound to, 0 if to none.
    pub interface: u32,
    /// Inode number of the socket.
    pub inode: u64,
    pub cookie: u64,
    /// Who holds it open, as far as this program may see.
    pub processes: Vec<Process>,
}

impl Listener {
    /// Whether it takes traffic to this address, as far as its own address and family decide.
    pub fn accepts(&self, address: IpAddr) -> bool {
        accepts(self.local.ip(), self.v6only, address)
    }
}

/// Whether a socket that is bound to `local` takes traffic to `address`.
pub(crate) fn accepts(local: IpAddr, v6only: Option<bool>, address: IpAddr) -> bool {
    let address = address.to_canonical();
    match local {
        IpAddr::V4(local) => address.is_ipv4() && (local.is_unspecified() || local == address),
        IpAddr::V6(local) if local.is_unspecified() => address.is_ipv6() || v6only == Some(false),
        IpAddr::V6(local) => local == address,
    }
}

/// What was found in the network namespaces of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search<T> {
    pub found: Vec<T>,
    /// Not all namespaces were looked into: there are more than [`netns::MAX_NAMESPACES`], or this program may
    /// not see or enter some.
    pub incomplete: bool,
}

/// Finds the sockets that listen on a port, over all network namespaces of this machine.
pub fn find_listeners(port: u16, protocol: Protocol) -> Search<Listener> {
    find_listeners_among(&netns::all(), port, protocol)
}

fn find_listeners_among(namespaces: &Namespaces, port: u16, protocol: Protocol) -> Search<Listener> {
    let ports = Some(Ports::local(port));
    let in_namespace = |netns: &NetnsHandle| match protocol {
        Protocol::Tcp => sockets::tcp(Some(netns), states::LISTEN, ports),
        Protocol::Udp => sockets::udp(Some(netns), states::CLOSE, ports),
    };
    let Search { found: sockets, incomplete } = among(namespaces, in_namespace);

    let inodes: HashSet<u64> = sockets.iter().map(|(_, _, socket)| socket.inode).collect();
    let owners = holders::owners_of(&inodes);
    let found =
        sockets.into_iter().map(|(netns, name, socket)| listener(netns, name, &socket, &owners)).collect();
    Search { found, incomplete }
}

/// Finds the network namespaces, by inode number, that have this address; loopback addresses are everywhere.
pub fn who_has_address(address: IpAddr) -> Search<u64> {
    who_has_address_among(&netns::all(), address)
}

fn who_has_address_among(namespaces: &Namespaces, address: IpAddr) -> Search<u64> {
    let Search { found, incomplete } =
        among(namespaces, |netns| links::has_address(Some(netns), address).map(|has| has.then_some(())));
    Search { found: found.into_iter().map(|(netns, _, ())| netns).collect(), incomplete }
}

/// Finds the network namespaces, by inode number, that take what the namespace `from` sends to `peer`.
///
/// That is `from` alone if the address is its own (the local table comes first) or no address at all, which
/// stands for loopback; else those others that have the address and that links join with `from`, directly or
/// through other namespaces. Of several, routing chooses.
pub fn where_is(peer: IpAddr, from: u64) -> Search<u64> {
    Surroundings::of(from, Rc::new(netns::all())).where_is(peer)
}

/// What one network namespace can reach on this machine, found out when it is first asked for.
#[derive(Debug)]
pub(super) struct Surroundings {
    own: u64,
    namespaces: Rc<Namespaces>,
    reach: LazyCell<Reach, Box<dyn FnOnce() -> Reach>>,
}

impl Surroundings {
    /// Those of the namespace with this inode number, among these.
    pub(super) fn of(own: u64, namespaces: Rc<Namespaces>) -> Self {
        Self { own, namespaces, reach: LazyCell::new(Box::new(move || Reach::from(own))) }
    }

    fn include(&self, netns: u64) -> bool {
        netns == self.own || self.reach.includes(netns)
    }

    /// See [`where_is`].
    pub(super) fn where_is(&self, peer: IpAddr) -> Search<u64> {
        let peer = peer.to_canonical();
        let has = |netns| links::has_address(Some(&netns), peer).is_ok_and(|has| has);
        if peer.is_loopback() || peer.is_unspecified() || netns::find(self.own).is_some_and(has) {
            return Search { found: vec![self.own], incomplete: false };
        }
        let mut search = who_has_address_among(&self.namespaces, peer);
        search.found.retain(|netns| self.include(*netns));
        search
    }

    /// As [`find_listeners`], without those that no packet of this namespace can get to.
    pub(super) fn find_listeners(&self, port: u16, protocol: Protocol) -> Search<Listener> {
        let mut search = find_listeners_among(&self.namespaces, port, protocol);
        search.found.retain(|listener| self.include(listener.netns));
        search
    }
}

/// Looks into every network namespace of this machine: inode number, name and what was found in each.
pub(crate) fn everywhere<T, I: IntoIterator<Item = T>>(
    look: impl Fn(&NetnsHandle) -> Result<I, EnrichError>,
) -> Search<(u64, Option<String>, T)> {
    among(&netns::all(), look)
}

fn among<T, I: IntoIterator<Item = T>>(
    namespaces: &Namespaces,
    look: impl Fn(&NetnsHandle) -> Result<I, EnrichError>,
) -> Search<(u64, Option<String>, T)> {
    let mut search = Search { found: Vec::new(), incomplete: namespaces.incomplete };
    for namespace in &namespaces.found {
        // The process by which it was found may be gone, and the namespace live on by another.
        let Some(handle) = namespace.open().or_else(|| netns::find(namespace.inode)) else { continue };
        let Ok(items) = look(&handle) else {
            search.incomplete = true;
            continue;
        };
        let mut items = items.into_iter().peekable();
        let name = items.peek().and_then(|_| namespace.name());
        search.found.extend(items.map(|item| (namespace.inode, name.clone(), item)));
    }
    search
}

fn listener(
    netns: u64,
    netns_name: Option<String>,
    socket: &SocketInfo,
    owners: &HashMap<u64, Vec<Process>>,
) -> Listener {
    let (accept_queue, backlog) = socket.accept_queue().unwrap_or((0, 0));
    Listener {
        protocol: socket.protocol,
        netns,
        netns_name,
        local: socket.local,
        v6only: socket.v6only,
        accept_queue,
        backlog,
        interface: socket.interface,
        inode: socket.inode,
        cookie: socket.cookie,
        processes: owners.get(&socket.inode).cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn over_two_namespaces() {
        let (one, two) = (TestNetns::new(), TestNetns::new());
        let bind = |netns: &TestNetns, address: &'static str| {
            netns::enter(&netns.handle(), || TcpListener::bind(address).unwrap()).unwrap()
        };
        let port = 46123;
        let _sockets =
            [bind(&one, "127.0.0.1:46123"), bind(&two, "[::]:46123"), bind(&two, "127.0.0.1:46124")];

        let found = find_listeners(port, Protocol::Tcp).found;
        assert_eq!(found.len(), 2, "{found:#?}");
        for (listener, netns) in found.iter().zip([&one, &two]) {
            assert_eq!(listener.netns, netns.handle().inode());
            assert_eq!(listener.netns_name.as_ref(), Some(&netns.name));
            assert_eq!((listener.accept_queue, listener.local.port()), (0, port));
            assert!(listener.backlog > 0);
            let pids: Vec<u32> = listener.processes.iter().map(|process| process.pid).collect();
            // A child that another test is just starting may hold it too, until it executes its program.
            assert!(pids.contains(&std::process::id()), "{pids:?}");
        }
        let accepts = |listener: &Listener, address: &str| listener.accepts(address.parse().unwrap());
        assert!(accepts(&found[0], "127.0.0.1") && accepts(&found[0], "::ffff:127.0.0.1"));
        assert!(!accepts(&found[0], "127.0.0.2") && !accepts(&found[0], "::1"));
        assert!(accepts(&found[1], "::1") && accepts(&found[1], "10.0.0.1"));
        assert!(find_listeners(port, Protocol::Udp).found.is_empty());
    }

    #[test]
    fn udp() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let (_bound, connected) = netns::enter(&handle, || {
            let connected = UdpSocket::bind("127.0.0.1:46125").unwrap();
            connected.connect("127.0.0.1:9").unwrap();
            (UdpSocket::bind("127.0.0.2:46125").unwrap(), connected)
        })
        .unwrap();
        let found = find_listeners(46125, Protocol::Udp).found;
        assert_eq!(found.len(), 1, "a connected socket takes its peer's datagrams alone");
        assert_eq!(found[0].local, "127.0.0.2:46125".parse().unwrap());
        drop(connected);
    }

    #[test]
    fn addresses() {
        let netns = TestNetns::new();
        netns.ip("addr add 198.51.100.77/32 dev lo");
        let inode = netns.handle().inode();
        assert_eq!(who_has_address("198.51.100.77".parse().unwrap()).found, [inode]);
        assert!(who_has_address("198.51.100.78".parse().unwrap()).found.is_empty());
        let everywhere = who_has_address("127.0.0.1".parse().unwrap()).found;
        assert!(everywhere.contains(&inode));
    }

    #[test]
    fn an_own_address_never_leaves_the_namespace() {
        let (one, two) = (TestNetns::new(), TestNetns::new());
        for netns in [&one, &two] {
            netns.ip("addr add 198.51.100.79/32 dev lo");
        }
        let (one, two) = (one.handle().inode(), two.handle().inode());
        let find = |peer: &str, from| where_is(peer.parse().unwrap(), from).found;
        assert_eq!(find("198.51.100.79", one), [one]);
        assert_eq!(find("::ffff:198.51.100.79", two), [two]);
        assert_eq!(find("127.0.0.9", two), [two]);
        assert_eq!(find("0.0.0.0", two), [two]);
    }

    #[test]
    fn equal_addresses_of_strangers_do_not_count() {
        // A client and a server behind one router; the same two without a link to these; a lonely server.
        let [client, router, server] = std::array::from_fn(|_| TestNetns::new());
        let [other_client, other_server, lonely] = std::array::from_fn(|_| TestNetns::new());
        client.ip(&format!("link add up0 type veth peer name down0 netns {}", router.name));
        server.ip(&format!("link add up0 type veth peer name down1 netns {}", router.name));
        other_client.ip(&format!("link add up0 type veth peer name up0 netns {}", other_server.name));
        for netns in [&client, &other_client] {
            netns.ip("addr add 198.51.100.81/32 dev up0");
        }
        for netns in [&server, &other_server] {
            netns.ip("addr add 198.51.100.82/32 dev up0");
        }
        lonely.ip("addr add 198.51.100.82/32 dev lo");
        let _listeners = [&server, &other_server, &lonely].map(|netns| {
            netns::enter(&netns.handle(), || TcpListener::bind("198.51.100.82:46126").unwrap()).unwrap()
        });

        let inode = |netns: &TestNetns| netns.handle().inode();
        let peer = "198.51.100.82".parse().unwrap();
        assert_eq!(who_has_address(peer).found.len(), 3);
        for (from, to) in [(&client, &server), (&router, &server), (&other_client, &other_server)] {
            let around = Surroundings::of(inode(from), Rc::new(netns::all()));
            assert_eq!(around.where_is(peer).found, [inode(to)]);
            let listeners = around.find_listeners(46126, Protocol::Tcp).found;
            assert_eq!(listeners.iter().map(|l| l.netns).collect::<Vec<_>>(), [inode(to)]);
        }
        assert!(where_is("198.51.100.81".parse().unwrap(), inode(&lonely)).found.is_empty());

        // Both behind the router: routing decides, and that is not asked.
        other_server.ip(&format!("link add up1 type veth peer name down2 netns {}", router.name));
        let mut both = where_is(peer, inode(&client)).found;
        let mut expected = vec![inode(&server), inode(&other_server)];
        both.sort_unstable();
        expected.sort_unstable();
        assert_eq!(both, expected);
    }

    #[test]
    fn evidence_can_be_saved() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = find_listeners(listener.local_addr().unwrap().port(), Protocol::Tcp);
        assert_eq!(found.found.len(), 1);
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Search<Listener>>(&text).unwrap(), found);
    }
}
