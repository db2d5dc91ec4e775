//! The answer came back, and this machine dropped it.

use super::super::rule::{self, Allow};
use super::super::words::how_it_ended;
use super::dropped::{Drop, last_drop};
use super::firewall::{engine, hook_phrase, mend};
use super::{
    Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, connecting, enter, program, syn_acks,
    where_phrase,
};
use crate::enrich::facts::TrackedFact;

/// The peer answered, and this machine dropped the answer.
pub(super) fn reply_dropped(evidence: &Evidence) -> Verdict {
    let connecting = connecting(evidence);
    let drop = last_drop(evidence, false, |drop| {
        !drop.by_reverse_path()
            && !program::explains(evidence, drop)
            && (drop.by_netfilter() || is_fault(drop.reason, connecting))
    })
    // Without its socket, which the application has closed, the answer is only late.
    .filter(|drop| drop.time_ns <= evidence.connection.end_ns || drop.reason != "NO_SOCKET");
    match drop {
        Some(drop) => answer_dropped(evidence, &drop),
        None if connecting => answer_lost(evidence),
        None => Verdict::Healthy,
    }
}

/// Whether a segment of the peer that was dropped for this reason was needed. TCP itself drops duplicates and
/// old segments of a healthy connection; while connecting it has no reason to drop the answer.
fn is_fault(reason: &str, connecting: bool) -> bool {
    const BELOW_TCP: &[&str] = &[
        "TCP_CSUM",
        "IP_CSUM",
        "SKB_CSUM",
        "IP_INHDR",
        "IP_NOPROTO",
        "XFRM_POLICY",
        "OTHERHOST",
        "SOCKET_FILTER",
        "BPF_CGROUP_EGRESS",
        "TC_INGRESS",
        "TC_EGRESS",
        "XDP",
        "QDISC_DROP",
        "QDISC_EGRESS",
        "CPU_BACKLOG",
        "FULL_RING",
        "NOMEM",
    ];
    // These leave nothing to blame on the answer's way: see `unreachable.*`.
    const ROUTING: &[&str] =
        &["NEIGH_FAILED", "NEIGH_QUEUEFULL", "NEIGH_DEAD", "IP_OUTNOROUTES", "IP_INNOROUTES"];
    BELOW_TCP.contains(&reason)
        || reason.starts_with("TCP_MD5")
        || reason.starts_with("TCP_AO")
        || (connecting && !ROUTING.contains(&reason) && !matches!(reason, "" | "NOT_SPECIFIED"))
}

/// Where a packet of this fate was, and what the reason means.
fn meaning(drop: &Drop) -> (Stage, &'static str) {
    match drop.reason {
        _ if drop.by_netfilter() => (
            Stage::Netfilter,
            "Usual causes are a rule that drops packets which connection tracking calls invalid, or an \
             input policy without an accept for established connections.",
        ),
        "TCP_CSUM" | "IP_CSUM" | "SKB_CSUM" => (
            Stage::Tcp,
            "Its checksum is wrong: it was damaged on the way, or a driver or tunnel handles checksum \
             offloading wrongly.",
        ),
        "XFRM_POLICY" => (Stage::Route, "An IPsec policy demands encryption, and it came in clear."),
        "OTHERHOST" => (Stage::Device, "Its frame carries another machine's MAC address."),
        "TC_INGRESS" | "TC_EGRESS" => (Stage::Tc, "A tc filter or program dropped it."),
        "XDP" => (Stage::Xdp, "An XDP program dropped it."),
        "QDISC_DROP" | "QDISC_EGRESS" => (Stage::Qdisc, "The queue of an interface dropped it."),
        "SOCKET_FILTER" => (Stage::Socket, "A filter that is attached to the socket rejected it."),
        "BPF_CGROUP_EGRESS" => (Stage::CgroupBpf, "A BPF program of the control group rejected it."),
        "NO_SOCKET" => (
            Stage::Socket,
            "No socket was found for it although the application still waited: its addresses, or the \
             interface or VRF that it came in on, do not fit the socket.",
        ),
        reason if reason.starts_with("TCP_MD5") || reason.starts_with("TCP_AO") => {
            (Stage::Tcp, "Its TCP signature is missing or wrong.")
        }
        _ => (Stage::Tcp, "The reason is the kernel's own word for it."),
    }
}

