//! Whose a dropped packet is, and whether it was for this host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::dropped::{Way, Whose};
use super::reasons::Class;
use crate::enrich::{links, netns, owners};
use crate::probes::{Packet, Tuple};
use crate::track::Hook;

/// Addresses and sockets come and go.
const KEPT: Duration = Duration::from_secs(10);
/// Index of the loopback interface in each network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;
/// Answers that are kept.
const MAX_KEPT: usize = 4096;

/// Remembers answers: looking them up costs a request to the kernel, or a walk through /proc.
#[derive(Debug, Default)]
pub struct Who {
    addresses: HashMap<(u32, IpAddr), (Instant, bool)>,
    sockets: HashMap<(u32, Tuple), (Instant, Whose)>,
}

impl Who {
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
            let owner = owners::find(&local, packet.netns, None).and_then(|found| found.owner);
            found = Some(owner.map_or(Whose::Nobody, Whose::Process));
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
