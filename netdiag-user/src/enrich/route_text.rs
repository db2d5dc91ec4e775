//! Routes in the words of `ip route`.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;

use super::routes::{Nexthop, Route, RouteKind};

const TABLE_MAIN: u32 = 254;
const PROTOCOL_BOOT: u8 = 3;

/// Prints a route as `ip route` does, `pref` of IPv6 routes aside. `names` are the interfaces of its network
/// namespace by index.
pub fn route(route: &Route, names: &HashMap<u32, String>) -> String {
    let mut text = String::new();
    let kind = kind(route.kind);
    if route.kind != RouteKind::Unicast {
        text.push_str(&kind);
        text.push(' ');
    }
    text.push_str(&prefix(route.destination));
    // Writing to a String does not fail.
    if let Some(source) = route.source {
        let _ = write!(text, " from {}", prefix(source));
    }
    let multipath = route.nexthops.len() > 1;
    if let ([nexthop], false) = (&route.nexthops[..], multipath) {
        hop(&mut text, route, nexthop, names);
    }
    if route.table != TABLE_MAIN {
        let _ = write!(text, " table {}", table(route.table));
    }
    if route.protocol != PROTOCOL_BOOT && !route.cached {
        let _ = write!(text, " proto {}", protocol(route.protocol));
    }
    if route.scope != 0 && !route.cached {
        let _ = write!(text, " scope {}", scope(route.scope));
    }
    if let Some(prefsrc) = route.prefsrc {
        let _ = write!(text, " src {prefsrc}");
    }
    if let Some(metric) = route.metric {
        let _ = write!(text, " metric {metric}");
    }
    if let Some(mtu) = route.mtu {
        let _ = write!(text, " mtu {mtu}");
    }
    match &route.nexthops[..] {
        [nexthop] => state(&mut text, nexthop),
        nexthops => {
            for nexthop in nexthops {
                text.push_str(" nexthop");
                hop(&mut text, route, nexthop, names);
                let _ = write!(text, " weight {}", nexthop.weight);
                state(&mut text, nexthop);
            }
        }
    }
    text
}

fn hop(text: &mut String, route: &Route, nexthop: &Nexthop, names: &HashMap<u32, String>) {
    if let Some(gateway) = nexthop.gateway {
        let other_family = gateway.is_ipv4() != route.destination.0.is_ipv4();
        let family = if !other_family {
            ""
        } else if gateway.is_ipv6() {
            "inet6 "
        } else {
            "inet "
        };
        let _ = write!(text, " via {family}{gateway}");
    }
    if let Some(oif) = nexthop.oif {
        let _ = match names.get(&oif) {
            Some(name) => write!(text, " dev {name}"),
            None => write!(text, " dev if{oif}"),
        };
    }
}

fn state(text: &mut String, nexthop: &Nexthop) {
    if nexthop.dead {
        text.push_str(" dead");
    }
    if nexthop.linkdown {
        text.push_str(" linkdown");
    }
}

pub(super) fn prefix((address, length): (IpAddr, u8)) -> String {
    match (address, length) {
        (_, 0) => "default".to_owned(),
        (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => address.to_string(),
        _ => format!("{address}/{length}"),
    }
}

fn kind(kind: RouteKind) -> String {
    let name = match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Local => "local",
        RouteKind::Broadcast => "broadcast",
        RouteKind::Anycast => "anycast",
        RouteKind::Multicast => "multicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
        RouteKind::Other(number) => return number.to_string(),
    };
    name.to_owned()
}

pub(super) fn table(number: u32) -> String {
    match number {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}

/// include/uapi/linux/rtnetlink.h, `RTPROT_*`
fn protocol(number: u8) -> String {
    let name = match number {
        0 => "unspec",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_owned()
}

fn scope(number: u8) -> String {
    match number {
        0 => "global".to_owned(),
        200 => "site".to_owned(),
        253 => "link".to_owned(),
        254 => "host".to_owned(),
        255 => "nowhere".to_owned(),
        other => other.to_string(),
    }
}
