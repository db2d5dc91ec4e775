//! Connections that worked and then went silent, and the limits that end them.

use std::net::IpAddr;
use std::time::Duration;

use super::super::words::duration;
use super::{
    Confidence, Evidence, Finding, Stage, Verdict, What, Where, WhereSide, accept_queue, between, connecting,
    killed_established, own_netns, syn_queue, told_unreachable, went_silent, who, window_probes,
};
use crate::enrich::routes::RouteAnswer;
use crate::probes::{TcpState, protocol};

/// Fewer unanswered retransmissions before the application left may be ordinary loss.
const CONVINCING_RETRANSMITS: usize = 3;

/// Unanswered retransmissions at the end. What was repaired before does not count.
fn unanswered(evidence: &Evidence) -> usize {
    evidence.connection.tcp.retransmits.map_or_else(|| evidence.data_retransmits(), usize::from)
}

/// When the first of the unanswered retransmissions went out, as far as the timeline goes back.
fn stall_start(evidence: &Evidence) -> Option<u64> {
    let times: Vec<u64> = evidence
        .find(|w| matches!(w, What::Retransmit { state, .. } if *state != TcpState::SynSent).then_some(()))
        .map(|(time, ())| time)
        .collect();
    let unseen = evidence.connection.lost_steps as usize;
    let count = unanswered(evidence).saturating_sub(unseen).max(1);
    times.len().checked_sub(count).map_or_else(|| times.first().copied(), |index| times.get(index).copied())
}

/// How long nothing was acknowledged, at least.
fn silence(evidence: &Evidence) -> Option<Duration> {
    stall_start(evidence).map(|start| between(start, evidence.connection.end_ns))
}

/// "timed out after 15 min 3 s without an answer".
fn headline(evidence: &Evidence) -> String {
    let verb = if evidence.connection.errno.is_some() { "timed out" } else { "gave up" };
    match silence(evidence) {
        Some(silence) => format!("{verb} after {} without an answer", duration(silence)),
        None => format!("{verb} without an answer"),
    }
}

/// Commands that tell whether the peer is there, and whether a new connection works.
fn look_for_the_peer(finding: Finding, evidence: &Evidence) -> Finding {
    let (ns, peer) = (own_netns(evidence), evidence.connection.peer);
    let (address, port) = (peer.ip(), peer.port());
    finding
        .next(
            "if a new connection works, something forgot the old one",
            format!("{ns}nc -vz -w 3 {address} {port}"),
        )
        .next("is the host there at all?", format!("{ns}ping -c 3 {address}"))
        .next(
            "watch the retransmissions",
            format!("{ns}tcpdump -ni any 'host {address} and tcp port {port}'"),
        )
}

/// Data, or probes of a closed window, went unanswered.
pub(super) fn peer_vanished(evidence: &Evidence) -> Verdict {
    if !went_silent(evidence) {
        return Verdict::Healthy;
    }
    if matches!(evidence.facts.route, Some(RouteAnswer::Failed { .. })) {
        return Verdict::NotEnough("this machine has no route to the peer now".into());
    }
    let tcp = &evidence.connection.tcp;
    let killed = killed_established(evidence);
    let retransmits = unanswered(evidence);
    let window_probes = window_probes(evidence);
    if killed && retransmits == 0 && window_probes.is_none() {
        return match (tcp.retransmits, tcp.unacked) {
            (Some(_), Some(0)) => Verdict::Healthy,
            _ => Verdict::NotEnough("what was unanswered is not known".into()),
        };
    }
    let confidence = match (killed, tcp.user_timeout_ms) {
        // TCP_USER_TIMEOUT takes the place of tcp_retries2.
        (true, Some(1..)) => return Verdict::Healthy,
        (true, Some(0)) => Confidence::Certain,
        (true, None) => Confidence::Likely,
        (false, _) if retransmits >= CONVINCING_RETRANSMITS => Confidence::Likely,
        (false, _) => Confidence::Possible,
    };
    let what = match (retransmits, window_probes) {
        (0, Some(probes)) => format!("{probes} window probes"),
        (1, _) => "1 retransmission".into(),
        (count, _) => format!("{count} retransmissions"),
    };
    let peer = evidence.connection.peer;
    let ended = if killed {
        "The kernel gave up and ended the connection.".to_owned()
    } else {
        format!("{} closed the connection while it waited.", who(evidence))
    };
    let doubt = if confidence == Confidence::Possible { " So few may also be ordinary loss." } else { "" };
    let finding = Finding::new(
        confidence,
        Where::new(WhereSide::Unknown, Stage::Remote),
        headline(evidence),
        format!("the peer stopped acknowledging: {what} went unanswered"),
    )
    .explain(format!(
        "The connection to {peer} worked, then nothing came back any more: {what} went unanswered. \
         {ended}{doubt} The peer crashed, lost power or moved, the path broke, or a firewall, NAT or load \
         balancer forgot the connection and drops its packets. A program that merely ended would have been \
         reported by its kernel."
    ));
    let finding = look_for_the_peer(finding, evidence).advise(
        "if idle connections die, send keepalives more often than the limit on the way (often 4 to 10 \
         minutes)",
    );
    if confidence == Confidence::Possible {
        finding.or(&["timeout.firewall-drop", "timeout.reply-dropped"])
    } else {
        finding
    }
    .found()
}

