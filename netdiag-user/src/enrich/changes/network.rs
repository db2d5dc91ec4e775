//! Changes of links, addresses, neighbours, routes and routing rules (rtnetlink(7)).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::change::{Change, ChangeKind};
use crate::enrich::links::{self, Link};
use crate::enrich::neighbours::{self, Neighbour, NeighbourState};
use crate::enrich::netlink::{Socket, u32_at};
use crate::enrich::notices::Notice;
use crate::enrich::rules::RuleAction;
use crate::enrich::{route_text, routes, rules};

/// `RTNLGRP_*` of links, neighbours, addresses, routes and rules of both families
pub(super) const GROUPS: &[u32] = &[1, 3, 5, 7, 8, 9, 11, 19];
/// Routes that come with an address or a link, and those of router advertisements, which come again and again
/// (`RTPROT_KERNEL`, `RTPROT_RA`).
const BY_KERNEL: u8 = 2;
const BY_ADVERTISEMENT: u8 = 9;
const MAX_NEIGHBOURS: usize = 4096;
const TABLE_LOCAL: u32 = 255;

/// What is known, to tell a change from a repetition.
#[derive(Debug, Default)]
pub(super) struct Known {
    links: HashMap<u32, Link>,
    addresses: HashSet<(u32, IpAddr, u8)>,
    /// Hardware addresses, of those that were told.
    neighbours: HashMap<(u32, IpAddr), String>,
}

impl Known {
    /// As it is in the caller's namespace.
    pub(super) fn read() -> Self {
        let Ok(mut socket) = Socket::route(None) else { return Self::default() };
        let found = links::dump_links(&mut socket).unwrap_or_default();
        let addresses = links::dump_addresses(&mut socket).unwrap_or_default();
        Self {
            links: found.into_iter().map(|link| (link.ifindex, link)).collect(),
            addresses: addresses.into_iter().collect(),
            neighbours: HashMap::new(),
        }
    }

    pub(super) fn change(&mut self, notice: &Notice<'_>) -> Option<Change> {
        let payload = notice.payload;
        match notice.kind {
            // A bridge tells of its ports once more, in its own way.
            libc::RTM_NEWLINK if is_of_a_bridge(payload) => None,
            libc::RTM_NEWLINK => self.link(links::parse_link(payload)?),
            libc::RTM_DELLINK => self.link_removed(payload),
            libc::RTM_NEWADDR => self.address(payload, true),
            libc::RTM_DELADDR => self.address(payload, false),
            libc::RTM_NEWNEIGH => self.neighbour(payload),
            libc::RTM_DELNEIGH => self.neighbour_removed(payload),
            libc::RTM_NEWROUTE => self.route(payload, ChangeKind::RouteAdded),
            libc::RTM_DELROUTE => self.route(payload, ChangeKind::RouteRemoved),
            libc::RTM_NEWRULE => rule(payload, ChangeKind::PolicyRuleAdded),
            libc::RTM_DELRULE => rule(payload, ChangeKind::PolicyRuleRemoved),
            _ => None,
        }
    }

    fn name(&self, ifindex: u32) -> Option<&str> {
        self.links.get(&ifindex).map(|link| link.name.as_str())
    }

    fn link(&mut self, mut link: Link) -> Option<Change> {
        let name = link.name.clone();
        let Some(before) = self.links.get(&link.ifindex) else {
            self.links.insert(link.ifindex, link);
            return Some(Change::new(ChangeKind::LinkAdded, &name).on(Some(&name)));
        };
        // Some messages leave it out.
        link.carrier = link.carrier.or(before.carrier);
        if link.mtu == 0 {
            link.mtu = before.mtu;
        }
        let usable = |link: &Link| link.up && link.carrier != Some(false);
        let told = |kind, text: String| Some(Change::new(kind, text).on(Some(&name)));
        let change = match (usable(before), usable(&link)) {
            (true, false) if link.up => {
                told(ChangeKind::LinkChanged, format!("link {name} lost its carrier"))
            }
            (true, false) => told(ChangeKind::LinkDown, name.clone()),
            (false, true) => told(ChangeKind::LinkUp, name.clone()),
            _ if before.up && !link.up => told(ChangeKind::LinkDown, name.clone()),
            _ if before.name != link.name => {
                told(ChangeKind::LinkChanged, format!("link {} is now called {name}", before.name))
            }
            _ if before.mtu != link.mtu => {
                told(ChangeKind::LinkChanged, format!("link {name}: MTU {}, was {}", link.mtu, before.mtu))
            }
            _ if before.master != link.master => {
                let master = link.master.map(|index| self.name(index).unwrap_or("another").to_owned());
                let text = match master {
                    Some(master) => format!("link {name} now belongs to {master}"),
                    None => format!("link {name} left its bridge, bond or VRF"),
                };
                told(ChangeKind::LinkChanged, text)
            }
            _ => None,
        };
        self.links.insert(link.ifindex, link);
        change
    }

