//! The ICMP error that says why: who sent it, and for what.

use std::net::IpAddr;

use crate::diagnoses::Evidence;
use crate::diagnoses::unreachable::failure::{self, Failure};
use crate::probes::{DropRule, Packet, protocol};
use crate::track::{Hook, Place, What};

/// An error and the drop that brought it lie no further apart.
const AT_ONCE_NS: u64 = 20_000_000;

/// What an ICMP error means to this symptom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Unreachable,
    Prohibited,
}

/// The sense of an error (RFC 792, RFC 1812 5.2.7.1, RFC 4443); port unreachable belongs to `refused`.
fn meaning(v4: bool, icmp_type: u8, code: u8) -> Option<(Class, &'static str)> {
    use Class::{Prohibited, Unreachable};
    Some(match (v4, icmp_type, code) {
        (true, 3, 0 | 6 | 11) | (false, 1, 0) => (Unreachable, "it has no route to that network"),
        (true, 3, 1 | 7 | 8 | 12) | (false, 1, 3) => {
            (Unreachable, "the host does not answer it on the last link")
        }
        (true, 3, 2) => (Unreachable, "the host does not speak that protocol"),
        (true, 3, 5) => (Unreachable, "the source route failed"),
        (false, 1, 2) => (Unreachable, "the source address does not reach as far as the destination"),
        (true, 11, 0) | (false, 3, 0) => {
            (Unreachable, "the packet's time to live ran out, mostly for a routing loop")
        }
        (true, 3, 9 | 10 | 13 | 14 | 15) | (false, 1, 1) => (Prohibited, "a policy forbids it"),
        (false, 1, 5) => (Prohibited, "a policy forbids that source address"),
        (false, 1, 6) => (Prohibited, "it has a route that rejects the destination"),
        _ => return None,
    })
}

/// An ICMP error about this connection.
pub(super) struct Told<'a> {
    pub class: Class,
    pub meaning: &'static str,
    pub icmp_type: u8,
    pub code: u8,
    /// Address of the sender, where the packet was seen.
    pub sender: Option<IpAddr>,
    /// Where on this machine it was made.
    pub made: Option<&'a Place>,
    /// Where it arrived.
    pub arrived: Option<&'a Place>,
    /// The firewall of this machine rejected the packet.
    pub firewall: Option<Rejected<'a>>,
}

/// What is known of the firewall's drop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rejected<'a> {
    pub hook: Option<Hook>,
    pub packet: &'a Packet,
    pub rule: Option<&'a DropRule>,
}

/// The error that was seen. The kernel of this host says "host unreachable" to itself where a neighbour does not
/// answer: that is the neighbour's business.
pub(super) fn told(evidence: &Evidence) -> Option<Told<'_>> {
    let v4 = failure::peer(evidence).is_ipv4();
    let mut made = None;
    let mut arrived = None;
    for moment in &evidence.timeline {
        match &moment.what {
            What::IcmpSent { icmp_type, icmp_code, outgoing: true, place } if made.is_none() => {
                let own_neighbour =
                    !failure::elsewhere(evidence, place) && (*icmp_type, *icmp_code) == (3, 1);
                made = meaning(v4, *icmp_type, *icmp_code)
                    .filter(|_| !own_neighbour || rejected(evidence, place).is_some())
                    .map(|sense| (sense, *icmp_type, *icmp_code, place));
            }
            What::IcmpReceived { packet, place } if arrived.is_none() => {
                let v4 = packet.tuple.protocol == protocol::ICMP;
                let sender = packet.tuple.source.ip();
                arrived = meaning(v4, packet.flags, packet.code)
                    .filter(|_| sender != evidence.connection.local.ip())
                    .map(|sense| (sense, packet.flags, packet.code, sender, place, moment.time_ns));
            }
            _ => {}
        }
    }
    if made.is_none()
        && let Some((sense, icmp_type, code, .., time_ns)) = arrived
    {
        made = dropped_before(evidence, time_ns).map(|place| (sense, icmp_type, code, place));
    }
    let sender = arrived.map(|(_, _, _, sender, ..)| sender);
    if let Some(((class, meaning), icmp_type, code, place)) = made {
        let firewall = rejected(evidence, place);
        return Some(Told {
            class,
            meaning,
            icmp_type,
            code,
            sender,
            made: Some(place),
            arrived: None,
            firewall,
        });
    }
    let ((class, meaning), icmp_type, code, sender, place, _) = arrived?;
    let sender = Some(sender);
    Some(Told { class, meaning, icmp_type, code, sender, made: None, arrived: Some(place), firewall: None })
}

/// ICMPv6 has no tracepoint where an error is sent (net/ipv6/icmp.c icmp6_send). If another namespace of this
/// machine dropped the packet right before the error arrived, it is the one that sent it.
fn dropped_before(evidence: &Evidence, arrived_ns: u64) -> Option<&Place> {
    evidence.drops().filter(|(time_ns, _)| (*time_ns..=*time_ns + AT_ONCE_NS).contains(&arrived_ns)).find_map(
        |(_, what)| match what {
            What::Dropped { reason, outgoing: true, place, .. }
                if matches!(reason.as_str(), "IP_INNOROUTES" | "NETFILTER_DROP")
                    && failure::elsewhere(evidence, place) =>
            {
                Some(place)
            }
            _ => None,
        },
    )
}

/// The firewall's drop that goes with a REJECT.
fn rejected<'a>(evidence: &'a Evidence, made: &Place) -> Option<Rejected<'a>> {
    evidence.drops().find_map(|(_, what)| match what {
        What::Dropped { packet, reason, outgoing: true, hook, place, rule, .. }
            if reason == "NETFILTER_DROP" && (place.netns == made.netns || made.netns == 0) =>
        {
            Some(Rejected { hook: *hook, packet, rule: rule.as_deref() })
        }
        _ => None,
    })
}

/// The error came right after the connection's own namespace dropped the packet by a rule that answers. Where an ICMP
/// error is sent has no tracepoint for IPv6, nor on older kernels (net/ipv6/icmp.c icmp6_send), and this one is on no wire.
pub(super) fn own_reject(evidence: &Evidence, failure: Failure) -> Option<(Class, Rejected<'_>, &Place)> {
    let v6 = failure::peer(evidence).is_ipv6();
    let class = match failure.late_errno(evidence)? {
        libc::EACCES if v6 => Class::Prohibited,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENONET | libc::ENOPROTOOPT => {
            Class::Unreachable
        }
        _ => return None,
    };
    let own = evidence.filtered_at_end(AT_ONCE_NS).filter_map(|what| match what {
        What::Dropped { packet, hook, place, rule: Some(rule), .. }
            if rule.candidates().any(|rule| rule.rejects) && !failure::elsewhere(evidence, place) =>
        {
            Some((class, Rejected { hook: *hook, packet, rule: Some(&**rule) }, place))
        }
        _ => None,
    });
    own.last()
}