fn answer_dropped(evidence: &Evidence, drop: &Drop) -> Verdict {
    let there = where_phrase(evidence, drop.place);
    let (stage, meaning) = meaning(drop);
    let why = if drop.by_netfilter() {
        format!("a local firewall{}", hook_phrase(drop))
    } else {
        drop.reason.to_owned()
    };
    let mut finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, stage).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("this machine dropped {}{there}: {why}", drop.what()),
    )
    .explain(format!(
        "The peer {} answered, and this machine{there} dropped {} before the application's socket could use \
         it. {meaning} The network and the peer are innocent.",
        evidence.connection.peer,
        drop.what(),
    ) + &drop.rule.map(|rule| format!(" {}", rule::sentence(rule))).unwrap_or_default()
        + &why_invalid(evidence, drop).map(|why| format!(" {why}")).unwrap_or_default());
    let ns = enter(evidence, drop.place);
    let peer = evidence.connection.peer;
    let interface = drop.place.interface.as_deref().filter(|name| !name.is_empty()).unwrap_or("any");
    if drop.by_netfilter() {
        finding = finding.firewall(rule::fact(engine(drop).0, drop.hook, drop.rule));
        let advice = "accept `ct state established,related` early in that chain";
        finding = mend(finding, evidence, drop, Allow::Answers, advice.to_owned());
    } else if drop.reason.ends_with("_CSUM") && interface != "any" {
        finding = finding.next(
            "switch receive checksum offloading off and try again",
            format!("{ns}ethtool -K {interface} rx off"),
        );
    } else if drop.reason == "XFRM_POLICY" {
        finding = finding.next("look at the IPsec policies", format!("{ns}ip -s xfrm policy"));
    }
    finding
        .next(
            "see the answer come in",
            format!(
                "{ns}tcpdump -nvvi {interface} 'src host {} and tcp src port {}'",
                peer.ip(),
                peer.port()
            ),
        )
        .found()
}

/// Why connection tracking calls the packet invalid, as far as its table shows it (net/netfilter/
/// nf_conntrack_proto_tcp.c, `nf_conntrack_tcp_packet`).
fn why_invalid(evidence: &Evidence, drop: &Drop) -> Option<String> {
    let about_invalid = drop.rule?.text.as_ref()?.to_ascii_lowercase().contains("invalid");
    let of_place = |fact: &&TrackedFact| fact.netns == u64::from(drop.place.netns);
    let fact = evidence.facts.tracked.iter().rfind(of_place).filter(|_| about_invalid)?;
    if !fact.known {
        return Some(
            "Connection tracking there has no entry for this connection: it did not see the SYN, which took another \
             way or was not tracked (notrack), so the answer belongs to nothing that it knows."
                .to_owned(),
        );
    }
    let state = fact.state.as_ref().map(|state| format!(" ({state})")).unwrap_or_default();
    let seen = format!(
        "Connection tracking there knows this connection{state}, so it is the packet that does not fit: "
    );
    let why = match (fact.checksums, fact.liberal) {
        (Some(false), _) => {
            "its sequence or acknowledgement number is outside of the window (checksums are not looked at)."
        }
        (_, Some(true)) => "its checksum is wrong, or its flags (windows are not looked at).",
        _ => "its sequence or acknowledgement number is outside of the window, or its checksum is wrong.",
    };
    Some(seen + why)
}

