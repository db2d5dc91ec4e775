//! Symptom `timeout`: no answer came in time.

mod accept_queue;
mod conntrack;
mod dropped;
mod established;
mod firewall;
mod forwarding;
mod listener;
mod mtu;
mod program;
mod queue;
mod reply;
mod reverse_path;
mod silence;
mod syn_queue;

use std::time::Duration;

pub(super) use syn_queue::syn_queue_full;

use super::words::enter;
use super::{Confidence, Diagnosis, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::probes::{TcpState, protocol};
use crate::track::{End, Place, What};

pub const ALL: &[Diagnosis] = &[
    Diagnosis {
        code: "timeout.conntrack-full",
        title: "the connection tracking table is full",
        specificity: 87,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/conntrack-full.md"),
        check: conntrack::conntrack_full,
    },
    Diagnosis {
        code: "timeout.firewall-drop",
        title: "a firewall on this machine drops the SYN",
        specificity: 85,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/firewall-drop.md"),
        check: firewall::firewall_drop,
    },
    Diagnosis {
        code: "timeout.reverse-path-filter",
        title: "the reverse path filter dropped the packet",
        specificity: 85,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/reverse-path-filter.md"),
        check: reverse_path::reverse_path_filter,
    },
    Diagnosis {
        code: "timeout.bpf-drop",
        title: "a program or filter of tc, XDP or a control group drops the packet",
        specificity: 86,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/bpf-drop.md"),
        check: program::bpf_drop,
    },
    Diagnosis {
        code: "timeout.qdisc-drop",
        title: "the queue of an interface drops the packet",
        specificity: 84,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/qdisc-drop.md"),
        check: queue::qdisc_drop,
    },
    Diagnosis {
        code: "timeout.forwarding-disabled",
        title: "a namespace on the way does not forward packets",
        specificity: 86,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/forwarding-disabled.md"),
        check: forwarding::forwarding_disabled,
    },
    Diagnosis {
        code: "timeout.mtu-blackhole",
        title: "packets too large for a link are lost, and the sender is not told",
        specificity: 83,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/mtu-blackhole.md"),
        check: mtu::mtu_blackhole,
    },
    Diagnosis {
        code: "timeout.reply-dropped",
        title: "the answer came back and this host threw it away",
        specificity: 80,
        needs: &["inet_sock_set_state", "kfree_skb"],
        page: include_str!("../pages/timeout/reply-dropped.md"),
        check: reply::reply_dropped,
    },
    Diagnosis {
        code: "timeout.accept-queue-full",
        title: "the service does not accept fast enough",
        specificity: 75,
        needs: &["inet_sock_set_state", "tcp_retransmit_skb"],
        page: include_str!("../pages/timeout/accept-queue-full.md"),
        check: accept_queue::accept_queue_full,
    },
    Diagnosis {
        code: "timeout.syn-queue-full",
        title: "too many half-open connections, and SYN cookies are off",
        specificity: 74,
        needs: &["inet_sock_set_state", "tcp_retransmit_skb"],
        page: include_str!("../pages/timeout/syn-queue-full.md"),
        check: syn_queue::syn_queue_full,
    },
    Diagnosis {
        code: "timeout.user-timeout",
        title: "TCP_USER_TIMEOUT ran out",
        specificity: 60,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/timeout/user-timeout.md"),
        check: established::user_timeout,
    },
    Diagnosis {
        code: "timeout.keepalive",
        title: "the peer did not answer the keepalive probes",
        specificity: 50,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/timeout/keepalive.md"),
        check: established::keepalive,
    },
    Diagnosis {
        code: "timeout.peer-vanished",
        title: "an established connection went silent",
        specificity: 40,
        needs: &["inet_sock_set_state", "tcp_retransmit_skb"],
        page: include_str!("../pages/timeout/peer-vanished.md"),
        check: established::peer_vanished,
    },
    Diagnosis {
        code: "timeout.no-reply",
        title: "the SYN left this machine and nothing came back",
        specificity: 10,
        needs: &["inet_sock_set_state", "tcp_retransmit_skb"],
        page: include_str!("../pages/timeout/no-reply.md"),
        check: silence::no_reply,
    },
    Diagnosis {
        code: "timeout.gave-up",
        title: "the application stopped waiting before the network could answer",
        specificity: 5,
        needs: &["inet_sock_set_state"],
        page: include_str!("../pages/timeout/gave-up.md"),
        check: silence::gave_up,
    },
];

/// The kernel reported ETIMEDOUT, or the application got no error and left by itself.
fn no_other_error(evidence: &Evidence) -> bool {
    matches!(evidence.connection.errno, None | Some(libc::ETIMEDOUT))
}

/// Ended in SYN_SENT, for want of an answer or of patience.
fn connecting(evidence: &Evidence) -> bool {
    evidence.connection.protocol == protocol::TCP
        && evidence.connection.died_connecting()
        && no_other_error(evidence)
        && !told_unreachable(evidence)
}

/// Established, and then what was sent went unanswered: until the kernel's ETIMEDOUT, or until the
/// application closed it in the middle of retransmissions.
fn went_silent(evidence: &Evidence) -> bool {
    let connection = &evidence.connection;
    let abandoned = connection.end == End::State { from: TcpState::Established, to: TcpState::FinWait1 }
        && connection.errno.is_none()
        && (connection.tcp.retransmits.is_some_and(|count| count > 0) || window_probes(evidence).is_some());
    connection.protocol == protocol::TCP
        && (abandoned || killed_established(evidence))
        && (!told_unreachable(evidence) || told_only_of_ports(evidence))
}

/// A rule rejects, in words that would refuse a new connection and that an established one only notes: no other symptom
/// has it.
fn told_only_of_ports(evidence: &Evidence) -> bool {
    let ipv4 = evidence.connection.peer.ip().to_canonical().is_ipv4();
    let port = |icmp_type: u8, code: u8| {
        if ipv4 { (icmp_type, code) == (3, 3) } else { (icmp_type, code) == (1, 4) }
    };
    evidence.connection.soft_errno.is_none_or(|errno| errno == libc::ECONNREFUSED)
        && evidence.timeline.iter().all(|moment| match &moment.what {
            What::IcmpReceived { packet, .. } => port(packet.flags, packet.code),
            What::IcmpSent { outgoing: true, icmp_type, icmp_code, .. } => port(*icmp_type, *icmp_code),
            What::NeighbourFailed { .. } => false,
            _ => true,
        })
}

/// How many probes went unanswered while data waited for the peer's window, or for a packet that could be sent.
fn window_probes(evidence: &Evidence) -> Option<u8> {
    let tcp = &evidence.connection.tcp;
    tcp.probes_out.filter(|probes| *probes > 0 && tcp.unacked.is_some_and(|bytes| bytes > 0))
}

/// Established, and ended by the kernel with ETIMEDOUT.
fn killed_established(evidence: &Evidence) -> bool {
    evidence.connection.was_established() && evidence.connection.errno == Some(libc::ETIMEDOUT)
}

/// Somebody said why: that is `unreachable.*`, whatever errno the application ended up with.
fn told_unreachable(evidence: &Evidence) -> bool {
    evidence.connection.soft_errno.is_some_and(|errno| errno != libc::ETIMEDOUT)
        || evidence.timeline.iter().any(|moment| match &moment.what {
            What::IcmpReceived { packet, .. } => {
                !too_big(packet.tuple.protocol == protocol::ICMP, packet.flags, packet.code)
            }
            What::IcmpSent { outgoing: true, icmp_type, icmp_code, .. } => {
                !too_big(evidence.connection.peer.is_ipv4(), *icmp_type, *icmp_code)
            }
            What::NeighbourFailed { .. } => true,
            _ => false,
        })
}

/// Path MTU discovery: RFC 1191 and RFC 4443. Ordinary life, and no reason for silence by itself.
fn too_big(ipv4: bool, icmp_type: u8, icmp_code: u8) -> bool {
    if ipv4 { (icmp_type, icmp_code) == (3, 4) } else { icmp_type == 2 }
}

/// How often the SYN was sent again; `None` where no retransmission could have been seen.
fn syns_again(evidence: &Evidence) -> Option<usize> {
    let seen = evidence.syn_retransmits();
    let counted = evidence.connection.tcp.retransmits.map(usize::from);
    let blind = seen == 0 && evidence.coverage.missing.iter().any(|name| name == "tcp_retransmit_skb");
    match counted {
        Some(counted) => Some(seen.max(counted)),
        None if blind => None,
        None => Some(seen),
    }
}

/// An answer to the SYN that arrived on an interface of this machine: when, and where.
fn syn_acks(evidence: &Evidence) -> impl Iterator<Item = (u64, &Place)> {
    evidence.answers_on_wire().filter_map(|(time, what)| match what {
        What::Wire { packet, place, .. } if packet.is_syn_ack() => Some((time, place)),
        _ => None,
    })
}

/// "SYN", "2 SYNs".
fn syns(count: usize) -> String {
    if count == 1 { "1 SYN".into() } else { format!("{count} SYNs") }
}

/// The program's name, to begin or continue a sentence.
fn who(evidence: &Evidence) -> &str {
    evidence.connection.owner.as_ref().map_or("the application", |owner| owner.comm.as_str())
}

fn between(from_ns: u64, to_ns: u64) -> Duration {
    Duration::from_nanos(to_ns.saturating_sub(from_ns))
}

/// " in network namespace web" where `place` is in another than this connection's own.
fn where_phrase(evidence: &Evidence, place: &Place) -> String {
    words::netns_phrase(evidence, Some(place.netns).filter(|inode| *inode != 0), place.netns_name.as_deref())
}

/// What makes a shell command run in this connection's own namespace.
fn own_netns(evidence: &Evidence) -> String {
    words::in_netns(evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ACK, Case, SYN};
    use super::*;

    #[test]
    fn connections_that_end_well_are_healthy() {
        use TcpState::{Close, FinWait2, LastAck};
        for from in [FinWait2, LastAck] {
            Case::ending(from, Close).wire(&[0]).came(1, SYN | ACK).healthy("timeout");
            // Loss that was repaired, long ago.
            Case::ending(from, Close)
                .data_again(&[500, 700])
                .tcp(|tcp| (tcp.retransmits, tcp.unacked) = (Some(0), Some(0)))
                .healthy("timeout");
        }
    }

    #[test]
    fn other_errors_belong_to_other_symptoms() {
        for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ECONNRESET] {
            Case::connecting().errno(errno).syn_again(&[1000]).wire(&[0, 1000]).healthy("timeout");
        }
    }

    #[test]
    fn an_icmp_error_belongs_to_unreachable() {
        Case::connecting().syn_again(&[1000]).wire(&[0, 1000]).icmp(1, 3, 1).healthy("timeout");
        Case::connecting()
            .syn_again(&[1000])
            .with(|e| e.connection.soft_errno = Some(libc::EHOSTUNREACH))
            .healthy("timeout");
    }

    #[test]
    fn other_protocols_are_not_asked() {
        Case::connecting()
            .syn_again(&[1000])
            .with(|e| e.connection.protocol = protocol::UDP)
            .healthy("timeout");
    }

    #[test]
    fn every_alternative_is_in_the_catalogue() {
        let source = [
            include_str!("conntrack.rs"),
            include_str!("established.rs"),
            include_str!("firewall.rs"),
            include_str!("forwarding.rs"),
            include_str!("listener.rs"),
            include_str!("program.rs"),
            include_str!("queue.rs"),
            include_str!("reply.rs"),
            include_str!("reverse_path.rs"),
            include_str!("silence.rs"),
        ]
        .concat();
        for code in source.split('"').filter(|text| text.starts_with("timeout.") && !text.contains(' ')) {
            assert!(super::super::find(code).is_some(), "{code}");
        }
    }
}