/// An idle connection whose probes went unanswered.
pub(super) fn keepalive(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let tcp = &connection.tcp;
    let killed =
        connection.protocol == protocol::TCP && killed_established(evidence) && !told_unreachable(evidence);
    if !killed || connection.keepalive == Some(false) || unanswered(evidence) > 0 {
        return Verdict::Healthy;
    }
    // With TCP_USER_TIMEOUT that, not the number of probes, decides.
    if tcp.user_timeout_ms.is_some_and(|ms| ms > 0) || tcp.unacked.is_some_and(|bytes| bytes > 0) {
        return Verdict::Healthy;
    }
    let reset_says_so = evidence
        .find(|w| match w {
            What::ResetSent { reason } => reason.as_deref(),
            _ => None,
        })
        .any(|(_, reason)| reason == "TCP_KEEPALIVE_TIMEOUT");
    let idle = tcp.unacked == Some(0) && tcp.retransmits == Some(0);
    let probed = tcp.probes_out.is_some_and(|probes| probes > 0);
    let confidence = match connection.keepalive {
        _ if reset_says_so => Confidence::Certain,
        Some(true) if idle && probed && tcp.user_timeout_ms.is_some() => Confidence::Certain,
        Some(true) if tcp.probes_out != Some(0) => Confidence::Likely,
        Some(_) => return Verdict::Healthy,
        None => Confidence::Possible,
    };
    let peer = connection.peer;
    let probes = match tcp.probes_out {
        Some(count @ 1..) => format!("{count} keepalive probes"),
        _ => "the keepalive probes".into(),
    };
    let setting = |name: &str| evidence.facts.sysctls.get(name).map_or("unknown", |value| value.trim());
    let finding = Finding::new(
        confidence,
        Where::new(WhereSide::Unknown, Stage::Remote),
        "timed out while idle",
        format!("the peer did not answer {probes}"),
    )
    .explain(format!(
        "The connection to {peer} was idle, with nothing left to acknowledge. The kernel asked whether the \
         peer is still there, {probes} went unanswered, and it ended the connection. The peer or the path \
         is gone, or a firewall or NAT forgot the idle connection. Keepalive did its work: it found a dead \
         connection. (Settings of this namespace: tcp_keepalive_time {}, tcp_keepalive_intvl {}, \
         tcp_keepalive_probes {}; the program may have its own.)",
        setting("net.ipv4.tcp_keepalive_time"),
        setting("net.ipv4.tcp_keepalive_intvl"),
        setting("net.ipv4.tcp_keepalive_probes"),
    ));
    let finding = look_for_the_peer(finding, evidence)
        .advise("if a new connection works, probe more often (TCP_KEEPIDLE) than the idle limit on the way");
    if confidence == Confidence::Possible {
        finding.or(&["timeout.peer-vanished", "timeout.user-timeout"])
    } else {
        finding
    }
    .found()
}

