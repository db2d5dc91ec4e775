//! Symptom `refused`: the answer was no.

mod backlog;
mod firewall;
mod listener;
mod nat;
mod peer;
mod remote;
mod service;
#[cfg(test)]
mod tests;

use super::{Diagnosis, Evidence};
use crate::probes::{DropRule, protocol};
use crate::track::{Side, What};

pub const ALL: &[Diagnosis] = &[
    Diagnosis {
        code: "refused.no-listener",
        title: "nothing on this machine listens on that port",
        specificity: 50,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/no-listener.md"),
        check: listener::no_listener,
    },
    Diagnosis {
        code: "refused.bound-elsewhere",
        title: "the service listens, but not on the address you connect to",
        specificity: 60,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/bound-elsewhere.md"),
        check: listener::bound_elsewhere,
    },
    Diagnosis {
        code: "refused.peer-no-listener",
        title: "the remote host says that nothing listens there",
        specificity: 20,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/peer-no-listener.md"),
        check: peer::no_listener,
    },
    Diagnosis {
        code: "refused.firewall-reject",
        title: "a firewall on this machine rejects it",
        specificity: 85,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/refused/firewall-reject.md"),
        check: firewall::reject,
    },
    Diagnosis {
        code: "refused.service-no-endpoints",
        title: "the Kubernetes Service has no endpoints",
        specificity: 90,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/refused/service-no-endpoints.md"),
        check: service::no_endpoints,
    },
    Diagnosis {
        code: "refused.remote-firewall-reject",
        title: "a firewall on the way or at the peer rejects it",
        specificity: 40,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/remote-firewall-reject.md"),
        check: remote::reject,
    },
    Diagnosis {
        code: "refused.middlebox-reset",
        title: "somebody on the way resets it in the peer's name",
        specificity: 45,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/middlebox-reset.md"),
        check: remote::middlebox,
    },
    Diagnosis {
        code: "refused.backlog-overflow",
        title: "the accept queue is full and the listener resets new clients",
        specificity: 80,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/refused/backlog-overflow.md"),
        check: backlog::overflow,
    },
];

fn is_udp(evidence: &Evidence) -> bool {
    evidence.connection.protocol == protocol::UDP
}

/// What was sent and refused, for sentences.
fn request(evidence: &Evidence) -> &'static str {
    if is_udp(evidence) { "datagram" } else { "SYN" }
}

/// Whether this end was told ECONNREFUSED, and by something other than a filter of this machine.
fn refused_by_an_end(evidence: &Evidence) -> bool {
    evidence.connection.errno == Some(libc::ECONNREFUSED)
        && evidence.connection.side == Side::Outbound
        && !rejected(evidence)
}

/// Whether a rule of this machine threw the request away after the last time that it met no socket: the
/// answer was then the rule's (REJECT), which looks the same to the client. A rule that is known to drop in silence
/// did not answer.
fn rejected(evidence: &Evidence) -> bool {
    let last = |pick: fn(&str, Option<&DropRule>) -> bool| {
        let of_request = evidence.find(move |what| match what {
            What::Dropped { reason, outgoing: true, rule, .. } => pick(reason, rule.as_deref()).then_some(()),
            _ => None,
        });
        of_request.map(|(time_ns, ())| time_ns).last()
    };
    let filter = last(|reason, rule| {
        reason == "NETFILTER_DROP" && rule.is_none_or(|rule| rule.may_reject() || !rule.basis.is_exact())
    });
    let socket = last(|reason, _| reason == "NO_SOCKET");
    filter.is_some_and(|filter| socket.is_none_or(|socket| socket < filter))
}

/// Whether a RST ended it.
fn was_reset(evidence: &Evidence) -> bool {
    evidence
        .find(|what| match what {
            What::ResetReceived => Some(()),
            What::Wire { packet, outgoing: false, .. } => packet.is_rst().then_some(()),
            _ => None,
        })
        .next()
        .is_some()
}

/// Whether an ICMP error about it came to or from this machine. For TCP, and without a RST, that is a
/// filter's answer: a host without a listener answers with RST (RFC 9293, 3.10.7.1).
fn has_icmp(evidence: &Evidence) -> bool {
    let is_icmp =
        |what: &What| matches!(what, What::IcmpReceived { .. } | What::IcmpSent { outgoing: true, .. });
    evidence.timeline.iter().any(|moment| is_icmp(&moment.what))
}
