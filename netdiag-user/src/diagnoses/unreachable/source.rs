//! Source addresses that may not be used on the way that the packet takes.

use super::failure::{self, Failure};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::routes::RouteAnswer;
use crate::track::What;

/// Drop reasons of Linux 6.13 and later (net/ipv4/route.c ip_route_input_slow, fib_validate_source).
const REASONS: &[&str] = &["IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_LOCALNET"];
/// Where older kernels drop such packets, without a reason of their own.
const INPUT_ROUTING: &[&str] = &["ip_rcv_finish_core", "ip_rcv_finish", "ip_route_input_slow"];

pub(super) fn martian(evidence: &Evidence) -> Verdict {
    let Some(failure) = Failure::of(evidence) else { return Verdict::Healthy };
    match failure {
        Failure::Call { errno, .. } => sending(evidence, failure, errno),
        _ => match failure::stuck(evidence, failure) {
            Some(RouteAnswer::Failed { foreign_source: true, .. }) => address_gone(evidence, failure).found(),
            _ => arriving(evidence, failure),
        },
    }
}

/// The connection's own address was taken away, and with it every route from there.
fn address_gone(evidence: &Evidence, failure: Failure) -> Finding {
    let local = evidence.connection.local.ip().to_canonical();
    let prefix = failure::own_prefix(evidence);
    let at = Where::new(WhereSide::Local, Stage::Route).at(&failure::own_place(evidence, None));
    let cause = format!("{local}, the connection's own address, is no address of this namespace any more");
    Finding::new(Confidence::Likely, at, failure::headline(evidence, failure), cause)
        .explain(format!(
            "A connection keeps the address that it began with. {local} was taken away while the connection was up, so \
             nothing of it can leave, and no answer can arrive. TCP tries again and again, and the application can only \
             wait. New connections use another address and may work."
        ))
        .next("which addresses are there now?", format!("{prefix}ip -br addr"))
        .next("who changes them? Watch it", format!("{prefix}ip -ts monitor address"))
        .advise("a DHCP lease that changed, a VPN that was taken down, a failover of the address? Let the program connect anew")
}

fn sending(evidence: &Evidence, failure: Failure, errno: i32) -> Verdict {
    let local = evidence.connection.local.ip().to_canonical();
    let peer = failure::peer(evidence);
    if !peer.is_ipv4() || local.is_unspecified() || ![libc::EINVAL, libc::ENETUNREACH].contains(&errno) {
        return Verdict::Healthy;
    }
    let (confidence, cause) = match &evidence.facts.route {
        // net/ipv4/route.c __mkroute_output: a loopback source leaves by loopback only.
        _ if local.is_loopback() && !peer.is_loopback() && errno == libc::EINVAL => (
            Confidence::Certain,
            format!("the socket is bound to {local}, which must not leave this machine"),
        ),
        Some(RouteAnswer::Failed { foreign_source: true, .. }) => (
            Confidence::Certain,
            format!("the socket is bound to {local}, which is no address of this namespace"),
        ),
        Some(_) => return Verdict::Healthy,
        None if errno == libc::EINVAL => (
            Confidence::Possible,
            format!("perhaps the source address {local} is not valid on the way to {peer}"),
        ),
        None => return Verdict::Healthy,
    };
    let prefix = failure::own_prefix(evidence);
    let at = Where::new(WhereSide::Local, Stage::Route).at(&failure::own_place(evidence, None));
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause)
        .explain(format!(
            "The program bound its socket to the source address {local} before it connected to {peer}. The kernel refuses \
             to send with that address on that path, and the call failed at once; no packet left."
        ))
        .next("ask the kernel for the route from that address", format!("{prefix}ip route get {peer} from {local}"))
        .next("is it an address of this namespace?", format!("{prefix}ip -br addr"))
        .advise("bind to 0.0.0.0, or let the kernel choose the source address");
    match confidence {
        Confidence::Possible => finding.or(&["unreachable.blackhole-route"]),
        _ => finding,
    }
    .found()
}