/// The limit that the program set itself.
pub(super) fn user_timeout(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let syn = connecting(evidence) && connection.errno.is_some();
    let killed =
        connection.protocol == protocol::TCP && killed_established(evidence) && !told_unreachable(evidence);
    if !syn && !killed {
        return Verdict::Healthy;
    }
    let limit = match connection.tcp.user_timeout_ms {
        Some(0) => return Verdict::Healthy,
        Some(ms) => Duration::from_millis(ms.into()),
        None if syn => return Verdict::Healthy,
        None => return Verdict::NotEnough("TCP_USER_TIMEOUT of the socket is not known".into()),
    };
    let stalled = if syn { Some(connection.duration()) } else { silence(evidence) };
    let fits = stalled.is_some_and(|stalled| about(stalled, limit));
    if syn && (!fits || explained_by_listener(evidence)) {
        return Verdict::Healthy;
    }
    let confidence = if fits { Confidence::Certain } else { Confidence::Likely };
    let pending = match (syn, unanswered(evidence), connection.tcp.unacked) {
        (true, ..) => "the SYN",
        (false, 1.., _) => "data",
        (false, 0, Some(1..)) => "probes of the peer's closed window",
        (false, 0, Some(0)) => "keepalive probes",
        (false, 0, None) => "data or probes",
    };
    let (limit, peer) = (duration(limit), connection.peer);
    let ns = own_netns(evidence);
    let ended =
        if syn { format!("timed out after {}", duration(connection.duration())) } else { headline(evidence) };
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Unknown, Stage::Tcp),
        ended,
        format!("TCP_USER_TIMEOUT ({limit}) ran out while {pending} went unanswered"),
    )
    .explain(format!(
        "{} had set TCP_USER_TIMEOUT to {limit} on this socket. For that long {pending} went unanswered by \
         {peer}, so the kernel ended the connection; without the option it would have waited longer. \
         Whether the network or the value is at fault is yours to judge.",
        who(evidence),
    ))
    .next(
        "see timers and retransmissions of other connections to it",
        format!("{ns}ss -tinoe 'dst = {}'", ss_address(peer.ip())),
    );
    finding = look_for_the_peer(finding, evidence).advise(
        "raise the value if it is shorter than outages that the program should survive (it is often set by \
         a library)",
    );
    finding.found()
}

/// `ss` wants an IPv6 address in brackets.
fn ss_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A full queue of a listener here says more than how long the program was willing to wait.
fn explained_by_listener(evidence: &Evidence) -> bool {
    [accept_queue::accept_queue_full, syn_queue::syn_queue_full].iter().any(|check| {
        matches!(check(evidence), Verdict::Found(finding) if finding.confidence != Confidence::Possible)
    })
}