    fn link_removed(&mut self, payload: &[u8]) -> Option<Change> {
        let ifindex = u32_at(payload, 4)?;
        // That of a bridge means that a port left it: the link stays.
        if is_of_a_bridge(payload) {
            return None;
        }
        self.addresses.retain(|(index, ..)| *index != ifindex);
        let link = self.links.remove(&ifindex)?;
        Some(Change::new(ChangeKind::LinkRemoved, &link.name).on(Some(&link.name)))
    }

    fn address(&mut self, payload: &[u8], added: bool) -> Option<Change> {
        let found = links::parse_address(payload)?;
        let (ifindex, address, prefix) = found;
        // Lifetimes and flags are told again and again.
        let changed = if added { self.addresses.insert(found) } else { self.addresses.remove(&found) };
        if !changed {
            return None;
        }
        let kind = if added { ChangeKind::AddressAdded } else { ChangeKind::AddressRemoved };
        let name = self.name(ifindex);
        let at = name.map(|name| format!(" on {name}")).unwrap_or_default();
        Some(Change::new(kind, format!("{address}/{prefix}{at}")).on(name).about((address, prefix)))
    }

    /// Only what an administrator sets, and an address that moved to other hardware: the rest is ordinary life.
    fn neighbour(&mut self, payload: &[u8]) -> Option<Change> {
        let (key, Neighbour { state, lladdr: hardware }) = neighbours::parse(payload)?;
        let hardware = hardware?;
        if self.neighbours.len() >= MAX_NEIGHBOURS {
            self.neighbours.clear();
        }
        let before = self.neighbours.insert(key, hardware.clone());
        let name = self.name(key.0);
        let at = name.map(|name| format!(" on {name}")).unwrap_or_default();
        let address = key.1;
        let text = match before {
            Some(before) if before == hardware => return None,
            Some(before) => format!("neighbour {address}{at} is at {hardware} now, was at {before}"),
            None if state == NeighbourState::Permanent => {
                format!("neighbour {address}{at} was set to {hardware} for good")
            }
            None => return None,
        };
        Some(host(Change::new(ChangeKind::NeighbourChanged, text).on(name), address))
    }

    fn neighbour_removed(&mut self, payload: &[u8]) -> Option<Change> {
        let (key, Neighbour { state, .. }) = neighbours::parse(payload)?;
        self.neighbours.remove(&key);
        if state != NeighbourState::Permanent {
            return None;
        }
        let name = self.name(key.0);
        let at = name.map(|name| format!(" on {name}")).unwrap_or_default();
        let text = format!("neighbour {}{at} was removed", key.1);
        Some(host(Change::new(ChangeKind::NeighbourChanged, text).on(name), key.1))
    }

    fn route(&self, payload: &[u8], kind: ChangeKind) -> Option<Change> {
        let route = routes::parse(payload)?;
        let again = kind == ChangeKind::RouteAdded && route.protocol == BY_ADVERTISEMENT;
        if route.cached || again || route.protocol == BY_KERNEL || route.table == TABLE_LOCAL {
            return None;
        }
        let names = self.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let interface = route.oif.and_then(|index| self.name(index));
        let change = Change::new(kind, route_text::route(&route, &names));
        Some(change.on(interface).about(route.destination))
    }
}

fn is_of_a_bridge(payload: &[u8]) -> bool {
    payload.first() == Some(&(libc::AF_BRIDGE as u8))
}

fn host(change: Change, address: IpAddr) -> Change {
    change.about((address, if address.is_ipv4() { 32 } else { 128 }))
}

fn rule(payload: &[u8], kind: ChangeKind) -> Option<Change> {
    let rule = rules::parse(payload)?;
    let selector = |word: &str, prefix: Option<(IpAddr, u8)>| {
        prefix.map(|prefix| format!(" {word} {}", route_text::prefix(prefix))).unwrap_or_default()
    };
    let from = rule.from.map_or_else(|| " from all".to_owned(), |prefix| selector("from", Some(prefix)));
    let mark = if rule.mark != 0 { format!(" fwmark {:#x}", rule.mark) } else { String::new() };
    let action = match rule.action {
        RuleAction::Table(table) => format!("lookup {}", route_text::table(table)),
        RuleAction::Goto(priority) => format!("goto {priority}"),
        RuleAction::Blackhole => "blackhole".to_owned(),
        RuleAction::Unreachable => "unreachable".to_owned(),
        RuleAction::Prohibit => "prohibit".to_owned(),
        RuleAction::Nop | RuleAction::Other(_) => "other action".to_owned(),
    };
    let to = selector("to", rule.to);
    Some(Change::new(kind, format!("{}:{from}{to}{mark} {action}", rule.priority)))
}
