//! What a filter is made of, and its answers in Kleene's three-valued logic.

use std::net::{IpAddr, SocketAddr};

use super::Subject;
use crate::probes::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// A step of a postfix program.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Test(Test),
    Not,
    And,
    Or,
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Protocol(Protocol),
    Network(Direction, Network),
    Ports(Direction, Ports),
    Hostname(String),
    Pid(u32),
    Comm(Glob),
    NetnsInode(u32),
    NetnsName(String),
    Code(Glob),
}

/// Which ends of the connection a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Source,
    Destination,
    Either,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Icmp6,
    Ip,
    Ip6,
}

/// Runs a postfix program.
pub(super) fn run(program: &[Op], subject: &impl Subject) -> Option<bool> {
    // As deep as the expression is nested, which the parser bounds.
    let mut stack: Vec<Option<bool>> = Vec::with_capacity(8);
    for op in program {
        let answer = match op {
            Op::Test(test) => test.matches(subject),
            Op::Not => stack.pop().flatten().map(|known| !known),
            Op::And => and(stack.pop().flatten(), stack.pop().flatten()),
            Op::Or => or(stack.pop().flatten(), stack.pop().flatten()),
        };
        stack.push(answer);
    }
    stack.pop().flatten()
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

impl Test {
    fn matches(&self, subject: &impl Subject) -> Option<bool> {
        match self {
            Test::Protocol(protocol) => protocol.matches(subject),
            Test::Network(direction, network) => direction.ask(subject, |end| network.contains(end.ip())),
            Test::Ports(direction, ports) => {
                let protocol = subject.protocol();
                if !ports.possible(protocol) {
                    return Some(false);
                }
                direction.ask(subject, |end| ports.contains(protocol, end.port()))
            }
            Test::Hostname(name) => {
                subject.hostname().map(|known| known.trim_end_matches('.').eq_ignore_ascii_case(name))
            }
            Test::Pid(pid) => subject.pid().map(|known| known == *pid),
            Test::Comm(glob) => subject.comm().map(|known| glob.matches(known)),
            Test::NetnsInode(inode) => subject.netns().map(|known| known == *inode),
            Test::NetnsName(name) => subject.netns_name().map(|known| known == name),
            Test::Code(glob) => subject.code().map(|known| glob.matches(known)),
        }
    }
}

impl Direction {
    fn ask(self, subject: &impl Subject, test: impl Fn(SocketAddr) -> bool) -> Option<bool> {
        let source = || subject.source().map(&test);
        let destination = || subject.destination().map(&test);
        match self {
            Direction::Source => source(),
            Direction::Destination => destination(),
            Direction::Either => or(source(), destination()),
            Direction::Both => and(source(), destination()),
        }
    }
}

impl Protocol {
    pub fn from_keyword(word: &str) -> Option<Self> {
        Some(match word {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            "icmp6" => Protocol::Icmp6,
            "ip" => Protocol::Ip,
            "ip6" => Protocol::Ip6,
            _ => return None,
        })
    }

    pub fn keyword(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Icmp6 => "icmp6",
            Protocol::Ip => "ip",
            Protocol::Ip6 => "ip6",
        }
    }

    /// Whether the protocol can run between addresses of this family.
    pub fn carries(self, is_ipv4: bool) -> bool {
        match self {
            Protocol::Tcp | Protocol::Udp => true,
            Protocol::Icmp | Protocol::Ip => is_ipv4,
            Protocol::Icmp6 | Protocol::Ip6 => !is_ipv4,
        }
    }

    /// The IP protocol number, if it is a protocol with ports.
    pub fn transport(self) -> Option<u8> {
        match self {
            Protocol::Tcp => Some(TCP),
            Protocol::Udp => Some(UDP),
            _ => None,
        }
    }

    fn matches(self, subject: &impl Subject) -> Option<bool> {
        let number = subject.protocol();
        let is_ipv4 = || match number {
            ICMP => Some(true),
            ICMPV6 => Some(false),
            _ => subject.source().or(subject.destination()).map(|end| end.ip().to_canonical().is_ipv4()),
        };
        match self {
            Protocol::Tcp => Some(number == TCP),
            Protocol::Udp => Some(number == UDP),
            Protocol::Icmp => Some(number == ICMP),
            Protocol::Icmp6 => Some(number == ICMPV6),
            Protocol::Ip => is_ipv4(),
            Protocol::Ip6 => is_ipv4().map(|is| !is),
        }
    }
}

