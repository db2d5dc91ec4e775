//! Nothing on this machine takes the request, and who nearly does.

use std::net::IpAddr;

use super::super::words::{host_port, in_netns, netns_phrase};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::nat::sent_on;
use super::{has_icmp, is_udp, refused_by_an_end, request, was_reset};
use crate::enrich::facts::LISTENERS;
use crate::enrich::listeners::Listener;
use crate::enrich::sockets::Protocol;
use crate::track::{Place, What};

/// Where the request met no socket.
struct Arrival<'a> {
    place: Place,
    symbol: Option<&'a str>,
    /// Index of the interface that it came in by; `None` where that is not known.
    interface: Option<u32>,
    /// Inode numbers of the namespaces that it may have been in.
    namespaces: Vec<u64>,
    confidence: Confidence,
}

/// The drop says it; failing that, the RST of an address of this machine does.
fn arrival(evidence: &Evidence) -> Option<Arrival<'_>> {
    if let Some((_, What::Dropped { packet, symbol, place, .. })) = evidence.drop_of(&["NO_SOCKET"], true) {
        let namespaces =
            if place.netns != 0 { vec![u64::from(place.netns)] } else { peer_namespaces(evidence) };
        return Some(Arrival {
            place: place.clone(),
            symbol: symbol.as_deref(),
            interface: (packet.iif != 0).then_some(packet.iif),
            namespaces,
            confidence: Confidence::Certain,
        });
    }
    let by_socket = evidence.timeline.iter().any(|m| matches!(m.what, What::ResetAnswered { .. }));
    let answered = match is_udp(evidence) {
        true => has_icmp(evidence),
        false => was_reset(evidence) && !by_socket,
    };
    if evidence.peer_is_local() != Some(true) || !answered || sent_on(evidence).is_some() {
        return None;
    }
    let namespaces = peer_namespaces(evidence);
    let place = match namespaces.as_slice() {
        [only] => Place {
            netns: u32::try_from(*only).unwrap_or(0),
            netns_name: name_of(evidence, *only),
            interface: None,
        },
        _ => Place::default(),
    };
    Some(Arrival { place, symbol: None, interface: None, namespaces, confidence: Confidence::Likely })
}

/// Namespaces of this machine where the peer's address is.
fn peer_namespaces(evidence: &Evidence) -> Vec<u64> {
    if evidence.connection.peer.ip().is_loopback() {
        return vec![evidence.connection.netns.into()];
    }
    evidence.facts.peer_namespaces.iter().flatten().map(|netns| netns.inode).collect()
}

fn name_of(evidence: &Evidence, inode: u64) -> Option<String> {
    let known = evidence.facts.peer_namespaces.iter().flatten().chain(&evidence.facts.netns);
    known.filter(|netns| netns.inode == inode).find_map(|netns| netns.name.clone())
}

/// Sockets of the right protocol that listen on that port, anywhere on this machine.
fn listeners(evidence: &Evidence) -> impl Iterator<Item = &Listener> {
    let protocol = if is_udp(evidence) { Protocol::Udp } else { Protocol::Tcp };
    let port = evidence.connection.peer.port();
    let all = evidence.facts.listeners.iter().flatten();
    all.filter(move |listener| listener.protocol == protocol && listener.local.port() == port)
}

/// Whether the listener would have taken the request. The benefit of the doubt makes it one that does: only a
/// listener that surely does not may be named as "elsewhere".
fn fits(listener: &Listener, arrival: &Arrival, address: IpAddr) -> bool {
    let dual_stack_unknown =
        listener.v6only.is_none() && listener.local.is_ipv6() && listener.local.ip().is_unspecified();
    arrival.namespaces.contains(&listener.netns)
        && (listener.accepts(address) || dual_stack_unknown)
        && (listener.interface == 0 || arrival.interface.is_none_or(|index| index == listener.interface))
}

