//! The neighbour table: which link-layer address an on-link address resolved to, or that it did not.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netlink::{self, Attributes, Request, Socket, u16_at, u32_at};
use super::netns::NetnsHandle;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `struct ndmsg`
const HEADER: usize = 12;

/// State of a neighbour entry (include/uapi/linux/neighbour.h, `NUD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourState {
    /// No state yet.
    None,
    /// Asked, no answer yet.
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    /// Asked as often as allowed, never answered.
    Failed,
    /// Needs no resolution: loopback, multicast, point-to-point.
    Noarp,
    /// Set by the administrator.
    Permanent,
    Other(u16),
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub state: NeighbourState,
    /// As `ip neigh` prints it: `02:00:5e:10:00:00`.
    pub lladdr: Option<String>,
}

/// Looks up the neighbour table's entry for an address on an interface.
///
/// `None` if there is none: nobody asked for the address lately, or an entry that failed was collected.
pub fn lookup(
    netns: Option<&NetnsHandle>,
    ifindex: u32,
    address: IpAddr,
) -> Result<Option<Neighbour>, EnrichError> {
    let address = address.to_canonical();
    let mut header = [0; HEADER];
    header[0] = netlink::family(address);
    let dump = Request::new("list neighbours", libc::RTM_GETNEIGH, &header);
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let get = Request::new("look up a neighbour", libc::RTM_GETNEIGH, &header).attribute_ip(NDA_DST, address);

    let mut socket = Socket::route(netns)?;
    let wanted = |payload: &[u8]| {
        parse(payload).filter(|(key, _)| *key == (ifindex, address)).map(|(_, neighbour)| neighbour)
    };
    match socket.get(&get, wanted) {
        Err(error) => match error.netlink_errno() {
            Some(libc::ENOENT) => Ok(None),
            // Before Linux 5.0 the table can only be dumped.
            Some(libc::EOPNOTSUPP) => Ok(socket.dump(&dump, wanted)?.pop()),
            _ => Err(error),
        },
        found => found,
    }
}

/// An entry of the table, by the index of its interface and its address.
pub(super) fn parse(payload: &[u8]) -> Option<((u32, IpAddr), Neighbour)> {
    let attributes = Attributes::at(payload, HEADER);
    let key = (u32_at(payload, 4)?, netlink::ip(attributes.value(NDA_DST)?)?);
    let (state, lladdr) = (state(u16_at(payload, 8)?), attributes.value(NDA_LLADDR).map(lladdr));
    Some((key, Neighbour { state, lladdr }))
}

fn state(number: u16) -> NeighbourState {
    match number {
        0 => NeighbourState::None,
        0x01 => NeighbourState::Incomplete,
        0x02 => NeighbourState::Reachable,
        0x04 => NeighbourState::Stale,
        0x08 => NeighbourState::Delay,
        0x10 => NeighbourState::Probe,
        0x20 => NeighbourState::Failed,
        0x40 => NeighbourState::Noarp,
        0x80 => NeighbourState::Permanent,
        other => NeighbourState::Other(other),
    }
}

fn lladdr(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNetns, wait_for};
    use super::super::{links, netns};
    use super::*;

    #[test]
    fn permanent_failed_and_none() {
        let netns = TestNetns::new();
        netns.ip("link add v0 type veth peer name v1");
        netns.ip("link set v0 up");
        netns.ip("link set v1 up");
        netns.ip("addr add 10.1.0.1/24 dev v0");
        netns.ip("neigh add 10.1.0.2 lladdr 02:00:5e:10:00:0f dev v0");
        netns.ip("neigh add fd00::2 lladdr 02:00:5e:10:00:0f dev v0");
        let handle = netns.handle();
        let links = links::links(Some(&handle)).unwrap();
        let index = |name: &str| links.iter().find(|link| link.name == name).unwrap().ifindex;
        let get =
            |interface, address: &str| lookup(Some(&handle), interface, address.parse().unwrap()).unwrap();

        let permanent =
            Neighbour { state: NeighbourState::Permanent, lladdr: Some("02:00:5e:10:00:0f".to_owned()) };
        assert_eq!(get(index("v0"), "10.1.0.2"), Some(permanent.clone()));
        assert_eq!(get(index("v0"), "fd00::2"), Some(permanent));
        assert_eq!(get(index("v1"), "10.1.0.2"), None);
        assert_eq!(get(index("v0"), "10.1.0.3"), None);

        for key in ["retrans_time_ms", "mcast_solicit"] {
            let file = format!("/proc/sys/net/ipv4/neigh/v0/{key}");
            netns::enter(&handle, || std::fs::write(file, "1")).unwrap().unwrap();
        }
        let send = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"x", "10.1.0.7:9").unwrap();
        };
        netns::enter(&handle, send).unwrap();
        let failed = wait_for(|| {
            get(index("v0"), "10.1.0.7").filter(|neighbour| neighbour.state == NeighbourState::Failed)
        });
        assert_eq!(failed.lladdr, None);
    }

    #[test]
    fn no_such_interface_is_an_error() {
        let error = lookup(None, i32::MAX as u32, "10.0.0.1".parse().unwrap()).unwrap_err();
        assert!(error.netlink_errno().is_some(), "{error}");
    }
}
