//! No local port is left.

use super::super::words::{errno_name, host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::{failed_call, is_time_wait, own_netns, state_key, state_name, who};
use crate::enrich::facts::Holder;
use crate::enrich::port_range::PortRange;
use crate::probes::{Call, TcpState};
use crate::track::{End, What};

const RANGE: &str = PortRange::RANGE;
/// Share of the range, in percent, from which on it counts as full: sockets come and go while they are
/// listed.
const FULL_PERCENT: u64 = 95;

/// The kernel searched the whole range for a port (net/ipv4/inet_hashtables.c, __inet_hash_connect; for
/// bind() with port 0 inet_connection_sock.c, inet_csk_find_open_port) and found none.
pub fn exhausted(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let call = match failed_call(evidence) {
        Some((call @ Call::Connect, errno @ libc::EADDRNOTAVAIL)) => (call, errno),
        Some((call @ Call::Bind, errno @ libc::EADDRINUSE)) => (call, errno),
        _ => return Verdict::Healthy,
    };
    if connection.local.port() != 0 {
        return Verdict::Healthy;
    }
    let (call, errno) = call;
    let size = range_size(evidence);
    let held = evidence.facts.holders.as_ref().map(|all| all.iter().map(|h| u64::from(h.count)).sum::<u64>());
    let full = matches!((size, held), (Some(size), Some(held)) if held * 100 >= size * FULL_PERCENT);
    // An IPv6 connect() gives the same errno where no source address fits, before it goes to SYN_SENT.
    let source_missing = call == Call::Connect && connection.peer.is_ipv6() && !reached_syn_sent(evidence);
    let mut alternatives: &[&'static str] = &[];
    let confidence = match (full, source_missing, has_source(evidence)) {
        (true, _, _) => Confidence::Certain,
        (false, true, Some(false)) => return Verdict::Healthy,
        (false, true, _) => {
            alternatives = &["unreachable.no-ipv6"];
            Confidence::Possible
        }
        (false, false, _) => Confidence::Likely,
    };
    let target = match call {
        Call::Bind => String::new(),
        _ => format!(" for {}", host_port(connection.peer)),
    };
    let cause = match size {
        Some(0) => "ip_local_reserved_ports leaves no port of ip_local_port_range".to_owned(),
        Some(size) if full => format!("all {size} local ports{target} are taken{}", by_whom(evidence)),
        _ => format!("the kernel found no free local port{target}"),
    };
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Socket),
        format!("no free local port ({call}: {})", errno_name(errno)),
        cause,
    )
    .explain(explanation(evidence, call, size, held, full))
    .or(alternatives);
    finding.place.netns = Some(connection.netns);
    finding.place.netns_name = own_netns(evidence).map(str::to_owned);
    advise(evidence, call, finding).found()
}

fn advise(evidence: &Evidence, call: Call, finding: Finding) -> Finding {
    let prefix = in_netns(own_netns(evidence));
    let peer = evidence.connection.peer;
    let filter = match call {
        Call::Bind => String::new(),
        _ => format!(" 'dst = {} and dport = :{}'", peer.ip(), peer.port()),
    };
    let finding = match evidence.facts.holders.iter().flatten().any(is_time_wait) {
        true => finding.next("see whose the ones in TIME_WAIT are", timewait_command(call, peer)),
        false => finding,
    };
    finding
        .next("count them by state", format!("{prefix}ss -Htan{filter} | cut -d' ' -f1 | sort | uniq -c"))
        .next("see who holds them", format!("{prefix}ss -Htanp{filter} | head -20"))
        .advise("reuse connections (keep-alive, a pool) instead of opening one per request")
        .next("quick relief: a larger range", format!("{prefix}sysctl -w {RANGE}='1024 65535'"))
}

fn timewait_command(call: Call, peer: std::net::SocketAddr) -> String {
    match call {
        Call::Bind => "netdiag timewait".to_owned(),
        _ => format!("netdiag timewait dst host {} and dst port {}", peer.ip(), peer.port()),
    }
}

/// ": 28000 in TIME_WAIT, 232 of curl[7]"; the largest two.
fn by_whom(evidence: &Evidence) -> String {
    let mut groups: Vec<(String, u64)> = Vec::new();
    for holder in evidence.facts.holders.iter().flatten() {
        let name = match &holder.process {
            Some(_) if is_time_wait(holder) => format!("in TIME_WAIT made by {}", who(holder)),
            None if is_time_wait(holder) => "in TIME_WAIT".to_owned(),
            Some(_) => format!("of {}", who(holder)),
            None => format!("in {}", state_name(holder)),
        };
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += u64::from(holder.count),
            None => groups.push((name, holder.count.into())),
        }
    }
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let parts: Vec<_> = groups.iter().take(2).map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

