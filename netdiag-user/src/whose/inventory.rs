//! All sockets of this machine with the processes that hold them, at one moment.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::enrich::holders;
use crate::enrich::listeners::{accepts, everywhere};
use crate::enrich::process::Process;
use crate::enrich::sockets::{self, Ports, Protocol, SocketInfo, State, states};

/// Which sockets are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Bits of [`states`].
    pub tcp: u32,
    /// The same; a UDP socket is `ESTABLISHED` if it is connected, `CLOSE` if not.
    pub udp: u32,
    pub ports: Option<Ports>,
}

/// Which side opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Outbound,
    /// A listener holds the local port.
    Inbound,
    /// It is no connection.
    Unconnected,
}

/// A socket and who holds it.
#[derive(Debug, Clone)]
pub struct Held {
    /// Inode number of its network namespace.
    pub netns: u64,
    pub netns_name: Option<Rc<str>>,
    pub socket: SocketInfo,
    pub side: Side,
    /// As far as this program may see; none of a socket that was closed, and of one that waits for accept().
    pub holders: Vec<Rc<Process>>,
}

impl Held {
    /// The one that is named where one is.
    pub fn holder(&self) -> Option<&Process> {
        self.holders.first().map(Rc::as_ref)
    }

    /// Whether no process can hold it: it was closed, or has no file yet.
    pub fn is_unowned(&self) -> bool {
        self.socket.inode == 0
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub sockets: Vec<Held>,
    /// Not all namespaces were looked into.
    pub incomplete: bool,
}

impl Inventory {
    /// Reads them. A second for some hundred thousand sockets.
    pub fn read(ask: Ask) -> Self {
        let search = everywhere(|netns| {
            let mut found = Vec::new();
            if ask.tcp != 0 {
                // Listeners tell which side opened a connection.
                found = sockets::tcp(Some(netns), ask.tcp | states::LISTEN, ask.ports)?;
            }
            if ask.udp != 0 {
                // Not every kernel has udp_diag.
                found.extend(sockets::udp(Some(netns), ask.udp, ask.ports).unwrap_or_default());
            }
            Ok(found)
        });
        let mut names: HashMap<u64, Option<Rc<str>>> = HashMap::new();
        let inodes: HashSet<u64> = search.found.iter().map(|(_, _, socket)| socket.inode).collect();
        let holders = holders::shared_owners_of(&inodes);
        let listeners = Listeners::of(search.found.iter().map(|(netns, _, socket)| (*netns, socket)));
        let sockets = search.found.into_iter().map(|(netns, name, socket)| Held {
            netns,
            netns_name: names.entry(netns).or_insert_with(|| name.map(Rc::from)).clone(),
            side: listeners.side(netns, &socket),
            holders: holders.get(&socket.inode).cloned().unwrap_or_default(),
            socket,
        });
        Self { sockets: sockets.collect(), incomplete: search.incomplete }
    }
}

/// The listeners by namespace and port: they tell which side opened a connection.
#[derive(Debug, Default)]
pub struct Listeners(HashMap<(u64, u16), Vec<Bound>>);

/// Address, and whether it takes IPv6 traffic only.
type Bound = (IpAddr, Option<bool>);

impl Listeners {
    /// Takes the listeners among these sockets, each with the inode number of its namespace.
    pub fn of<'a>(sockets: impl Iterator<Item = (u64, &'a SocketInfo)>) -> Self {
        let mut listeners = Self::default();
        for (netns, socket) in sockets.filter(|(_, socket)| socket.state == State::Listen) {
            let of_port = listeners.0.entry((netns, socket.local.port())).or_default();
            let listener = (socket.local.ip(), socket.v6only);
            if !of_port.contains(&listener) {
                of_port.push(listener);
            }
        }
        listeners
    }

    /// Which side opened this socket's connection. An outgoing one from a port that is listened on as well is
    /// taken for one that came in.
    pub fn side(&self, netns: u64, socket: &SocketInfo) -> Side {
        if socket.state == State::Listen || socket.peer.port() == 0 {
            return Side::Unconnected;
        }
        if socket.protocol == Protocol::Udp || socket.state == State::SynSent {
            return Side::Outbound;
        }
        if self.take(netns, socket.local) { Side::Inbound } else { Side::Outbound }
    }

    /// Whether one of them takes what comes to this end.
    pub fn take(&self, netns: u64, local: SocketAddr) -> bool {
        let of_port = self.0.get(&(netns, local.port()));
        let takes = |(bound, v6only): &Bound| accepts(*bound, *v6only, local.ip());
        of_port.is_some_and(|all| all.iter().any(takes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::sockets::Family;

    fn socket(state: State, local: &str, peer: &str) -> SocketInfo {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        SocketInfo { local, peer, ..SocketInfo::new(Family::Inet, Protocol::Tcp, state) }
    }

    #[test]
    fn a_listener_tells_the_side() {
        let all = [
            socket(State::Listen, "0.0.0.0:80", "0.0.0.0:0"),
            socket(State::Listen, "10.0.0.1:81", "0.0.0.0:0"),
        ];
        let listeners = Listeners::of(all.iter().map(|socket| (7, socket)));
        let side = |netns, state, local, peer| listeners.side(netns, &socket(state, local, peer));
        assert_eq!(side(7, State::TimeWait, "10.0.0.1:80", "10.0.0.2:999"), Side::Inbound);
        assert_eq!(side(7, State::TimeWait, "10.0.0.1:81", "10.0.0.2:999"), Side::Inbound);
        assert_eq!(side(7, State::TimeWait, "10.0.0.3:81", "10.0.0.2:999"), Side::Outbound);
        assert_eq!(side(8, State::TimeWait, "10.0.0.1:80", "10.0.0.2:999"), Side::Outbound);
        assert_eq!(side(7, State::SynSent, "10.0.0.1:80", "10.0.0.2:999"), Side::Outbound);
        assert_eq!(side(7, State::Listen, "0.0.0.0:80", "0.0.0.0:0"), Side::Unconnected);
    }

    #[test]
    fn this_process_holds_its_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let accepted = listener.accept().unwrap().0;
        let read = || Inventory::read(Ask { tcp: states::ALL, udp: 0, ports: None }).sockets;
        let of_port = |held: &Held| {
            held.socket.local.port() == address.port() || held.socket.peer.port() == address.port()
        };
        let found: Vec<Held> = read().into_iter().filter(of_port).collect();
        let mut sides: Vec<Side> = found.iter().map(|held| held.side).collect();
        sides.sort_by_key(|side| *side as u8);
        assert_eq!(sides, [Side::Outbound, Side::Inbound, Side::Unconnected]);
        for held in &found {
            // A child that another test is just starting may hold it too.
            assert!(held.holders.iter().any(|process| process.pid == std::process::id()), "{held:?}");
        }
        drop((client, accepted));
    }
}
