//! Link-local addresses without the interface that they belong to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::failure;
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::enrich::links::Link;
use crate::probes::Call;
use crate::track::End;

/// net/ipv6/tcp_ipv6.c `tcp_v6_connect`, net/ipv6/datagram.c `__ip6_datagram_connect`, net/ipv6/af_inet6.c
/// `__inet6_bind`: EINVAL, if neither the address nor the socket names an interface. An address that does is noted in
/// `sk_bound_dev_if` before anything else can fail.
pub(super) fn missing(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let (call, address) = match connection.end {
        End::CallFailed { call: call @ Call::Connect } => (call, connection.peer),
        End::CallFailed { call: call @ Call::Bind } => (call, connection.local),
        _ => return Verdict::Healthy,
    };
    let IpAddr::V6(host) = address.ip() else { return Verdict::Healthy };
    let without = connection.errno == Some(libc::EINVAL) && connection.bound_interface.is_none();
    if !without || !host.is_unicast_link_local() {
        return Verdict::Healthy;
    }
    let prefix = failure::own_prefix(evidence);
    let at = Where::new(WhereSide::Local, Stage::Socket).at(&failure::own_place(evidence, None));
    let cause = format!("{host} is a link-local address, and the interface that it belongs to is missing");
    let headline = format!("invalid argument ({call}: {})", words::errno_name(libc::EINVAL));
    let interface = interface(evidence, host, call);
    let name = interface.unwrap_or("INTERFACE");
    let finding = Finding::new(Confidence::Certain, at, headline, cause).explain(format!(
        "Every interface has the network fe80::/10 for itself, so {host} alone does not say where it is. The kernel wants the \
         interface with it (sin6_scope_id; written as {host}%{name}), and refused the call before any packet was made."
    ));
    let finding = match call {
        Call::Bind => {
            finding.next("on which interface is it?", format!("{prefix}ip -6 -br addr show scope link"))
        }
        _ => finding
            .next("on which interfaces is the network?", format!("{prefix}ip -6 -br addr show scope link"))
            .next("is it there?", format!("{prefix}ping -c 3 {host}%{name}")),
    };
    let full = SocketAddr::new(address.ip(), address.port()).to_string().replace(']', &format!("%{name}]"));
    finding
        .advise(format!(
            "give the program the address with its interface, {full}, or one that is valid beyond the link; names in \
             /etc/hosts and the DNS lose the interface"
        ))
        .found()
}

/// The interface that has the address, or the only one that it can be on.
fn interface(evidence: &Evidence, host: Ipv6Addr, call: Call) -> Option<&str> {
    let links = evidence.facts.links.as_deref().unwrap_or_default();
    let addresses = |link: &&Link, wanted: &dyn Fn(&Ipv6Addr) -> bool| {
        link.addresses.iter().any(|(address, _)| matches!(address, IpAddr::V6(own) if wanted(own)))
    };
    let own = links.iter().find(|link| addresses(link, &|own| *own == host));
    let mut able = links
        .iter()
        .filter(|link| failure::usable(link) && addresses(link, &Ipv6Addr::is_unicast_link_local));
    let only = match (able.next(), able.next()) {
        (Some(only), None) if call == Call::Connect => Some(only),
        _ => None,
    };
    own.or(only).map(|link| link.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::diagnoses::testing::Case;

    const CODE: &str = "unreachable.scope-missing";

    fn link_local() -> Case {
        call(libc::EINVAL).ends("[::]:0", "[fe80::1]:80")
    }

    #[test]
    fn a_link_local_address_alone() {
        let (code, finding) = link_local().diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert!(finding.explanation.contains("fe80::1%INTERFACE"), "{}", finding.explanation);
        let one = link_local().link(lo(true, &[("::1", 128)])).link(eth0(true, None, &[("fe80::2", 64)]));
        let finding = hit(one, CODE, Confidence::Certain);
        assert!(
            finding.next_steps.iter().any(|step| step.text.contains("[fe80::1%eth0]:80")),
            "{finding:#?}"
        );
    }

    #[test]
    fn a_listener_at_one() {
        let bind = link_local().ends("[fe80::2]:80", "[::]:0").with(|e| {
            e.connection.end = End::CallFailed { call: Call::Bind };
        });
        hit(bind.link(eth0(true, None, &[("fe80::2", 64)])), CODE, Confidence::Certain);
    }

    #[test]
    fn with_an_interface_or_no_need_of_one() {
        miss(link_local().with(|e| e.connection.bound_interface = Some(2)), CODE);
        miss(call(libc::EINVAL).ends("[::]:0", "[2001:db8::1]:80"), CODE);
        miss(call(libc::EINVAL), CODE);
        miss(call(libc::ENETUNREACH).ends("[::]:0", "[fe80::1]:80"), CODE);
        miss(connecting(libc::EHOSTUNREACH).ends("[fe80::2]:0", "[fe80::1]:80"), CODE);
    }
}