/// The listener on that port that most likely was meant, and how sure that is.
fn elsewhere<'a>(evidence: &'a Evidence, arrival: &Arrival) -> Option<(Confidence, &'a Listener)> {
    let address = evidence.connection.peer.ip();
    if arrival.namespaces.is_empty() || listeners(evidence).any(|l| fits(l, arrival, address)) {
        return None;
    }
    // Unless the drop said where it was.
    let guess = evidence.facts.peer_ambiguous && arrival.namespaces.len() > 1;
    if let Some(near) = listeners(evidence).find(|l| arrival.namespaces.contains(&l.netns)) {
        return Some((if guess { Confidence::Possible } else { arrival.confidence }, near));
    }
    let first = listeners(evidence).next()?;
    let single = listeners(evidence).all(|l| l.netns == first.netns);
    Some((if single && !guess { Confidence::Likely } else { Confidence::Possible }, first))
}

/// The request was dropped for lack of a socket, or answered with RST by an address of this machine.
pub fn no_listener(evidence: &Evidence) -> Verdict {
    let Some(arrival) = refused_by_an_end(evidence).then(|| arrival(evidence)).flatten() else {
        return Verdict::Healthy;
    };
    let peer = evidence.connection.peer;
    let now = listeners(evidence).find(|l| fits(l, &arrival, peer.ip()));
    let mut confidence = arrival.confidence;
    if confidence != Confidence::Certain {
        if evidence.facts.listeners.is_none() || evidence.facts.listeners_incomplete {
            return not_looked_up(evidence, &arrival).found();
        }
        let vacant =
            |netns: &u64| !listeners(evidence).any(|l| l.netns == *netns && fits(l, &arrival, peer.ip()));
        match now {
            Some(_) if !arrival.namespaces.iter().any(vacant) => return Verdict::Healthy,
            Some(_) => confidence = Confidence::Possible,
            None => {}
        }
    }
    let now = now.filter(|_| confidence != Confidence::Possible);
    if elsewhere(evidence, &arrival).is_some_and(|(confidence, _)| confidence <= Confidence::Likely) {
        return Verdict::Healthy;
    }
    let there = netns_phrase(evidence, arrival_netns(&arrival), arrival.place.netns_name.as_deref());
    let mut explanation = reached(evidence, &arrival);
    explanation.push_str(match now {
        Some(_) => " Something listens there now, so it was started after this attempt.",
        None => " The service is not running, has not finished starting, or uses another port.",
    });
    if let Some(why) = unread(evidence) {
        explanation += &format!(" Whether something listens on that port at another address {why}.");
    }
    if confidence == Confidence::Possible {
        explanation.push_str(
            " Several network namespaces of this machine have this address; in one of them something does \
             listen, and it is not known which of them was asked.",
        );
    }
    let mut finding = Finding::new(
        confidence,
        place(&arrival),
        "refused",
        format!("nothing listens on {}{there}", host_port(peer)),
    )
    .explain(explanation)
    .next("see what listens on that port", list_command(evidence, &arrival, true));
    finding = match now {
        Some(listener) => finding
            .advise(format!("{} listens there by now: try again", who(listener)))
            .listener(listener.clone()),
        None => finding
            .next("see what listens at all, and on which ports", list_command(evidence, &arrival, false))
            .advise("start the service, or correct the port in the client"),
    };
    if confidence == Confidence::Possible {
        finding = finding.or(&["refused.bound-elsewhere"]);
    }
    finding.found()
}

/// Why it is not known who listens; `None` where it is.
fn unread(evidence: &Evidence) -> Option<&'static str> {
    let facts = &evidence.facts;
    match (&facts.listeners, facts.listeners_incomplete) {
        (Some(_), false) => None,
        (None, _) if facts.is_not_looked_up(LISTENERS) => {
            Some("was not looked up, as so many connections failed at once")
        }
        (None, _) => Some("could not be looked up"),
        (Some(_), true) => Some("is not known, as not all network namespaces could be looked into"),
    }
}

/// An address of this machine answered with RST, and that is all there is.
fn not_looked_up(evidence: &Evidence, arrival: &Arrival) -> Finding {
    let peer = evidence.connection.peer;
    let answer = if is_udp(evidence) { "ICMP \"port unreachable\"" } else { "RST" };
    Finding::new(
        Confidence::Possible,
        place(arrival),
        "refused",
        format!("this machine answered with {answer}, as it does if nothing listens on {}", host_port(peer)),
    )
    .explain(format!(
        "The address belongs to this machine, and the {} was answered with {answer}. Whether something listens on that \
         port {}. Mostly nothing does. A firewall of this machine that rejects with {answer}, and a service that listens \
         on another address only, look the same.",
        request(evidence),
        unread(evidence).unwrap_or("is not known"),
    ))
    .next("see what listens on that port", list_command(evidence, arrival, true))
    .next("if the right service does, look for a rule that rejects", "nft -a list ruleset | grep -n reject")
    .advise("start the service, or correct the port in the client")
    .or(&["refused.bound-elsewhere", "refused.firewall-reject"])
}

