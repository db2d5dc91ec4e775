//! Policy routing rules (`ip rule`; include/uapi/linux/fib_rules.h).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netlink::{self, Attributes, Request, Socket, u8_at, u32_at};
use super::routes::{Flow, contains};

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FIB_RULE_INVERT: u32 = 2;
/// `struct fib_rule_hdr`
const HEADER: usize = 12;

/// What a rule does with the flows that it matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Look into this table; go on with the next rule if it has no match.
    Table(u32),
    /// Go on with the rule of this priority.
    Goto(u32),
    #[default]
    Nop,
    Blackhole,
    Unreachable,
    Prohibit,
    Other(u8),
}

impl RuleAction {
    /// The errno of a lookup that ends at such a rule (net/ipv4/fib_rules.c, `fib4_rule_action`).
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Blackhole => Some(libc::EINVAL),
            Self::Unreachable => Some(libc::ENETUNREACH),
            Self::Prohibit => Some(libc::EACCES),
            _ => None,
        }
    }
}

/// A policy routing rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The lowest is asked first.
    pub priority: u32,
    pub action: RuleAction,
    pub inverted: bool,
    pub from: Option<(IpAddr, u8)>,
    pub to: Option<(IpAddr, u8)>,
    pub iif: Option<String>,
    pub oif: Option<String>,
    pub mark: u32,
    /// Which bits of the mark count; 0: none.
    pub mask: u32,
    /// Routes with a prefix of this length or less do not count.
    pub suppress_prefixlength: Option<u32>,
    /// Matches flows through an interface of a VRF.
    pub l3mdev: bool,
    /// It also has selectors that are not read here: user, protocol, ports, TOS, tunnel...
    pub more: bool,
}

impl Rule {
    /// Whether it matches a flow of this host's own; `None` if that cannot be judged.
    pub(super) fn matches(&self, flow: &Flow, oif_name: Option<&str>) -> Option<bool> {
        let within = |prefix: Option<(IpAddr, u8)>, address: Option<IpAddr>| match (prefix, address) {
            (None, _) => true,
            (Some(prefix), Some(address)) => contains(prefix, address),
            (Some(_), None) => false,
        };
        // The kernel looks up what a host itself sends as if it had come in by the loopback interface.
        let matches = within(self.from, flow.src)
            && within(self.to, Some(flow.dst))
            && self.iif.as_deref().is_none_or(|name| name == "lo")
            && self.oif.as_deref().is_none_or(|name| oif_name == Some(name))
            && (flow.mark.unwrap_or(0) ^ self.mark) & self.mask == 0;
        if !matches {
            return Some(self.inverted);
        }
        match self.more || (self.l3mdev && flow.oif.is_some()) {
            true => None,
            false => Some(self.l3mdev == self.inverted),
        }
    }
}

/// Lists the rules of a family, `AF_INET` or `AF_INET6`, in the order in which they are asked.
pub(super) fn dump(socket: &mut Socket, family: u8) -> Result<Vec<Rule>, EnrichError> {
    let mut header = [0; HEADER];
    header[0] = family;
    let mut rules = socket.dump(&Request::new("list rules", libc::RTM_GETRULE, &header), parse)?;
    rules.sort_by_key(|rule| rule.priority);
    Ok(rules)
}

pub(super) fn parse(payload: &[u8]) -> Option<Rule> {
    let header: &[u8; HEADER] = payload.first_chunk()?;
    let inverted = u32_at(header, 8)? & FIB_RULE_INVERT != 0;
    let mut rule = Rule { inverted, more: header[3] != 0, ..Rule::default() };
    let (mut table, mut goto) = (u32::from(header[4]), 0);
    for (kind, value) in Attributes::at(payload, HEADER) {
        match kind {
            FRA_DST => rule.to = Some((netlink::ip(value)?, header[1])),
            FRA_SRC => rule.from = Some((netlink::ip(value)?, header[2])),
            FRA_IIFNAME => rule.iif = Some(netlink::text(value)),
            FRA_OIFNAME => rule.oif = Some(netlink::text(value)),
            FRA_GOTO => goto = u32_at(value, 0)?,
            FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
            FRA_FWMARK => rule.mark = u32_at(value, 0)?,
            FRA_FWMASK => rule.mask = u32_at(value, 0)?,
            FRA_TABLE => table = u32_at(value, 0)?,
            // All ones: nothing is suppressed.
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_prefixlength = u32_at(value, 0).filter(|length| *length != u32::MAX)
            }
            FRA_SUPPRESS_IFGROUP => rule.more |= u32_at(value, 0)? != u32::MAX,
            FRA_L3MDEV => rule.l3mdev = u8_at(value, 0)? != 0,
            // The kernel always reports the range; all users is no selector.
            FRA_UID_RANGE => rule.more |= (u32_at(value, 0)?, u32_at(value, 4)?) != (0, u32::MAX),
            FRA_PROTOCOL | FRA_PAD => {}
            _ => rule.more = true,
        }
    }
    rule.action = match header[7] {
        1 => RuleAction::Table(table),
        2 => RuleAction::Goto(goto),
        3 => RuleAction::Nop,
        6 => RuleAction::Blackhole,
        7 => RuleAction::Unreachable,
        8 => RuleAction::Prohibit,
        other => RuleAction::Other(other),
    };
    Some(rule)
}