fn arriving(evidence: &Evidence, failure: Failure) -> Verdict {
    let found = evidence.drops().find_map(|(_, what)| {
        let What::Dropped { packet, reason, symbol, place, .. } = what else { return None };
        let confidence = if REASONS.contains(&reason.as_str()) {
            Confidence::Certain
        } else if is_old_kernels(reason, symbol.as_deref()) && never_from_outside(packet.tuple.source.ip()) {
            Confidence::Likely
        } else {
            return None;
        };
        Some((confidence, packet, reason, symbol, place))
    });
    let Some((confidence, packet, reason, symbol, place)) = found else { return Verdict::Healthy };
    let (source, destination) = (packet.tuple.source.ip(), packet.tuple.destination.ip());
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let on = place.interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    let prefix = match failure::elsewhere(evidence, place) {
        true => words::in_netns(place.netns_name.as_deref()),
        false => failure::own_prefix(evidence),
    };
    let why = if destination.is_loopback() && !source.is_loopback() {
        format!("{destination} is a loopback address, which may not come in from outside")
    } else if reason == "IP_LOCAL_SOURCE" {
        format!("the receiver holds its source address {source} itself")
    } else {
        format!("its source address {source} may not come in there")
    };
    let at = Where::new(WhereSide::Local, Stage::Route).at(place).symbol(symbol.as_deref());
    let cause = format!("a {} was dropped{on}{there}: {why}", packet.name());
    let finding = Finding::new(confidence, at, failure::headline(evidence, failure), cause).explain(format!(
        "The packet from {source} to {destination} arrived{on}{there} and was dropped without an answer: {why}. Typical \
         causes are two hosts or containers with the same address, or an address translation that lets 127.0.0.0/8 out \
         of a host."
    ));
    let finding = finding
        .next("who has the source address there?", format!("{prefix}ip -br addr"))
        .next("how would an answer go?", format!("{prefix}ip route get {source}"));
    match &place.interface {
        Some(name) => finding.next(
            "see the settings that allow it",
            format!("{prefix}sysctl net.ipv4.conf.{name}.accept_local net.ipv4.conf.{name}.route_localnet"),
        ),
        None => finding,
    }
    .advise("give one of the two hosts another address, or translate to an address of the interface")
    .found()
}

fn is_old_kernels(reason: &str, symbol: Option<&str>) -> bool {
    matches!(reason, "" | "NOT_SPECIFIED") && symbol.is_some_and(|symbol| INPUT_ROUTING.contains(&symbol))
}

fn never_from_outside(source: std::net::IpAddr) -> bool {
    source.is_ipv4() && (source.is_loopback() || source.is_multicast() || source.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::{Case, Drop, here, there};

    const CODE: &str = "unreachable.martian-source";

    #[test]
    fn the_address_of_an_established_connection_goes_away() {
        let (code, finding) = stuck().answer(foreign_source(libc::ENETUNREACH)).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        miss(stuck().answer(via(None)), CODE);
    }

    #[test]
    fn bound_to_loopback() {
        let case = || call(libc::EINVAL).ends("127.0.0.1:0", "10.0.2.2:80");
        let (code, finding) = case().answer(failed(libc::EINVAL, None)).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        miss(case().ends("0.0.0.0:0", "10.0.2.2:80"), CODE);
        miss(call(libc::EINVAL).answer(failed(libc::EINVAL, None)), CODE);
        hit(call(libc::EINVAL), CODE, Confidence::Possible);
    }

    #[test]
    fn bound_to_an_address_that_is_gone() {
        let (code, finding) = call(libc::ENETUNREACH)
            .default_route(false)
            .answer(foreign_source(libc::ENETUNREACH))
            .diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
    }

    #[test]
    fn the_receiver_has_that_address_too() {
        let drop = |reason| Drop::syn(reason, "ip_rcv_finish_core").place(there());
        let (code, finding) = Case::connecting().dropped(1, drop("IP_LOCAL_SOURCE")).diagnosed();
        assert_eq!((code, finding.place.netns_name.as_deref()), (CODE, Some("srv")));
        miss(Case::connecting().dropped(1, drop("NOT_SPECIFIED")), CODE);
        miss(Case::connecting().dropped(1, drop("IP_RPFILTER")), CODE);
        let loopback = Case::connecting()
            .ends("127.0.0.1:40000", "10.0.2.2:80")
            .dropped(1, drop("NOT_SPECIFIED").place(here()));
        hit(loopback, CODE, Confidence::Likely);
    }
}