/// Addresses that are equal under a mask; one address if the mask is all ones. IPv4 addresses in IPv6 notation
/// (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2) count as IPv4, since sockets of both families carry IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Address and mask, both in host byte order.
    V4 { address: u32, mask: u32 },
    /// Address and mask, both in host byte order.
    V6 { address: u128, mask: u128 },
}

impl Network {
    pub fn host(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Network::V4 { address: v4.to_bits(), mask: u32::MAX },
            IpAddr::V6(v6) => Network::V6 { address: v6.to_bits(), mask: u128::MAX },
        }
    }

    /// `None` if the prefix, in bits, is longer than the address.
    pub fn prefix(address: IpAddr, length: u32) -> Option<Self> {
        Some(match address {
            IpAddr::V4(v4) => {
                let host_bits = 32_u32.checked_sub(length)?;
                Network::V4 { address: v4.to_bits(), mask: u32::MAX.checked_shl(host_bits).unwrap_or(0) }
            }
            IpAddr::V6(v6) => {
                let host_bits = 128_u32.checked_sub(length)?;
                Network::V6 { address: v6.to_bits(), mask: u128::MAX.checked_shl(host_bits).unwrap_or(0) }
            }
        })
    }

    /// `None` if address and mask are of two families.
    pub fn masked(address: IpAddr, mask: IpAddr) -> Option<Self> {
        match (address, mask) {
            (IpAddr::V4(a), IpAddr::V4(m)) => Some(Network::V4 { address: a.to_bits(), mask: m.to_bits() }),
            (IpAddr::V6(a), IpAddr::V6(m)) => Some(Network::V6 { address: a.to_bits(), mask: m.to_bits() }),
            _ => None,
        }
    }

    /// The address with the bits outside the mask cleared, if any of them is set.
    pub fn stray_bits(self) -> Option<IpAddr> {
        match self {
            Network::V4 { address, mask } => {
                (address & !mask != 0).then(|| IpAddr::V4((address & mask).into()))
            }
            Network::V6 { address, mask } => {
                (address & !mask != 0).then(|| IpAddr::V6((address & mask).into()))
            }
        }
    }

    pub fn is_ipv4(self) -> bool {
        matches!(self, Network::V4 { .. })
    }

    fn contains(self, ip: IpAddr) -> bool {
        match (self, ip.to_canonical()) {
            (Network::V4 { address, mask }, IpAddr::V4(ip)) => ip.to_bits() & mask == address,
            (Network::V6 { address, mask }, IpAddr::V6(ip)) => ip.to_bits() & mask == address,
            _ => false,
        }
    }
}

/// Ports, in host byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ports {
    /// First and last, of any protocol that has ports.
    Range(u16, u16),
    /// A service: IP protocol number and port.
    Service(Vec<(u8, u16)>),
}

impl Ports {
    fn possible(&self, protocol: u8) -> bool {
        match self {
            Ports::Range(..) => matches!(protocol, TCP | UDP | SCTP),
            Ports::Service(entries) => entries.iter().any(|(number, _)| *number == protocol),
        }
    }

    fn contains(&self, protocol: u8, port: u16) -> bool {
        match self {
            Ports::Range(first, last) => (*first..=*last).contains(&port),
            Ports::Service(entries) => entries.contains(&(protocol, port)),
        }
    }
}

/// A pattern in which `*` stands for any characters, also none, and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<char>);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        Glob(pattern.chars().collect())
    }

    /// Linear but for going back to the latest `*`, so no pattern makes it exponential.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut in_pattern) = (0, 0);
        let mut latest_star = None;
        while at < text.len() {
            match self.0.get(in_pattern) {
                Some('*') => {
                    latest_star = Some((at, in_pattern));
                    in_pattern += 1;
                }
                Some(c) if *c == '?' || *c == text[at] => (at, in_pattern) = (at + 1, in_pattern + 1),
                _ => match latest_star {
                    None => return false,
                    Some((taken, star)) => {
                        latest_star = Some((taken + 1, star));
                        (at, in_pattern) = (taken + 1, star + 1);
                    }
                },
            }
        }
        self.0[in_pattern..].iter().all(|c| *c == '*')
    }
}
