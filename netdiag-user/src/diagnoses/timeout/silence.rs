//! No answer to the SYN, and nothing on this machine that explains it.

use super::super::words::{duration, how_it_ended, in_netns};
use super::{
    Confidence, Evidence, Finding, Place, Stage, Verdict, What, Where, WhereSide, between, connecting,
    own_netns, syn_acks, syns, syns_again, who,
};
use crate::enrich::droppers::{BpfProgram, Spot};

/// The initial retransmission timeout, RFC 6298 section 2.
const FIRST_RETRANSMISSION_NS: u64 = 1_000_000_000;

/// The SYN left an interface more than once, and nothing returned.
pub(super) fn no_reply(evidence: &Evidence) -> Verdict {
    if !connecting(evidence) {
        return Verdict::Healthy;
    }
    let again = match syns_again(evidence) {
        Some(again) => again,
        None if evidence.connection.duration().as_nanos() >= FIRST_RETRANSMISSION_NS.into() => 1,
        None => 0,
    };
    // Whatever came back in whatever way: it was not silence.
    if (again == 0 && evidence.connection.errno.is_none())
        || evidence.answers_on_wire().next().is_some()
        || answer_dropped(evidence)
    {
        return Verdict::Healthy;
    }
    if let Some(reason) = syn_dropped(evidence) {
        return Verdict::NotEnough(format!("this machine itself dropped the SYN ({reason})"));
    }
    if evidence.find(|w| matches!(w, What::RouteFailed { .. }).then_some(())).next().is_some() {
        return Verdict::NotEnough("a route lookup for the SYN failed on this machine".into());
    }
    if evidence.peer_is_local() == Some(true) {
        return no_reply_of_this_machine(evidence, again);
    }

    let last_seen = evidence.syns_on_wire().last().and_then(|(_, what)| match what {
        What::Wire { place, .. } => Some(place),
        _ => None,
    });
    let watched = evidence.coverage.wire || evidence.coverage.wire_since_suspect;
    let drops_visible = !evidence.coverage.missing.iter().any(|name| name == "kfree_skb");
    let remote = evidence.peer_is_local() == Some(false);
    let xdp = native_xdp(evidence);
    let sure = xdp.is_none()
        && watched
        && last_seen.is_some()
        && drops_visible
        && remote
        && evidence.coverage.lost_events == 0;

    let peer = evidence.connection.peer;
    let sent = syns(again + 1);
    let mut place = Where::new(WhereSide::Unknown, Stage::Remote);
    if let Some(seen) = last_seen {
        place = place.at(seen);
    }
    let via = last_seen.and_then(|seen| seen.interface.as_deref());
    let cause = match (via, watched) {
        (Some(via), _) => format!("the SYN left through {via}, and nothing came back"),
        (None, true) => "the SYN was not seen leaving, and nothing came back".to_owned(),
        (None, false) => "no answer to the SYN was seen".to_owned(),
    };
    let mut explanation = format!(
        "This machine sent {sent} to {peer} and got no answer of any kind: no acceptance, no refusal, no \
         ICMP error. "
    );
    explanation.push_str(match (sure, via.is_some()) {
        (true, _) => {
            "It was the network or the other end that stayed silent: a firewall or security group that \
             drops, a host that is off, or an answer that is lost on its way back. A closed port would have \
             been refused at once."
        }
        (false, true) => {
            "The SYN did leave this machine, but not everything here could be seen, so the cause may also \
             be here."
        }
        (false, false) => {
            "Whether the SYN left this machine was not seen, so a drop on this machine is possible as well."
        }
    });
    if let Some((interface, program)) = &xdp {
        explanation.push_str(&format!(
            " The XDP program {program} sees what comes in by {interface} before anything else does, and of what it \
             drops there the kernel tells nothing."
        ));
    }
    let ns = own_netns(evidence);
    let (address, port) = (peer.ip(), peer.port());
    let finding = Finding::new(
        if sure { Confidence::Likely } else { Confidence::Possible },
        place,
        how_it_ended(evidence),
        cause,
    )
    .explain(explanation)
    .advise(format!(
        "allow TCP port {port} in the firewalls and security groups between the two, and check that \
         {address} is up"
    ))
    .next("see how far TCP to this port gets", format!("{ns}traceroute -T -p {port} {address}"))
    .next("is it the whole host or only this port?", format!("{ns}ping -c 3 {address}"))
    .next(
        "watch the SYN leave and wait for any answer (on the peer too, if you can)",
        format!("{ns}tcpdump -ni any 'host {address} and (tcp port {port} or icmp or icmp6)'"),
    )
    .next("check the way it takes", format!("{ns}ip route get {address}"));
    let finding = if xdp.is_some() { finding.or(&["timeout.bpf-drop"]) } else { finding };
    match (sure, remote) {
        (true, _) => finding,
        (false, true) => finding.or(&["timeout.firewall-drop", "timeout.reply-dropped"]),
        (false, false) => {
            finding.or(&["timeout.accept-queue-full", "timeout.firewall-drop", "timeout.reply-dropped"])
        }
    }
    .found()
}