/// The answer came to an interface in time, no drop was seen, and the socket still waited.
fn answer_lost(evidence: &Evidence) -> Verdict {
    let end = evidence.connection.end_ns;
    let Some((_, place)) = syn_acks(evidence).filter(|(time, _)| *time <= end).last() else {
        return Verdict::Healthy;
    };
    if last_drop(evidence, false, Drop::by_reverse_path).is_some() {
        return Verdict::Healthy;
    }
    let interface = place.interface.as_deref().unwrap_or("an interface");
    let there = where_phrase(evidence, place);
    let ns = enter(evidence, place);
    Finding::new(
        Confidence::Possible,
        Where::new(WhereSide::Local, Stage::Tcp).at(place),
        how_it_ended(evidence),
        format!("the answer (SYN-ACK) came in on {interface}{there} and never reached the socket"),
    )
    .explain(format!(
        "The peer {} answered in time, and the answer was seen on {interface}{there}. The socket kept \
         waiting, so the answer was lost inside this machine, but no drop was reported.",
        evidence.connection.peer,
    ))
    .next("look for rules that drop", format!("{ns}nft -a list ruleset | grep -nE 'invalid|drop|policy'"))
    .next("do checksum errors rise?", format!("{ns}nstat -az TcpInCsumErrors TcpInErrs"))
    .or(&["timeout.gave-up"])
    .found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, Case, SYN};
    use super::*;
    use crate::probes::{DropRule, TcpState};
    use crate::track::Hook;

    fn waiting() -> Case {
        Case::connecting().syn_again(&[1000]).wire(&[0, 1000]).came(1001, SYN | ACK)
    }

    #[test]
    fn an_answer_that_the_firewall_drops_is_certain() {
        let drop = testing::Drop::syn_ack("NETFILTER_DROP", "nft_do_chain").hook(Hook::Input);
        let (code, finding) = waiting().dropped(1001, drop).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.reply-dropped", Confidence::Certain));
        assert_eq!(finding.cause, "this machine dropped the answer (SYN-ACK): a local firewall (hook input)");
        assert_eq!(finding.firewall.unwrap().hook, Some(Hook::Input));
        assert_eq!(finding.place.stage, Stage::Netfilter);
    }

    #[test]
    fn why_it_is_invalid_is_told_as_far_as_the_table_shows() {
        let told = |known: bool, checksums: Option<bool>, liberal: Option<bool>, text: &str| {
            let rule = DropRule { handle: Some(3), text: Some(text.into()), ..DropRule::default() };
            let drop = testing::Drop::syn_ack("NETFILTER_DROP", "nft_do_chain").hook(Hook::Input).rule(rule);
            let state = known.then(|| "SYN_SENT".to_owned());
            let fact = TrackedFact { netns: testing::CLIENT_NETNS.into(), known, state, checksums, liberal };
            let case = waiting().dropped(1001, drop).with(|e| e.facts.tracked.push(fact));
            case.found("timeout.reply-dropped").explanation
        };
        let invalid = "ct state invalid drop";
        assert!(told(false, None, None, invalid).contains("it did not see the SYN"));
        let seen = told(true, Some(true), Some(false), invalid);
        assert!(seen.contains("(SYN_SENT)") && seen.contains("window, or its checksum"), "{seen}");
        assert!(told(true, Some(false), None, invalid).contains("outside of the window (checksums"));
        assert!(told(true, Some(true), Some(true), invalid).contains("its checksum is wrong, or its flags"));
        assert!(!told(false, None, None, "tcp sport 8080 drop").contains("Connection tracking there"));
    }

    #[test]
    fn a_wrong_checksum_is_named() {
        let (code, finding) =
            waiting().dropped(1001, testing::Drop::syn_ack("TCP_CSUM", "tcp_v4_rcv")).diagnosed();
        assert_eq!((code, finding.place.stage), ("timeout.reply-dropped", Stage::Tcp));
        assert_eq!(finding.firewall, None);
        assert_eq!(finding.next_steps[0].command.as_deref(), Some("ethtool -K eth0 rx off"));
    }

    #[test]
    fn an_answer_that_came_and_was_not_seen_again_is_possible() {
        let (code, finding) = waiting().diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.reply-dropped", Confidence::Possible));
        assert!(finding.alternatives.contains(&"timeout.gave-up"));
    }

    #[test]
    fn late_answers_and_healthy_connections_are_not_it() {
        let late = testing::Drop::syn_ack("NO_SOCKET", "tcp_v4_rcv");
        let case = Case::connecting().syn_again(&[1000]).wire(&[0]).came(5040, SYN | ACK).dropped(5040, late);
        assert_eq!(case.asked("timeout.reply-dropped"), Verdict::Healthy);
        let stray = testing::Drop::syn_ack("TCP_CSUM", "tcp_v4_rcv");
        let healthy = Case::ending(TcpState::LastAck, TcpState::Close).dropped(1, stray);
        assert_eq!(healthy.asked("timeout.reply-dropped"), Verdict::Healthy);
        let rpf = testing::Drop::syn_ack("IP_RPFILTER", "ip_rcv_finish_core");
        assert_eq!(waiting().dropped(1001, rpf).asked("timeout.reply-dropped"), Verdict::Healthy);
    }

    #[test]
    fn tcp_drops_old_segments_of_a_silent_connection_by_itself() {
        let silent = |reason| {
            Case::ending(TcpState::Established, TcpState::FinWait1)
                .data_again(&[4000, 4400])
                .dropped(4400, testing::Drop::syn_ack(reason, "tcp_rcv_established").flags(ACK))
                .asked("timeout.reply-dropped")
        };
        assert_eq!(silent("TCP_OLD_DATA"), Verdict::Healthy);
        assert!(matches!(silent("TCP_CSUM"), Verdict::Found(_)));
    }
}
