//! The interfaces of a network namespace and their addresses (rtnetlink(7)).

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netlink::{self, Attributes, Request, Socket, u8_at, u32_at};
use super::netns::NetnsHandle;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `struct ifinfomsg`
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`
const ADDRESS_HEADER: usize = 8;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Whether there is a signal on the wire; `None` if the kernel does not say.
    pub carrier: Option<bool>,
    /// RFC 2863 operational state, as `ip link` prints it: `up`, `down`, `lowerlayerdown`, `unknown`...
    pub operstate: Option<String>,
    /// `veth`, `bridge`, `vlan`...; `None` for loopback and physical interfaces.
    pub kind: Option<String>,
    /// Bytes.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Its own addresses, with the prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Lists the interfaces of a network namespace, in order of their index.
pub fn links(netns: Option<&NetnsHandle>) -> Result<Vec<Link>, EnrichError> {
    let mut socket = Socket::route(netns)?;
    let mut links = dump_links(&mut socket)?;
    for (ifindex, address, prefix) in dump_addresses(&mut socket)? {
        if let Some(link) = links.iter_mut().find(|link| link.ifindex == ifindex) {
            link.addresses.push((address, prefix));
        }
    }
    links.sort_by_key(|link| link.ifindex);
    Ok(links)
}

/// Names of the interfaces of a network namespace, by index; empty if they cannot be read.
pub fn names(netns: Option<&NetnsHandle>) -> HashMap<u32, String> {
    let links = Socket::route(netns).and_then(|mut socket| dump_links(&mut socket)).unwrap_or_default();
    links.into_iter().map(|link| (link.ifindex, link.name)).collect()
}

/// Whether the network namespace has this address. Of 127.0.0.0/8 it has what its loopback prefix covers.
pub fn has_address(netns: Option<&NetnsHandle>, address: IpAddr) -> Result<bool, EnrichError> {
    let address = address.to_canonical();
    let own = dump_addresses(&mut Socket::route(netns)?)?;
    Ok(own.into_iter().any(|(_, other, prefix)| {
        other == address
            || (other.is_ipv4() && other.is_loopback() && super::routes::contains((other, prefix), address))
    }))
}

pub(super) fn dump_links(socket: &mut Socket) -> Result<Vec<Link>, EnrichError> {
    socket.dump(&list_request(), parse_link)
}

fn list_request() -> Request {
    Request::new("list interfaces", libc::RTM_GETLINK, &[0; LINK_HEADER])
        .attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// Where an interface leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// To the namespace that has this id in the one that was asked: the other end of a veth or netkit pair, the
    /// lower interface of a macvlan, ipvlan, VLAN or tunnel.
    Namespace(i32),
    /// To where rtnetlink does not follow: a wire, a program (tun, tap), a tunnel or bridge whose other side
    /// it does not tell.
    Unseen,
}

/// Where the interfaces of the socket's namespace lead to, those left out that stay in it.
pub(super) fn exits(socket: &mut Socket) -> Result<Vec<Exit>, EnrichError> {
    let mut exits = socket.dump(&list_request(), parse_exit)?;
    exits.sort();
    exits.dedup();
    Ok(exits)
}

pub(super) fn dump_addresses(socket: &mut Socket) -> Result<Vec<(u32, IpAddr, u8)>, EnrichError> {
    let request = Request::new("list addresses", libc::RTM_GETADDR, &[0; ADDRESS_HEADER]);
    socket.dump(&request, parse_address)
}

pub(super) fn parse_link(payload: &[u8]) -> Option<Link> {
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        ifindex: u32_at(payload, 4)?,
        name: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: None,
        operstate: None,
        kind: None,
        mtu: 0,
        master: None,
        addresses: Vec::new(),
    };
    for (kind, value) in Attributes::at(payload, LINK_HEADER) {
        match kind {
            IFLA_IFNAME => link.name = netlink::text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_OPERSTATE => link.operstate = operstate(u8_at(value, 0)?).map(str::to_owned),
            IFLA_CARRIER => link.carrier = u8_at(value, 0).map(|flag| flag != 0),
            IFLA_LINKINFO => {
                link.kind = Attributes::at(value, 0).value(IFLA_INFO_KIND).map(netlink::text);
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_exit(payload: &[u8]) -> Option<Exit> {
    if let Some(id) = Attributes::at(payload, LINK_HEADER).value(IFLA_LINK_NETNSID) {
        return Some(Exit::Namespace(u32_at(id, 0)? as i32));
    }
    let loopback = u32_at(payload, 8)? & libc::IFF_LOOPBACK as u32 != 0;
    let link = parse_link(payload)?;
    let unseen = match link.kind.as_deref() {
        None => !loopback,
        Some(kind) => matches!(kind, "tun" | "wireguard" | "openvswitch"),
    };
    (unseen && link.up).then_some(Exit::Unseen)
}

/// include/uapi/linux/if.h, `IF_OPER_*`
fn operstate(number: u8) -> Option<&'static str> {
    let names = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
    names.get(usize::from(number)).copied()
}

/// Interface, address, prefix length. Of a point-to-point interface the local end counts.
pub(super) fn parse_address(payload: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let attributes = Attributes::at(payload, ADDRESS_HEADER);
    let address = attributes.value(IFA_LOCAL).or_else(|| attributes.value(IFA_ADDRESS))?;
    Some((u32_at(payload, 4)?, netlink::ip(address)?, u8_at(payload, 1)?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn as_ip_shows_them() {
        let netns = TestNetns::new();
        netns.ip("link add v0 type veth peer name v1");
        netns.ip("link add d0 mtu 1400 type veth peer name d1");
        netns.ip("addr add 10.1.0.1/24 dev v0");
        netns.ip("addr add 10.1.0.9 peer 10.2.0.9/30 dev d0");
        netns.ip("addr add fd00::1/64 dev v0 nodad");
        netns.ip("link set v0 up");
        netns.ip("link set d0 up");
        let handle = netns.handle();
        let links = links(Some(&handle)).unwrap();

        let json: serde_json::Value = serde_json::from_str(&netns.ip("-j -d addr")).unwrap();
        let shown = json.as_array().unwrap();
        assert_eq!(links.len(), shown.len());
        for (link, shown) in links.iter().zip(shown) {
            assert_eq!(link.name, shown["ifname"]);
            assert_eq!(link.ifindex, shown["ifindex"]);
            assert_eq!(link.mtu, shown["mtu"]);
            assert_eq!(
                link.operstate.as_deref().unwrap(),
                shown["operstate"].as_str().unwrap().to_lowercase()
            );
            let flags = shown["flags"].as_array().unwrap();
            assert_eq!(link.up, flags.contains(&"UP".into()));
            assert_eq!(link.kind.as_deref(), shown["linkinfo"]["info_kind"].as_str());
            let addresses: Vec<(IpAddr, u8)> = shown["addr_info"]
                .as_array()
                .unwrap()
                .iter()
                .map(|info| {
                    (
                        info["local"].as_str().unwrap().parse().unwrap(),
                        info["prefixlen"].as_u64().unwrap() as u8,
                    )
                })
                .collect();
            assert_eq!(link.addresses, addresses, "{}", link.name);
        }
        let v0 = links.iter().find(|link| link.name == "v0").unwrap();
        assert_eq!((v0.up, v0.carrier), (true, Some(false)), "its peer is down");
        assert_eq!(names(Some(&handle))[&v0.ifindex], "v0");

        let has = |address: &str| has_address(Some(&handle), address.parse().unwrap()).unwrap();
        assert!(has("10.1.0.1") && has("10.1.0.9") && has("fd00::1") && has("127.3.2.1"));
        assert!(has("::ffff:10.1.0.1"));
        assert!(!has("10.1.0.2") && !has("10.2.0.9") && !has("fd00::2"));
    }

    #[test]
    fn short_messages_are_none() {
        for length in 0..LINK_HEADER {
            assert_eq!(parse_link(&vec![0; length]), None);
            assert_eq!(parse_address(&vec![0; length]), None);
            assert_eq!(parse_exit(&vec![0; length]), None);
        }
    }
}
