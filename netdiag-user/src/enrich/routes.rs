//! Routing decisions of a network namespace, asked from the kernel by `RTM_GETROUTE` (rtnetlink(7)).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netlink::{self, Attributes, Request, Socket, u8_at, u16_at, u32_at};
use super::netns::NetnsHandle;
use super::rules::Rule;
use super::{fib, links};

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTM_F_CLONED: u32 = 0x200;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_LINKDOWN: u32 = 16;
/// `struct rtmsg`
const HEADER: usize = 12;
/// `struct rtnexthop`
const NEXTHOP: usize = 8;

/// Type of a route (include/uapi/linux/rtnetlink.h, `RTN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    /// Sends fail with EINVAL; forwarded packets vanish.
    Blackhole,
    /// Sends fail with EHOSTUNREACH.
    Unreachable,
    /// Sends fail with EACCES.
    Prohibit,
    /// The lookup goes on with the next rule.
    Throw,
    Other(u8),
}

impl RouteKind {
    fn new(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }

    /// The errno of a lookup that ends at such a route (net/ipv4/fib_semantics.c, `fib_props`).
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Blackhole => Some(libc::EINVAL),
            Self::Unreachable => Some(libc::EHOSTUNREACH),
            Self::Prohibit => Some(libc::EACCES),
            _ => None,
        }
    }
}

/// Where a route sends packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nexthop {
    /// `None`: the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub oif: Option<u32>,
    /// Share of the flows, 1 to 256, where there are several.
    pub weight: u16,
    /// Not used, as its interface is down.
    pub dead: bool,
    /// The interface has no carrier.
    pub linkdown: bool,
}

/// A route, or the kernel's decision for one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub kind: RouteKind,
    /// Number of the routing table: 255 local, 254 main, 253 default.
    pub table: u32,
    /// What it matches; the destination itself if this is a decision.
    pub destination: (IpAddr, u8),
    /// Source prefix that it is limited to (IPv6).
    pub source: Option<(IpAddr, u8)>,
    /// Index of the outgoing interface; the first nexthop's where there are several.
    pub oif: Option<u32>,
    /// The first nexthop's where there are several.
    pub gateway: Option<IpAddr>,
    pub prefsrc: Option<IpAddr>,
    /// Bytes; of the route or of a path MTU exception. `None`: the interface's.
    pub mtu: Option<u32>,
    pub metric: Option<u32>,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// A decision (cloned), not an entry of a table.
    pub cached: bool,
    /// One, unless it is a multipath route.
    pub nexthops: Vec<Nexthop>,
}

/// What the kernel answered to a route lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteAnswer {
    Route(Route),
    /// The lookup failed: ENETUNREACH where nothing matches, ENODEV for an unknown interface, else see
    /// [`RouteKind::errno`] and [`RuleAction::errno`](super::rules::RuleAction::errno).
    Failed {
        errno: i32,
        /// `src` is no address of this namespace. Then an IPv4 lookup may have failed for that alone, with
        /// ENETUNREACH or, on older kernels, EINVAL.
        foreign_source: bool,
        /// The blackhole, unreachable or prohibit route that caused it, if it was found.
        route: Option<Route>,
        /// The blackhole, unreachable or prohibit rule that caused it, if it was that.
        rule: Option<Rule>,
    },
}

impl RouteAnswer {
    pub fn route(&self) -> Option<&Route> {
        match self {
            Self::Route(route) => Some(route),
            Self::Failed { route, .. } => route.as_ref(),
        }
    }
}

/// What is to be routed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub(super) dst: IpAddr,
    pub(super) src: Option<IpAddr>,
    pub(super) oif: Option<u32>,
    pub(super) mark: Option<u32>,
}

impl Flow {
    fn new(
        dst: IpAddr,
        src: Option<IpAddr>,
        oif: Option<u32>,
        mark: Option<u32>,
    ) -> Result<Self, EnrichError> {
        let dst = dst.to_canonical();
        let src = src.map(|address| address.to_canonical()).filter(|address| !address.is_unspecified());
        if src.is_some_and(|src| src.is_ipv4() != dst.is_ipv4()) {
            return Err(EnrichError::MixedFamilies);
        }
        Ok(Self { dst, src, oif: oif.filter(|index| *index != 0), mark: mark.filter(|mark| *mark != 0) })
    }
}