/// A socket that takes such a request, in each namespace that it may have come to; `None` if there is none, or that is
/// not known.
pub(super) fn would_take(evidence: &Evidence) -> Option<&Listener> {
    let arrival = arrival(evidence).filter(|arrival| arrival.confidence != Confidence::Certain)?;
    let peer = evidence.connection.peer.ip();
    let at = |netns: &u64| listeners(evidence).find(|l| l.netns == *netns && fits(l, &arrival, peer));
    let found: Option<Vec<&Listener>> = arrival.namespaces.iter().map(at).collect();
    found?.first().copied().filter(|_| unread(evidence).is_none())
}

/// As `no_listener`, but the port is taken by a listener that does not cover this address.
pub fn bound_elsewhere(evidence: &Evidence) -> Verdict {
    let Some(arrival) = refused_by_an_end(evidence).then(|| arrival(evidence)).flatten() else {
        return Verdict::Healthy;
    };
    if evidence.facts.listeners.is_none() {
        return Verdict::NotEnough(format!("who listens {}", unread(evidence).unwrap_or("is not known")));
    }
    let Some((confidence, listener)) = elsewhere(evidence, &arrival) else { return Verdict::Healthy };
    let peer = evidence.connection.peer;
    let there = netns_phrase(evidence, arrival_netns(&arrival), arrival.place.netns_name.as_deref());
    let same_netns = arrival.namespaces.contains(&listener.netns);
    let listens = format!("{} listens on {}", who(listener), bound_to(evidence, listener, same_netns));
    let reason = mismatch(listener, same_netns, peer.ip());
    let one_family = one_family(listener, peer.ip()).filter(|_| same_netns);
    let limit = one_family.map(|family| format!(" for {family} only")).unwrap_or_default();
    let mut finding = Finding::new(
        confidence,
        place(&arrival),
        "refused",
        format!("nothing listens on {}{there}, but {listens}{limit}", host_port(peer)),
    )
    .explain(format!("{} On this port {listens}, {reason}.", reached(evidence, &arrival)))
    .listener(listener.clone())
    .next("see the address that it listens on", list_command(evidence, &arrival, true));
    finding = match one_family {
        Some("IPv6") => {
            let port = listener.local.port();
            let prefix = arrival_prefix(evidence, &arrival);
            finding
                .next("is that the default there?", format!("{prefix}sysctl net.ipv6.bindv6only"))
                .advise(format!(
                    "let the service take IPv4 too: without IPV6_V6ONLY (nginx: listen [::]:{port} ipv6only=off), or with \
                     a second listener on 0.0.0.0:{port}; or connect to an IPv6 address of this host"
                ))
        }
        Some(_) => finding.advise(format!(
            "let the service listen on [::]:{} (if it is meant to be reached by IPv6), or connect to an IPv4 address \
             of this host",
            listener.local.port()
        )),
        None if same_netns => finding.advise(format!(
            "make the service listen on {} too (if it is meant to be reached there), or connect to {}",
            peer.ip(),
            host_port(listener.local),
        )),
        None => finding
            .next("see the listener in its own namespace", elsewhere_command(evidence, listener))
            .advise(
                "connect to an address of that namespace, or publish the port, if that is the service meant",
            ),
    };
    if confidence == Confidence::Possible {
        finding = finding.or(&["refused.no-listener"]);
    }
    finding.found()
}

fn place(arrival: &Arrival) -> Where {
    Where::new(WhereSide::Local, Stage::Socket).at(&arrival.place).symbol(arrival.symbol)
}

fn arrival_netns(arrival: &Arrival) -> Option<u32> {
    (arrival.place.netns != 0).then_some(arrival.place.netns)
}