/// The peer is on this machine and no drop was seen: a listener's full queue leaves just that trace.
fn no_reply_of_this_machine(evidence: &Evidence, again: usize) -> Verdict {
    let peer = evidence.connection.peer;
    let there = evidence.facts.peer_namespaces.iter().flatten().next();
    let ns = in_netns(there.and_then(|netns| netns.name.as_deref()));
    let mut place = Where::new(WhereSide::Local, Stage::Tcp);
    if let Some(there) = there {
        place =
            place.at(&Place { netns: there.inode as u32, netns_name: there.name.clone(), interface: None });
    }
    Finding::new(
        Confidence::Possible,
        place,
        how_it_ended(evidence),
        format!("nothing on this machine answered the SYN for {peer}"),
    )
    .explain(format!(
        "The address {} belongs to this machine. {} went unanswered and no drop was reported, which is how \
         a listener with a full queue behaves: the kernel discards the SYN without a trace.",
        peer.ip(),
        syns(again + 1),
    ))
    .next(
        "compare Recv-Q (waiting) with Send-Q (limit) of the listener",
        format!("{ns}ss -ltnp 'sport = :{}'", peer.port()),
    )
    .next(
        "run it twice: does a counter rise?",
        format!("{ns}nstat -az TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDrop"),
    )
    .next("look for rules that drop", format!("{ns}nft -a list ruleset"))
    .or(&["timeout.accept-queue-full", "timeout.syn-queue-full", "timeout.firewall-drop"])
    .found()
}

/// Interface and name of a program that drops answers without a trace, if there is one.
fn native_xdp(evidence: &Evidence) -> Option<(String, String)> {
    let on_card = |program: &&BpfProgram| !program.attached.contains("generic");
    evidence.facts.droppers.iter().filter(|there| there.spot == Spot::Xdp).find_map(|there| {
        let program = there.programs.iter().find(on_card)?;
        Some((there.interface.clone()?, program.label()))
    })
}

/// Reason of the first SYN of this connection that this machine dropped.
fn syn_dropped(evidence: &Evidence) -> Option<&str> {
    evidence.drops().find_map(|(_, what)| match what {
        What::Dropped { packet, outgoing: true, reason, .. } if packet.is_syn() => Some(reason.as_str()),
        _ => None,
    })
}

fn answer_dropped(evidence: &Evidence) -> bool {
    evidence.drops().any(|(_, what)| {
        let What::Dropped { packet, outgoing: false, .. } = what else { return false };
        packet.is_syn_ack() || packet.is_rst()
    })
}

