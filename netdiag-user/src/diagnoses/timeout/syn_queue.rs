//! A listener on this machine that has too many half-open connections, and no SYN cookies.

use super::super::words::how_it_ended;
use super::listener::{guessed, is_guess, listener, owners, place, queues, waits_for_listener};
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};

pub(in crate::diagnoses) fn syn_queue_full(evidence: &Evidence) -> Verdict {
    if !waits_for_listener(evidence) {
        return Verdict::Healthy;
    }
    let Some(queues) = queues(evidence).filter(|queues| !queues.accept_full()) else {
        return Verdict::Healthy;
    };
    let setting = |name: &str| evidence.facts.peer_sysctls.get(name).map(|value| value.trim());
    let cookies = setting("net.ipv4.tcp_syncookies");
    if cookies.is_some_and(|value| value != "0") {
        return Verdict::Healthy;
    }
    let half_open = queues.most_half_open;
    // tcp_conn_request(): the listener's limit, or less than a quarter of tcp_max_syn_backlog left.
    let reserve = setting("net.ipv4.tcp_max_syn_backlog").and_then(|value| value.parse::<u32>().ok());
    let full = half_open.syn_recv >= half_open.backlog
        || reserve.is_some_and(|max| max.saturating_sub(half_open.syn_recv) < max / 4);
    let counted = queues.grew("TCPReqQFullDrop");
    let confidence = match (full && half_open.syn_recv > 0, counted > 0, cookies.is_some()) {
        (true, true, _) => Confidence::Certain,
        (true, false, true) => Confidence::Likely,
        (true, false, false) => {
            return Verdict::NotEnough(
                "net.ipv4.tcp_syncookies of the listener's namespace is not known".into(),
            );
        }
        (false, true, _) => Confidence::Possible,
        (false, false, _) => return Verdict::Healthy,
    };
    let guess = is_guess(evidence, Some(queues));
    let confidence = if guess { Confidence::Possible } else { confidence };

    let place = place(evidence, None, Some(queues));
    let listener = listener(evidence, &place);
    let server = listener.map_or_else(|| "the service".to_owned(), owners);
    let there = where_phrase(evidence, &place);
    let port = evidence.connection.peer.port();
    let ns = enter(evidence, &place);
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Tcp).at(&place),
        how_it_ended(evidence),
        format!(
            "too many half-open connections to {server} on port {port}{there} ({}), and SYN cookies are off",
            half_open.syn_recv
        ),
    )
    .explain(format!(
        "For each SYN the kernel keeps a note until the handshake is finished. Port {port}{there} has {} \
         such notes, as many as it may keep, and with net.ipv4.tcp_syncookies=0 the kernel drops further \
         SYNs in silence. That is a flood of SYNs, a burst of clients, or answers that do not reach the \
         clients.{}",
        half_open.syn_recv,
        if guess { guessed(evidence) } else { String::new() },
    ))
    .next("switch SYN cookies on", format!("{ns}sysctl -w net.ipv4.tcp_syncookies=1"))
    .next("who keeps connections half open?", format!("{ns}ss -Htan state syn-recv 'sport = :{port}'"))
    .next("run it twice: does it rise?", format!("{ns}nstat -az TcpExtTCPReqQFullDrop TcpExtListenDrops"))
    .advise(
        "raise the service's backlog, net.core.somaxconn and net.ipv4.tcp_max_syn_backlog together, then \
         restart it",
    );
    if let Some(listener) = listener {
        finding = finding.listener(listener.clone());
    }
    if guess {
        finding = finding.or(&["timeout.no-reply"]);
    }
    if confidence == Confidence::Possible { finding.or(&["timeout.accept-queue-full"]) } else { finding }
        .found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Case;
    use super::super::accept_queue::tests::waiting;
    use super::*;

    fn no_cookies(case: Case) -> Case {
        case.with(|e| {
            e.facts.peer_sysctls.insert("net.ipv4.tcp_syncookies".into(), "0".into());
            e.facts.peer_sysctls.insert("net.ipv4.tcp_max_syn_backlog".into(), "128".into());
        })
    }

    #[test]
    fn one_of_several_namespaces_with_the_address_is_possible() {
        let ambiguous = waiting().with(|e| e.facts.peer_ambiguous = true);
        let half_open = no_cookies(ambiguous).queues(1000, 0, 5, &[]);
        let finding = half_open.found("timeout.syn-queue-full");
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives, ["timeout.no-reply", "timeout.accept-queue-full"]);
    }

    #[test]
    fn half_open_connections_at_the_limit_without_cookies() {
        let full = || no_cookies(waiting()).queues(1000, 0, 5, &[("TCPReqQFullDrop", 7)]);
        let (code, finding) = full().diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.syn-queue-full", Confidence::Likely));
        assert_eq!(
            finding.next_steps[0].command.as_deref(),
            Some("ip netns exec srv sysctl -w net.ipv4.tcp_syncookies=1")
        );
        let (code, finding) = full().queues(5000, 0, 5, &[("TCPReqQFullDrop", 9)]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.syn-queue-full", Confidence::Certain));
    }

    #[test]
    fn the_reserve_for_proven_peers_is_a_limit_too() {
        let case = |syn_recv| {
            no_cookies(waiting())
                .with(|e| e.facts.queue_samples.clear())
                .queues(1000, 0, syn_recv, &[])
                .with(|e| e.facts.queue_samples[0].backlog = 4096)
                .asked("timeout.syn-queue-full")
        };
        assert!(matches!(case(97), Verdict::Found(_)));
        assert_eq!(case(96), Verdict::Healthy);
    }

    #[test]
    fn cookies_and_short_queues_keep_it_out() {
        let with_cookies = waiting()
            .with(|e| drop(e.facts.peer_sysctls.insert("net.ipv4.tcp_syncookies".into(), "1".into())))
            .queues(1000, 0, 5, &[]);
        assert_eq!(with_cookies.asked("timeout.syn-queue-full"), Verdict::Healthy);
        assert_eq!(
            no_cookies(waiting()).queues(1000, 0, 4, &[]).asked("timeout.syn-queue-full"),
            Verdict::Healthy
        );
        assert_eq!(
            no_cookies(waiting()).queues(1000, 6, 5, &[]).asked("timeout.syn-queue-full"),
            Verdict::Healthy
        );
        let unknown = waiting().queues(1000, 0, 5, &[]);
        assert!(matches!(unknown.asked("timeout.syn-queue-full"), Verdict::NotEnough(_)));
    }
}