fn explanation(evidence: &Evidence, call: Call, size: Option<u64>, held: Option<u64>, full: bool) -> String {
    let mut text = match call {
        Call::Bind => "bind() with port 0 asks for any free local port, whatever the destination.".to_owned(),
        _ => "A connection needs a local port that is free for this destination; others may still work."
            .to_owned(),
    };
    match (size, held) {
        (Some(size), Some(held)) if full => {
            text += &format!(" {RANGE} has {size} of them, and {held} sockets hold one.");
        }
        (Some(size), Some(held)) => {
            text += &format!(
                " {RANGE} has {size} of them; {held} were still held when netdiag looked, so the others had \
                 gone by then, or are held towards other destinations by bind()."
            );
        }
        (Some(size), None) => {
            text += &format!(" {RANGE} has {size} of them; who holds them could not be listed.")
        }
        (None, _) => text += " The kernel found none in the whole range.",
    }
    let mut holders: Vec<&Holder> = evidence.facts.holders.iter().flatten().collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.count));
    match holders.first() {
        Some(first) if is_time_wait(first) => {
            text += " TIME_WAIT keeps a port for 60 seconds after this side closed first.";
            text += &makers(evidence);
        }
        Some(first) if state_key(first) == "closewait" => {
            text += " Most are in CLOSE_WAIT: the peer has closed, and the program does not close its end.";
        }
        _ => {}
    }
    text
}

/// Who made the sockets in TIME_WAIT: those that were seen, or who is likely.
fn makers(evidence: &Evidence) -> String {
    let waiting = || evidence.facts.holders.iter().flatten().filter(|holder| is_time_wait(holder));
    let mut seen: Vec<&Holder> = waiting().filter(|holder| holder.process.is_some()).collect();
    if seen.is_empty() {
        return likely_makers(evidence);
    }
    seen.sort_by_key(|holder| std::cmp::Reverse(holder.count));
    let names: Vec<String> =
        seen.iter().take(3).map(|holder| format!("{} of {}", holder.count, who(holder))).collect();
    let others = seen.len().saturating_sub(names.len());
    let others = if others > 0 { format!(" and of {others} more processes") } else { String::new() };
    let unknown: u32 = waiting().filter(|holder| holder.process.is_none()).map(|holder| holder.count).sum();
    let unknown = match unknown {
        0 => String::new(),
        count => format!(" Of {count} it is not known who made them."),
    };
    format!(" It was seen who made them: {}{others}.{unknown}", names.join(", "))
}

/// Who made the sockets in TIME_WAIT, where one program alone has to do with the destination: it holds the other
/// sockets there, and makes the connection that failed.
fn likely_makers(evidence: &Evidence) -> String {
    let holders = evidence.facts.holders.iter().flatten().filter_map(|holder| holder.process.as_ref());
    let owner = evidence.connection.owner.as_ref().map(|owner| owner.comm.as_str());
    let mut names: Vec<&str> = holders.map(|process| process.comm.as_str()).chain(owner).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => format!(" They were likely made by {name}, the only program seen with this destination."),
        _ => String::new(),
    }
}

/// Ports that the kernel may choose from.
fn range_size(evidence: &Evidence) -> Option<u64> {
    let setting = |key| evidence.facts.sysctls.get(key).map(String::as_str);
    Some(PortRange::parse(setting(PortRange::RANGE)?, setting(PortRange::RESERVED))?.size())
}

fn reached_syn_sent(evidence: &Evidence) -> bool {
    let syn_sent = |what: &What| matches!(what, What::State { from: TcpState::SynSent, to: TcpState::Close });
    matches!(evidence.connection.end, End::State { from: TcpState::SynSent, .. })
        || evidence.timeline.iter().any(|moment| syn_sent(&moment.what))
}

/// Whether the namespace has an IPv6 address that could be a source beyond the link.
fn has_source(evidence: &Evidence) -> Option<bool> {
    let links = evidence.facts.links.as_ref()?;
    let mut addresses = links.iter().flat_map(|link| &link.addresses);
    Some(addresses.any(|(address, _)| match address {
        std::net::IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        std::net::IpAddr::V4(_) => false,
    }))
}