/// The application left before anything was overdue, or just before the answer came.
pub(super) fn gave_up(evidence: &Evidence) -> Verdict {
    if !connecting(evidence) || evidence.connection.errno.is_some() {
        return Verdict::Healthy;
    }
    let end = evidence.connection.end_ns;
    let late = late_answer(evidence);
    let again = syns_again(evidence);
    let (confidence, cause) = match (late, again) {
        (Some(late), _) => (
            Confidence::Certain,
            format!("the answer came {} after {} had left", duration(between(end, late)), who(evidence)),
        ),
        (None, Some(0)) => {
            let early = syn_acks(evidence).any(|(time, _)| time <= end);
            if early || answer_dropped(evidence) {
                return Verdict::Healthy;
            }
            if let Some(reason) = syn_dropped(evidence) {
                return Verdict::NotEnough(format!("this machine itself dropped the SYN ({reason})"));
            }
            let seen = evidence.coverage.wire && evidence.syns_on_wire().next().is_some();
            let whole = evidence.coverage.lost_events == 0
                && evidence.connection.duration().as_nanos() < u128::from(FIRST_RETRANSMISSION_NS);
            // Its own cause, if that was for this packet.
            let routed = !evidence.timeline.iter().any(|m| matches!(m.what, What::RouteFailed { .. }));
            let confidence = if seen && whole && routed { Confidence::Likely } else { Confidence::Possible };
            (confidence, format!("{} left before the first retransmission of the SYN", who(evidence)))
        }
        (None, Some(_)) => return Verdict::Healthy,
        (None, None) => {
            return Verdict::NotEnough("retransmissions of the SYN cannot be seen on this kernel".into());
        }
    };
    let waited = duration(evidence.connection.duration());
    let sent = syns(again.unwrap_or(0) + 1);
    let peer = evidence.connection.peer;
    let ns = own_netns(evidence);
    let leaving = match &evidence.connection.closer {
        Some(closer) if closer.exiting => format!("{} ended", closer.comm),
        _ => format!("{} closed the socket", who(evidence)),
    };
    let mut explanation = format!(
        "{leaving} after {waited} and {sent}; the kernel had reported no error, so the time limit is the \
         application's own. "
    );
    explanation.push_str(if late.is_some() {
        "The peer did answer, only later than that: it or the path is slow, or the limit is too short."
    } else {
        "A lost SYN is sent again after 1 s at the earliest, so there was not enough time to tell a slow \
         peer from a silent one. It may also have been cancelled on purpose."
    });
    let finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Application),
        how_it_ended(evidence),
        cause,
    )
    .explain(explanation)
    .advise("give connect at least 3 s, so that a lost SYN can be repaired")
    .next("compare the limit with the round-trip time", format!("{ns}ping -c 10 {}", peer.ip()))
    .next("try with patience", format!("{ns}nc -vz -w 20 {} {}", peer.ip(), peer.port()));
    if confidence == Confidence::Possible { finding.or(&["timeout.no-reply"]) } else { finding }.found()
}

