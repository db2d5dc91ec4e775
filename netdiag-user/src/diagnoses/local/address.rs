//! A local address that is taken, or is none of this machine.

use std::net::{IpAddr, SocketAddr};

use super::super::words::{errno_name, host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::{failed_call, is_time_wait, own_netns, state_key, state_name, who};
use crate::enrich::facts::Holder;
use crate::enrich::links::Link;
use crate::probes::{Call, protocol};

/// bind() found a conflicting socket (net/ipv4/inet_connection_sock.c, inet_csk_get_port), listen() one that
/// listens already (inet_csk_listen_start asks again), or connect() from a fixed port found the very same
/// four-tuple (inet_hashtables.c, __inet_check_established).
pub fn in_use(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let (call, errno) = match failed_call(evidence) {
        Some((call @ (Call::Bind | Call::Listen), errno @ libc::EADDRINUSE)) => (call, errno),
        Some((call @ Call::Connect, errno @ (libc::EADDRINUSE | libc::EADDRNOTAVAIL))) => (call, errno),
        _ => return Verdict::Healthy,
    };
    let is_udp = connection.protocol == protocol::UDP;
    let local = connection.local;
    if local.port() == 0 {
        return Verdict::Healthy;
    }
    let holders = evidence.facts.holders.iter().flatten();
    let mut holders: Vec<&Holder> = holders.filter(|holder| conflicts(holder.local, local)).collect();
    // A living process first: where there is one, that is what stands in the way.
    holders.sort_by_key(|holder| (is_time_wait(holder), holder.process.is_none()));
    let confidence = if holders.is_empty() { Confidence::Likely } else { Confidence::Certain };
    let cause = match holders.first() {
        Some(holder) if is_time_wait(holder) => {
            format!("{} is held by an old connection in TIME_WAIT", host_port(local))
        }
        Some(holder) => {
            // UDP sockets have no state worth a word.
            let state = if is_udp { String::new() } else { format!(" ({})", state_name(holder)) };
            format!("{} holds {}{state}", who(holder), host_port(holder.local))
        }
        None => {
            format!("another socket held {}; it was gone, or not visible, a moment later", host_port(local))
        }
    };
    let all_time_wait = !holders.is_empty() && holders.iter().all(|holder| is_time_wait(holder));
    let headline = match call {
        Call::Bind => format!("cannot bind {}: address in use ({})", host_port(local), errno_name(errno)),
        Call::Listen => {
            format!("cannot listen on {}: address in use ({})", host_port(local), errno_name(errno))
        }
        _ => format!("cannot connect from {}: address in use ({})", host_port(local), errno_name(errno)),
    };
    let mut finding = Finding::new(confidence, place(evidence), headline, cause).explain(explanation(
        evidence,
        call,
        &holders,
        all_time_wait,
    ));
    let prefix = in_netns(own_netns(evidence));
    let list = if is_udp { "ss -Huanp" } else { "ss -Htanp" };
    finding =
        finding.next("see all sockets with that port", format!("{prefix}{list} 'sport = :{}'", local.port()));
    if !all_time_wait {
        finding = finding.next(
            "see who holds that port in any namespace, and since when",
            format!("netdiag port {}", local.port()),
        );
    }
    finding = match holders.iter().find_map(|holder| holder.process.as_ref()) {
        _ if all_time_wait && call == Call::Bind => {
            finding.advise("let the program set SO_REUSEADDR before bind(), or wait 60 seconds")
        }
        Some(process) => match &process.unit {
            Some(unit) => finding.next(
                "see what holds it, and stop it if it is not wanted",
                format!("systemctl status {unit}"),
            ),
            None => finding.next(
                "see what holds it, and stop it if it is not wanted",
                format!("ps -fp {}", process.pid),
            ),
        },
        None => finding,
    };
    if call == Call::Connect {
        finding = finding
            .advise("let the kernel choose the local port: do not bind() to a fixed one before connect()");
    }
    finding.found()
}

fn explanation(evidence: &Evidence, call: Call, holders: &[&Holder], all_time_wait: bool) -> String {
    let local = host_port(evidence.connection.local);
    let peer = host_port(evidence.connection.peer);
    let mut text = match call {
        Call::Bind => {
            format!("The program asked for {local}, and another socket of this network namespace conflicts.")
        }
        Call::Listen => format!(
            "The program could bind {local}, for sockets with SO_REUSEADDR may share an address; but only one of \
             them may listen there, and another does."
        ),
        _ => format!(
            "The program connects from the fixed port {local}, and a connection from there to {peer} exists."
        ),
    };
    let others: u64 = holders.iter().map(|holder| u64::from(holder.count)).sum();
    if others > 1 {
        text += &format!(" {others} sockets hold that port.");
    }
    if all_time_wait {
        text += " TIME_WAIT belongs to no process and ends after 60 seconds; a server that sets \
                 SO_REUSEADDR may bind in spite of it.";
    } else if holders.iter().any(|h| state_key(h) == "listen" && h.local.ip().is_unspecified()) {
        text += " A wildcard address conflicts with every address of that port.";
    }
    text
}

/// Whether two sockets with these addresses are in each other's way. [::] is taken for dual-stack.
fn conflicts(holder: SocketAddr, wanted: SocketAddr) -> bool {
    let (one, other) = (holder.ip().to_canonical(), wanted.ip().to_canonical());
    holder.port() == wanted.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// bind() looked the address up in the namespace's local table and did not find it (net/ipv4/af_inet.c,
/// __inet_bind; net/ipv6/af_inet6.c, __inet6_bind).
pub fn not_local(evidence: &Evidence) -> Verdict {
    let Some((Call::Bind, errno @ libc::EADDRNOTAVAIL)) = failed_call(evidence) else {
        return Verdict::Healthy;
    };
    let local = evidence.connection.local;
    let address = local.ip().to_canonical();
    let found = evidence.facts.links.as_ref().map(|links| links.iter().find(|link| has(link, address)));
    let (confidence, cause) = match found {
        Some(None) => {
            (Confidence::Certain, format!("{address} is on no interface of this network namespace"))
        }
        Some(Some(link)) if address.is_ipv6() && !link.up => {
            (Confidence::Certain, format!("{address} is on {}, which is down", link.name))
        }
        Some(Some(link)) if address.is_ipv6() => (
            Confidence::Likely,
            format!("{address} was not ready on {} (tentative), or has just come", link.name),
        ),
        Some(Some(link)) => {
            (Confidence::Likely, format!("{address} has come to {} only after this", link.name))
        }
        None => (Confidence::Likely, format!("{address} is no address of this network namespace")),
    };
    let prefix = in_netns(own_netns(evidence));
    let key = if address.is_ipv4() { "net.ipv4.ip_nonlocal_bind" } else { "net.ipv6.ip_nonlocal_bind" };
    let mut explanation = "A socket may only be bound to an address of its own network namespace.".to_owned();
    explanation += match found {
        Some(None) if address.is_loopback() => " Not even loopback has one here: lo was never set up.",
        Some(None) => {
            " This one is mistyped, belongs to another host or namespace, or has not been added yet."
        }
        Some(Some(_)) if address.is_ipv6() => {
            " An IPv6 address cannot be bound until duplicate address detection ends."
        }
        Some(Some(_)) => " The address is there now, so the program was too early.",
        None => "",
    };
    if let Some(value) = evidence.facts.sysctls.get(key) {
        explanation += &format!(" {key} is {}; 1 would allow it all the same.", value.trim());
    }
    let mut finding = Finding::new(
        confidence,
        place(evidence),
        format!("cannot bind {}: not a local address ({})", host_port(local), errno_name(errno)),
        cause,
    )
    .explain(explanation)
    .next("see the addresses of this network namespace", format!("{prefix}ip -br addr"));
    finding = match found {
        Some(None) if address.is_loopback() => {
            finding.next("set up loopback", format!("{prefix}ip link set lo up"))
        }
        Some(Some(link)) if address.is_ipv6() => finding.next(
            "see whether it is tentative or dadfailed",
            format!("{prefix}ip -6 addr show dev {}", link.name),
        ),
        _ => finding.advise("correct the address in the program's configuration, or bind the wildcard"),
    };
    finding
        .advise("if the service starts before the address comes, order it after network-online.target")
        .next("only for an address that moves between hosts", format!("{prefix}sysctl -w {key}=1"))
        .found()
}

/// Whether an interface has the address. Loopback has all that its IPv4 prefix covers.
fn has(link: &Link, address: IpAddr) -> bool {
    link.addresses.iter().any(|(own, _)| {
        *own == address || (own.is_ipv4() && own.is_loopback() && address.is_ipv4() && address.is_loopback())
    })
}

fn place(evidence: &Evidence) -> Where {
    let mut place = Where::new(WhereSide::Local, Stage::Socket);
    place.netns = Some(evidence.connection.netns);
    place.netns_name = own_netns(evidence).map(str::to_owned);
    place
}