/// Asks how this namespace would send a packet of its own to `dst`.
///
/// `src` is an address that the socket is bound to, `oif` the interface, `mark` its `SO_MARK`; unspecified,
/// 0 and `None` are the same. An answer describes the present, not the time of a past failure.
pub fn lookup(
    netns: Option<&NetnsHandle>,
    dst: IpAddr,
    src: Option<IpAddr>,
    oif: Option<u32>,
    mark: Option<u32>,
) -> Result<RouteAnswer, EnrichError> {
    let flow = Flow::new(dst, src, oif, mark)?;
    let mut socket = Socket::route(netns)?;
    ask(&mut socket, netns, &flow, RTM_F_LOOKUP_TABLE)
}

/// As [`lookup`], but with the entry of the table that matched in place of the decision made from it.
pub fn matching_route(
    netns: Option<&NetnsHandle>,
    dst: IpAddr,
    src: Option<IpAddr>,
    oif: Option<u32>,
    mark: Option<u32>,
) -> Result<RouteAnswer, EnrichError> {
    let flow = Flow::new(dst, src, oif, mark)?;
    let mut socket = Socket::route(netns)?;
    ask(&mut socket, netns, &flow, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH)
}

/// Whether any table has a default route that leads somewhere. Reads all routes of the family.
pub fn has_default(netns: Option<&NetnsHandle>, v6: bool) -> Result<bool, EnrichError> {
    let mut socket = Socket::route(netns)?;
    let defaults = dump(&mut socket, if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8, |route| {
        route.destination.1 == 0 && route.kind == RouteKind::Unicast
    })?;
    Ok(!defaults.is_empty())
}

/// Whether an address lies in a prefix; never if they are of different families.
pub(crate) fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((network, width), (address, other_width)) = (bits(network), bits(address));
    let outside = 128 - u32::from(prefix.min(width));
    width == other_width && (network ^ address).checked_shr(outside).unwrap_or(0) == 0
}

fn ask(
    socket: &mut Socket,
    netns: Option<&NetnsHandle>,
    flow: &Flow,
    flags: u32,
) -> Result<RouteAnswer, EnrichError> {
    let request = request(flow, flags);
    match socket.get(&request, parse) {
        Ok(Some(route)) => match route.kind.errno() {
            Some(errno) => {
                Ok(RouteAnswer::Failed { errno, foreign_source: false, route: Some(route), rule: None })
            }
            None => Ok(RouteAnswer::Route(route)),
        },
        Ok(None) => Err(EnrichError::NoAnswer { what: "look up a route" }),
        Err(error) => {
            let Some(errno) = error.netlink_errno() else { return Err(error) };
            let foreign_source =
                flow.src.is_some_and(|src| links::has_address(netns, src).is_ok_and(|has| !has));
            let by_source =
                foreign_source && flow.dst.is_ipv4() && [libc::EINVAL, libc::ENETUNREACH].contains(&errno);
            let (route, rule) = match by_source {
                true => (None, None),
                false => fib::culprit(socket, netns, flow, errno).unwrap_or_default(),
            };
            Ok(RouteAnswer::Failed { errno, foreign_source, route, rule })
        }
    }
}

fn request(flow: &Flow, flags: u32) -> Request {
    let width = if flow.dst.is_ipv4() { 32 } else { 128 };
    let mut header = [0; HEADER];
    header[0] = netlink::family(flow.dst);
    header[1] = width;
    header[2] = if flow.src.is_some() { width } else { 0 };
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    let mut request =
        Request::new("look up a route", libc::RTM_GETROUTE, &header).attribute_ip(RTA_DST, flow.dst);
    if let Some(src) = flow.src {
        request = request.attribute_ip(RTA_SRC, src);
    }
    if let Some(oif) = flow.oif {
        request = request.attribute_u32(RTA_OIF, oif);
    }
    if let Some(mark) = flow.mark {
        request = request.attribute_u32(RTA_MARK, mark);
    }
    request
}