/// The kernel's timers add a retransmission timeout at most; 200 ms is its least (TCP_RTO_MIN).
fn about(measured: Duration, limit: Duration) -> bool {
    let tolerance = (limit / 4).max(Duration::from_millis(500));
    measured + tolerance >= limit && measured <= limit + tolerance
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Case;
    use super::*;

    const ALIVE: TcpState = TcpState::Established;

    fn killed() -> Case {
        Case::ending(ALIVE, TcpState::Close).errno(libc::ETIMEDOUT)
    }

    fn abandoned() -> Case {
        Case::ending(ALIVE, TcpState::FinWait1)
    }

    /// Killed after the idle time and the probes.
    fn idle() -> Case {
        killed()
            .lasted(90_000)
            .with(|e| e.connection.keepalive = Some(true))
            .tcp(|tcp| tcp.probes_out = Some(9))
    }

    #[test]
    fn unanswered_data_until_the_kernel_gives_up_is_certain() {
        let (code, finding) = killed().lasted(965_000).data_again(&[60_000, 60_400, 61_200]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.peer-vanished", Confidence::Certain));
        assert_eq!(finding.headline, "timed out after 15 min 5 s without an answer");
        assert_eq!(finding.cause, "the peer stopped acknowledging: 3 retransmissions went unanswered");
    }

    #[test]
    fn closing_in_the_middle_of_silence_depends_on_how_much_there_was() {
        let (code, finding) = abandoned().data_again(&[200, 600, 1400, 3000]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.peer-vanished", Confidence::Likely));
        assert!(finding.headline.starts_with("gave up after 4.8 s"));
        let (_, finding) = abandoned().data_again(&[4900]).diagnosed();
        assert_eq!(finding.confidence, Confidence::Possible);
        assert!(!finding.alternatives.is_empty());
    }

    #[test]
    fn closed_windows_that_nobody_opens_count_as_silence() {
        let case = killed().tcp(|tcp| (tcp.probes_out, tcp.unacked) = (Some(15), Some(5000)));
        assert_eq!(case.diagnosed().0, "timeout.peer-vanished");
    }

    #[test]
    fn repaired_loss_is_not_silence() {
        let repaired = |case: Case| {
            case.data_again(&[200, 600]).tcp(|tcp| (tcp.retransmits, tcp.unacked) = (Some(0), Some(0)))
        };
        assert_eq!(repaired(abandoned()).asked("timeout.peer-vanished"), Verdict::Healthy);
        assert_eq!(repaired(idle()).diagnosed().0, "timeout.keepalive");
        let reset = Case::ending(ALIVE, TcpState::Close).errno(libc::ECONNRESET).data_again(&[200]);
        assert_eq!(reset.asked("timeout.peer-vanished"), Verdict::Healthy);
    }

    #[test]
    fn the_stall_starts_with_the_first_unanswered_retransmission() {
        let evidence = killed()
            .lasted(30_000)
            .data_again(&[1000, 20_000, 20_400])
            .tcp(|tcp| tcp.retransmits = Some(2))
            .build();
        assert_eq!(silence(&evidence), Some(Duration::from_secs(10)));
    }

    #[test]
    fn probes_of_an_idle_connection_are_keepalive() {
        let (code, finding) = idle().diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.keepalive", Confidence::Certain));
        assert_eq!(finding.cause, "the peer did not answer 9 keepalive probes");
        let by_reset = idle()
            .tcp(|tcp| tcp.probes_out = None)
            .at(90_000, What::ResetSent { reason: Some("TCP_KEEPALIVE_TIMEOUT".into()) });
        assert_eq!(by_reset.found("timeout.keepalive").confidence, Confidence::Certain);
        let unread = idle().tcp(|tcp| tcp.probes_out = None);
        assert_eq!(unread.found("timeout.keepalive").confidence, Confidence::Likely);
    }

    #[test]
    fn data_or_a_switched_off_option_is_not_keepalive() {
        let data = killed().data_again(&[200, 600]).with(|e| e.connection.keepalive = Some(true));
        assert_eq!(data.asked("timeout.keepalive"), Verdict::Healthy);
        let off = idle().with(|e| e.connection.keepalive = Some(false));
        assert_eq!(off.asked("timeout.keepalive"), Verdict::Healthy);
        let closed = Case::ending(ALIVE, TcpState::FinWait1).with(|e| e.connection.keepalive = Some(true));
        assert_eq!(closed.asked("timeout.keepalive"), Verdict::Healthy);
    }

    #[test]
    fn the_programs_own_limit_is_certain_where_the_time_fits() {
        let limit = |case: Case, ms| case.tcp(|tcp| tcp.user_timeout_ms = Some(ms));
        let data = || killed().lasted(31_000).data_again(&[1000, 1400, 2200]);
        let (code, finding) = limit(data(), 30_000).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.user-timeout", Confidence::Certain));
        assert_eq!(finding.cause, "TCP_USER_TIMEOUT (30.0 s) ran out while data went unanswered");
        let (code, finding) = limit(data(), 120_000).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.user-timeout", Confidence::Likely));
        assert_eq!(limit(idle(), 30_000).diagnosed().0, "timeout.user-timeout");
        assert_eq!(data().asked("timeout.user-timeout"), Verdict::Healthy);
    }

    #[test]
    fn the_programs_own_limit_holds_for_the_syn_too() {
        let syn = |ms| {
            Case::connecting()
                .errno(libc::ETIMEDOUT)
                .lasted(3000)
                .syn_again(&[1000, 2000])
                .wire(&[0])
                .tcp(|tcp| tcp.user_timeout_ms = Some(ms))
        };
        let (code, finding) = syn(3000).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.user-timeout", Confidence::Certain));
        assert_eq!(syn(60_000).diagnosed().0, "timeout.no-reply");
        let full = syn(3000).peer_on_this_machine().queues(1000, 6, 0, &[]);
        assert_eq!(full.diagnosed().0, "timeout.accept-queue-full");
    }
}
