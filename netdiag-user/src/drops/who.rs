//! Whose a dropped packet is, and whether it was for this host.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::dropped::{Way, Whose};
use super::reasons::Class;
use crate::enrich::netns::{self, Names};
use crate::enrich::sockets::{self, Ports, SocketInfo, states};
use crate::enrich::{holders, links, owners};
use crate::probes::{Packet, Tuple, protocol};
use crate::track::Hook;

/// Addresses and sockets come and go.
const KEPT: Duration = Duration::from_secs(10);
/// Index of the loopback interface in each network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;
/// Names of namespaces are read anew after this time; if one has none, after the other.
const NAMES_KEPT: Duration = Duration::from_secs(1);
const NO_NAME_KEPT: Duration = Duration::from_millis(100);
/// Answers that are kept.
const MAX_KEPT: usize = 4096;

/// Remembers answers: looking them up costs a request to the kernel, or a walk through /proc.
#[derive(Debug, Default)]
pub struct Who {
    addresses: HashMap<(u32, IpAddr), (Instant, bool)>,
    sockets: HashMap<(u32, Tuple), (Instant, Whose)>,
    names: Option<(Instant, Names)>,
}

impl Who {
    /// Name of a network namespace; 0 is none.
    pub fn netns_name(&mut self, inode: u32) -> Option<String> {
        if inode == 0 {
            return None;
        }
        let (read, names) = self.names.get_or_insert_with(|| (Instant::now(), Names::default()));
        let name = names.of(inode.into());
        let kept = if name.is_some() { NAMES_KEPT } else { NO_NAME_KEPT };
        if read.elapsed() < kept {
            return name;
        }
        self.names = Some((Instant::now(), Names::default()));
        self.names.as_ref().and_then(|(_, names)| names.of(inode.into()))
    }

    /// The way of a packet. `look` runs what is given to it, if there is time.
    pub fn way(
        &mut self,
        packet: &Packet,
        hook: Option<Hook>,
        class: Class,
        look: impl FnOnce(&mut dyn FnMut()),
    ) -> Way {
        if packet.iif == 0 {
            return Way::Outbound;
        }
        match hook {
            Some(Hook::Input) => return Way::Inbound,
            Some(Hook::Forward | Hook::Postrouting | Hook::Egress) => return Way::Forwarded,
            Some(Hook::Output) => return Way::Outbound,
            Some(Hook::Prerouting | Hook::Ingress) | None => {}
        }
        let to = packet.tuple.destination.ip();
        let at_socket = ["drop.no-socket", "drop.receive-buffer"].contains(&class.code().unwrap_or_default());
        if at_socket || packet.iif == LOOPBACK || to.is_multicast() {
            return Way::Inbound;
        }
        let key = (packet.netns, to);
        let known = self.addresses.get(&key).filter(|(when, _)| when.elapsed() < KEPT).map(|(_, own)| *own);
        let mut own = known;
        if own.is_none() {
            look(&mut || own = has_address(packet.netns, to));
            if let Some(own) = own {
                keep(&mut self.addresses, key, own);
            }
        }
        match own {
            Some(true) => Way::Inbound,
            Some(false) => Way::Forwarded,
            None => Way::CameIn,
        }
    }

    /// The process whose socket the packet came from, or was for.
    pub fn whose(&mut self, packet: &Packet, way: Way, look: impl FnOnce(&mut dyn FnMut())) -> Whose {
        let local = match way {
            Way::Outbound => packet.tuple,
            Way::Inbound => packet.tuple.reversed(),
            Way::Forwarded => return Whose::Nobody,
            Way::CameIn => return Whose::Unknown,
        };
        if local.source.port() == 0 {
            return Whose::Nobody;
        }
        let key = (packet.netns, local);
        if let Some((_, known)) = self.sockets.get(&key).filter(|(when, _)| when.elapsed() < KEPT) {
            return known.clone();
        }
        let mut found = None;
        look(&mut || {
            found = holder(&local, packet.netns);
        });
        match found {
            Some(found) => {
                keep(&mut self.sockets, key, found.clone());
                found
            }
            None => Whose::Unknown,
        }
    }
}

/// Who holds the socket for packets with this local end (source); `None` if sockets cannot be listed.
fn holder(local: &Tuple, inode: u32) -> Option<Whose> {
    let handle = netns::find(inode.into())?;
    let ports = Some(Ports::local(local.source.port()));
    if ![protocol::TCP, protocol::UDP].contains(&local.protocol) {
        return Some(Whose::Nobody);
    }
    let all = sockets::of_protocol(local.protocol, Some(&handle), states::ALL, ports).ok()?;
    // The kernel prefers the socket that is the more particular.
    let best = all.iter().filter_map(|socket| Some((fit(socket, local)?, socket.inode))).max();
    let Some((_, socket)) = best else { return Some(Whose::Nobody) };
    let owners = holders::owners_of(&HashSet::from([socket]));
    let process = owners.get(&socket).and_then(|processes| processes.first());
    Some(process.map_or(Whose::Nobody, |process| Whose::Process(owners::owner_of(process))))
}