/// When the peer's answer came after the application had left: with its socket gone, TCP drops it as
/// NO_SOCKET.
fn late_answer(evidence: &Evidence) -> Option<u64> {
    let end = evidence.connection.end_ns;
    let dropped = evidence.drops().filter_map(|(time, what)| match what {
        What::Dropped { packet, outgoing: false, reason, .. }
            if packet.is_syn_ack() && reason == "NO_SOCKET" =>
        {
            Some(time)
        }
        _ => None,
    });
    syn_acks(evidence).map(|(time, _)| time).chain(dropped).filter(|time| *time > end).min()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, Case, Drop, SYN};
    use super::*;

    fn silent() -> Case {
        Case::connecting().syn_again(&[1000, 3000])
    }

    #[test]
    fn a_syn_that_left_and_silence_is_no_reply() {
        let (code, finding) = silent().wire(&[0, 1000, 3000]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.no-reply", Confidence::Likely));
        assert_eq!(finding.headline, "gave up after 5.0 s");
        assert_eq!(finding.cause, "the SYN left through eth0, and nothing came back");
        assert!(finding.explanation.contains("sent 3 SYNs to 10.0.2.2:8080"), "{}", finding.explanation);
        let (code, finding) = silent().lasted(131_000).errno(libc::ETIMEDOUT).wire(&[0]).diagnosed();
        assert_eq!((code, finding.headline.as_str()), ("timeout.no-reply", "timed out after 2 min 11 s"));
    }

    #[test]
    fn no_reply_is_only_possible_where_something_was_out_of_sight() {
        let unseen = silent().diagnosed();
        assert_eq!((unseen.0, unseen.1.confidence), ("timeout.no-reply", Confidence::Possible));
        assert!(unseen.1.alternatives.contains(&"timeout.firewall-drop"));
        let blind: [fn(&mut Evidence); 3] = [
            |e| e.coverage.lost_events = 3,
            |e| e.coverage.missing.push("kfree_skb".into()),
            |e| e.facts.peer_namespaces = None,
        ];
        for change in blind {
            let finding = silent().wire(&[0, 1000]).with(change).found("timeout.no-reply");
            assert_eq!(finding.confidence, Confidence::Possible);
            assert!(!finding.alternatives.is_empty());
        }
    }

    #[test]
    fn a_native_xdp_program_drops_without_a_trace() {
        use crate::enrich::droppers::Dropper;
        let with = |attached: &str| {
            let program = BpfProgram {
                id: 9,
                name: Some("shield".into()),
                attached: attached.into(),
                ..BpfProgram::default()
            };
            let dropper = Dropper {
                spot: Spot::Xdp,
                netns: super::super::super::testing::CLIENT_NETNS.into(),
                interface: Some("eth0".into()),
                programs: vec![program],
                others: Vec::new(),
            };
            silent().wire(&[0, 1000, 3000]).with(|e| e.facts.droppers.push(dropper)).diagnosed().1
        };
        let native = with("XDP, native");
        assert_eq!(native.confidence, Confidence::Possible);
        assert_eq!(native.alternatives[0], "timeout.bpf-drop");
        assert!(
            native.explanation.contains("shield[9] sees what comes in by eth0"),
            "{}",
            native.explanation
        );
        assert_eq!(with("XDP, generic").confidence, Confidence::Likely);
    }

    #[test]
    fn silence_of_this_machine_is_possibly_a_full_queue() {
        let finding = silent().wire(&[0]).peer_on_this_machine().found("timeout.no-reply");
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives[0], "timeout.accept-queue-full");
        assert_eq!(finding.place.netns_name.as_deref(), Some("srv"));
        assert!(
            finding
                .next_steps
                .iter()
                .any(|s| { s.command.as_deref() == Some("ip netns exec srv ss -ltnp 'sport = :8080'") })
        );
    }

    #[test]
    fn a_dropped_syn_or_an_answer_is_not_silence() {
        let drop = Drop::syn("QDISC_DROP", "__dev_queue_xmit");
        assert!(matches!(
            silent().wire(&[0]).dropped(1, drop).asked("timeout.no-reply"),
            Verdict::NotEnough(_)
        ));
        assert_eq!(silent().wire(&[0]).came(4900, SYN | ACK).asked("timeout.no-reply"), Verdict::Healthy);
        let drop = Drop::syn_ack("TCP_CSUM", "tcp_v4_rcv");
        assert_eq!(silent().wire(&[0]).dropped(20, drop).asked("timeout.no-reply"), Verdict::Healthy);
    }

    #[test]
    fn leaving_before_the_first_retransmission_is_giving_up() {
        let (code, finding) = Case::connecting().lasted(300).wire(&[0]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.gave-up", Confidence::Likely));
        assert_eq!(finding.headline, "gave up after 300 ms");
        assert_eq!(finding.place.stage, Stage::Application);
        let (code, finding) = Case::connecting().lasted(300).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.gave-up", Confidence::Possible));
        assert_eq!(finding.alternatives, ["timeout.no-reply"]);
    }

    #[test]
    fn an_answer_after_the_application_left_is_giving_up() {
        let case = || Case::connecting().lasted(2000).syn_again(&[1000]).wire(&[0, 1000]);
        let (code, finding) = case().came(2120, SYN | ACK).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.gave-up", Confidence::Certain));
        assert_eq!(finding.cause, "the answer came 120 ms after curl had left");
        let (code, _) = case().dropped(2120, Drop::syn_ack("NO_SOCKET", "tcp_v4_rcv")).diagnosed();
        assert_eq!(code, "timeout.gave-up");
    }

    #[test]
    fn patience_and_errors_of_the_kernel_are_not_giving_up() {
        assert_eq!(silent().wire(&[0, 1000]).asked("timeout.gave-up"), Verdict::Healthy);
        let killed = Case::connecting().errno(libc::ETIMEDOUT).wire(&[0]);
        assert_eq!(killed.asked("timeout.gave-up"), Verdict::Healthy);
    }
}