/// Lists the routes of a family, `AF_INET` or `AF_INET6`, that `keep` keeps.
pub(super) fn dump(
    socket: &mut Socket,
    family: u8,
    keep: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, EnrichError> {
    let mut header = [0; HEADER];
    header[0] = family;
    let request = Request::new("list routes", libc::RTM_GETROUTE, &header);
    socket.dump(&request, |payload| {
        // An IPv6 dump also has cached exceptions, and before Linux 4.20 the null entry of table 0.
        parse(payload).filter(|route| !route.cached && route.table != 0).filter(&keep)
    })
}

pub(super) fn parse(payload: &[u8]) -> Option<Route> {
    let header: &[u8; HEADER] = payload.first_chunk()?;
    let flags = u32_at(header, 8)?;
    let unspecified: IpAddr = match i32::from(header[0]) {
        libc::AF_INET => [0; 4].into(),
        libc::AF_INET6 => [0; 16].into(),
        _ => return None,
    };
    let mut route = Route {
        kind: RouteKind::new(header[7]),
        table: header[4].into(),
        destination: (unspecified, header[1]),
        source: None,
        oif: None,
        gateway: None,
        prefsrc: None,
        mtu: None,
        metric: None,
        protocol: header[5],
        scope: header[6],
        cached: flags & RTM_F_CLONED != 0,
        nexthops: Vec::new(),
    };
    for (kind, value) in Attributes::at(payload, HEADER) {
        match kind {
            RTA_DST => route.destination.0 = netlink::ip(value)?,
            RTA_SRC => route.source = Some((netlink::ip(value)?, header[2])),
            RTA_PRIORITY => route.metric = u32_at(value, 0),
            RTA_PREFSRC => route.prefsrc = netlink::ip(value),
            RTA_TABLE => route.table = u32_at(value, 0)?,
            RTA_METRICS => {
                route.mtu = Attributes::at(value, 0).value(RTAX_MTU).and_then(|value| u32_at(value, 0));
            }
            RTA_MULTIPATH => route.nexthops = multipath(value),
            _ => {}
        }
    }
    if route.nexthops.is_empty() {
        route.nexthops.push(Nexthop::parse(flags, Attributes::at(payload, HEADER)));
    }
    let first = &route.nexthops[0];
    (route.oif, route.gateway) = (first.oif, first.gateway);
    Some(route)
}

impl Nexthop {
    fn parse(flags: u32, attributes: Attributes<'_>) -> Self {
        let mut nexthop = Self {
            weight: 1,
            dead: flags & RTNH_F_DEAD != 0,
            linkdown: flags & RTNH_F_LINKDOWN != 0,
            ..Self::default()
        };
        for (kind, value) in attributes {
            match kind {
                RTA_OIF => nexthop.oif = u32_at(value, 0),
                RTA_GATEWAY => nexthop.gateway = netlink::ip(value),
                // struct rtvia: family, then the address (an IPv6 gateway of an IPv4 route).
                RTA_VIA => nexthop.gateway = value.get(2..).and_then(netlink::ip),
                _ => {}
            }
        }
        nexthop
    }
}

/// A sequence of `struct rtnexthop`, each followed by its attributes.
fn multipath(mut bytes: &[u8]) -> Vec<Nexthop> {
    let mut nexthops = Vec::new();
    while let Some(entry) = u16_at(bytes, 0).and_then(|length| bytes.get(..usize::from(length))) {
        let (Some(flags), Some(hops), Some(oif)) = (u8_at(entry, 2), u8_at(entry, 3), u32_at(entry, 4))
        else {
            break;
        };
        let nexthop = Nexthop::parse(flags.into(), Attributes::at(entry, NEXTHOP));
        nexthops.push(Nexthop { oif: Some(oif), weight: u16::from(hops) + 1, ..nexthop });
        bytes = bytes.get(entry.len().next_multiple_of(4)..).unwrap_or(&[]);
    }
    nexthops
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