/// How well a socket fits packets with this local end; `None` if it would not get them, or no file belongs to it.
fn fit(socket: &SocketInfo, local: &Tuple) -> Option<(bool, bool)> {
    let (ip, own) = (local.source.ip(), socket.local.ip());
    let is_any = own.is_unspecified()
        && (own.is_ipv4() == ip.is_ipv4() || (own.is_ipv6() && socket.v6only != Some(true)));
    let is_connected = socket.peer.port() != 0;
    let fits = socket.inode != 0
        && socket.local.port() == local.source.port()
        && (own == ip || is_any)
        && (!is_connected || socket.peer == local.destination);
    fits.then_some((is_connected, own == ip))
}

fn keep<K: std::hash::Hash + Eq, V>(kept: &mut HashMap<K, (Instant, V)>, key: K, value: V) {
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(key, (Instant::now(), value));
}

/// Whether the namespace takes packets for this address; `None` if it cannot be asked.
fn has_address(inode: u32, address: IpAddr) -> Option<bool> {
    let handle = netns::find(inode.into())?;
    let links = links::links(Some(&handle)).ok()?;
    let takes = |(own, prefix): &(IpAddr, u8)| {
        *own == address
            || broadcast(*own, *prefix) == Some(address)
            || (own.is_ipv4() && own.is_loopback() && address.is_loopback())
    };
    let all_networks = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    Some(all_networks || links.iter().flat_map(|link| &link.addresses).any(takes))
}

/// The address of all hosts of a network.
fn broadcast(own: IpAddr, prefix: u8) -> Option<IpAddr> {
    let IpAddr::V4(own) = own else { return None };
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    (prefix < 31).then(|| IpAddr::V4((own.to_bits() | hosts).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, peer: &str, v6only: Option<bool>) -> SocketInfo {
        let local: std::net::SocketAddr = local.parse().unwrap();
        SocketInfo {
            family: if local.is_ipv4() { sockets::Family::Inet } else { sockets::Family::Inet6 },
            protocol: sockets::Protocol::Udp,
            state: sockets::State::Close,
            local,
            peer: peer.parse().unwrap(),
            interface: 0,
            rqueue: 0,
            wqueue: 0,
            uid: 0,
            inode: 1,
            cookie: 1,
            v6only,
            retransmits: 0,
            timer: None,
            timer_ms: 0,
            mark: None,
            tcp: None,
        }
    }

    #[test]
    fn a_socket_gets_what_its_ends_say() {
        let local = |source: &str| Tuple {
            protocol: protocol::UDP,
            source: source.parse().unwrap(),
            destination: "10.0.0.9:99".parse().unwrap(),
        };
        let (v4, v6) = (local("10.0.0.1:53"), local("[fd77::1]:53"));
        let own = socket("10.0.0.1:53", "0.0.0.0:0", None);
        let any4 = socket("0.0.0.0:53", "0.0.0.0:0", None);
        let any6 = socket("[::]:53", "[::]:0", Some(false));
        let only6 = socket("[::]:53", "[::]:0", Some(true));
        let fits = |socket: &SocketInfo| (fit(socket, &v4).is_some(), fit(socket, &v6).is_some());
        assert_eq!(
            [&own, &any4, &any6, &only6].map(fits),
            [(true, false), (true, false), (true, true), (false, true)]
        );
        assert!(fit(&own, &v4) > fit(&any4, &v4));
        assert!(fit(&socket("10.0.0.1:53", "10.0.0.9:99", None), &v4) > fit(&own, &v4));
        assert_eq!(fit(&socket("10.0.0.1:53", "10.0.0.8:99", None), &v4), None, "of another conversation");
        assert_eq!(fit(&socket("10.0.0.2:53", "0.0.0.0:0", None), &v4), None);
        assert_eq!(fit(&SocketInfo { inode: 0, ..own }, &v4), None, "in TIME_WAIT");
    }

    #[test]
    fn broadcast_addresses() {
        let of =
            |own: &str, prefix| broadcast(own.parse().unwrap(), prefix).map(|address| address.to_string());
        assert_eq!(of("10.1.2.3", 24).as_deref(), Some("10.1.2.255"));
        assert_eq!(of("10.1.2.3", 8).as_deref(), Some("10.255.255.255"));
        assert_eq!(of("10.1.2.3", 32), None);
        assert_eq!(of("fd77::1", 64), None);
    }
}