fn reached(evidence: &Evidence, arrival: &Arrival) -> String {
    let (what, answer) = match is_udp(evidence) {
        true => ("UDP", "ICMP \"port unreachable\""),
        false => ("TCP", "RST"),
    };
    let request = request(evidence);
    let kernel = match arrival.confidence {
        Confidence::Certain => {
            format!("The {request} reached {what} of this machine, which found no socket for it")
        }
        _ => format!("The address belongs to this machine, and no socket of it takes this {request}"),
    };
    format!("{kernel}; the kernel answered with {answer}. Network and firewall let it through.")
}

/// "nginx[77]", or "a process" where none is known.
fn who(listener: &Listener) -> String {
    listener
        .processes
        .first()
        .map_or_else(|| "a socket".to_owned(), |process| format!("{}[{}]", process.comm, process.pid))
}

/// "127.0.0.1:8080", with what limits it.
fn bound_to(evidence: &Evidence, listener: &Listener, same_netns: bool) -> String {
    let mut text = host_port(listener.local);
    if listener.interface != 0 {
        let links = evidence.facts.links.iter().flatten();
        let own = listener.netns == u64::from(evidence.connection.netns);
        let name =
            links.filter(|_| own).find(|link| link.ifindex == listener.interface).map(|link| &link.name);
        text += &name
            .map_or_else(|| format!(" of interface {}", listener.interface), |name| format!(" of {name}"));
    }
    if !same_netns {
        let netns = u32::try_from(listener.netns).ok();
        text += &match netns_phrase(evidence, netns, listener.netns_name.as_deref()).as_str() {
            "" => " in the client's own network namespace".to_owned(),
            phrase => phrase.to_owned(),
        };
    }
    text
}

/// The one family that a listener on all addresses takes, where it is not that of `address`.
fn one_family(listener: &Listener, address: IpAddr) -> Option<&'static str> {
    let local = listener.local.ip();
    match (local, listener.v6only) {
        _ if !local.is_unspecified() || listener.accepts(address) => None,
        (IpAddr::V4(_), _) => Some("IPv4"),
        (IpAddr::V6(_), Some(true)) => Some("IPv6"),
        (IpAddr::V6(_), _) => None,
    }
}

/// Why this listener does not get the request.
fn mismatch(listener: &Listener, same_netns: bool, address: IpAddr) -> String {
    let (local, address) = (listener.local.ip().to_canonical(), address.to_canonical());
    match () {
        () if !same_netns => {
            "which is another network namespace: sockets there never see it. It may be an unrelated program"
                .into()
        }
        () if one_family(listener, address) == Some("IPv6") => {
            "which is IPv6 only: the socket has the option IPV6_V6ONLY".into()
        }
        () if one_family(listener, address).is_some() => "which is IPv4 only".into(),
        () if local.is_loopback() => "which only this machine itself can reach, by that very address".into(),
        () if local == address || local.is_unspecified() => "but on another interface only".into(),
        () => format!("which does not cover {address}"),
    }
}

/// For a command that must run where the request arrived.
fn arrival_prefix(evidence: &Evidence, arrival: &Arrival) -> String {
    let other = arrival_netns(arrival).is_some_and(|inode| inode != evidence.connection.netns);
    let own = evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref());
    in_netns(if other { arrival.place.netns_name.as_deref() } else { own })
}

fn list_command(evidence: &Evidence, arrival: &Arrival, one_port: bool) -> String {
    let prefix = arrival_prefix(evidence, arrival);
    let command = if is_udp(evidence) { "ss -lunp" } else { "ss -ltnp" };
    match one_port {
        true => format!("{prefix}{command} 'sport = :{}'", evidence.connection.peer.port()),
        false => format!("{prefix}{command}"),
    }
}

fn elsewhere_command(evidence: &Evidence, listener: &Listener) -> String {
    let prefix = match (&listener.netns_name, listener.processes.first()) {
        (Some(name), _) => in_netns(Some(name)),
        (None, Some(process)) => format!("nsenter -t {} -n ", process.pid),
        (None, None) => String::new(),
    };
    let command = if is_udp(evidence) { "ss -lunp" } else { "ss -ltnp" };
    format!("{prefix}{command} 'sport = :{}'", listener.local.port())
}
