//! A listener on this machine whose accept queue is full.

use super::super::words::how_it_ended;
use super::listener::{Queues, guessed, is_guess, listener, owners, place, queues, waits_for_listener};
use super::{
    Confidence, Evidence, Finding, Place, Stage, Verdict, What, Where, WhereSide, connecting, enter,
    went_silent, where_phrase,
};

/// The SYN, the client's last ACK or its data was refused for lack of room: tcp_conn_request was seen to do so, or the
/// kernel gave that as the reason of a drop (from 6.15, not for the SYN).
fn overflow_drop(evidence: &Evidence) -> Option<&Place> {
    if !connecting(evidence) && !went_silent(evidence) {
        return None;
    }
    let seen = evidence.timeline.iter().rev().find_map(|moment| match &moment.what {
        What::ListenOverflow { place, .. } => Some(place),
        _ => None,
    });
    seen.or_else(|| match evidence.drop_of(&["TCP_LISTEN_OVERFLOW"], true) {
        Some((_, What::Dropped { place, .. })) => Some(place),
        _ => None,
    })
}

/// Established for the client alone: nothing that it sent was ever acknowledged.
fn never_served(evidence: &Evidence) -> bool {
    let tcp = &evidence.connection.tcp;
    went_silent(evidence)
        && evidence.peer_is_local() == Some(true)
        && tcp.bytes_acked.is_some_and(|bytes| bytes <= 1)
        && tcp.bytes_received == Some(0)
}

pub(super) fn accept_queue_full(evidence: &Evidence) -> Verdict {
    let dropped_at = overflow_drop(evidence);
    let waits = waits_for_listener(evidence);
    if dropped_at.is_none() && !waits && !never_served(evidence) {
        return Verdict::Healthy;
    }
    let queues = queues(evidence);
    let full = queues.is_some_and(|queues| queues.accept_full());
    let overflows = queues.map_or(0, |queues| queues.grew("ListenOverflows"));
    let confidence = match (dropped_at.is_some(), full, overflows > 0) {
        (true, ..) | (_, true, true) => Confidence::Certain,
        (_, true, false) => Confidence::Likely,
        (_, false, true) if waits => Confidence::Possible,
        _ if queues.is_some() || evidence.peer_is_local() != Some(true) => return Verdict::Healthy,
        _ => return Verdict::NotEnough("the queues of the listener on this machine were not read".into()),
    };
    let guess = dropped_at.is_none() && is_guess(evidence, queues);
    let confidence = if guess { Confidence::Possible } else { confidence };

    let place = place(evidence, dropped_at, queues);
    let listener = listener(evidence, &place);
    let server = listener.map_or_else(|| "the service".to_owned(), owners);
    let there = where_phrase(evidence, &place);
    let numbers = queues.filter(Queues::accept_full).map_or_else(String::new, |queues| {
        format!(": {} connections wait, its limit is {}", queues.longest.accept_queue, queues.longest.backlog)
    });
    let port = evidence.connection.peer.port();
    let mut explanation = format!(
        "Finished handshakes wait in a queue until the service calls accept(). The queue of {server}{there} \
         is over its limit, so the kernel drops new connections without an answer. The service is alive, \
         but stuck, overloaded or stopped, or its backlog is too small."
    );
    if overflows > 0 {
        explanation.push_str(&format!(" The kernel counted {overflows} overflows there meanwhile."));
    }
    if guess {
        explanation.push_str(&guessed(evidence));
    }
    let ns = enter(evidence, &place);
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Socket).at(&place),
        how_it_ended(evidence),
        match full || dropped_at.is_some() {
            false => format!("the accept queue of {server} on port {port}{there} overflowed"),
            true => format!("the accept queue of {server} on port {port}{there} is full{numbers}"),
        },
    )
    .explain(explanation)
    .next("compare Recv-Q (waiting) with Send-Q (limit)", format!("{ns}ss -ltnp 'sport = :{port}'"));
    if let Some(process) = listener.and_then(|listener| listener.processes.first()) {
        let pid = process.pid;
        finding = finding
            .next(
                "what does the service do instead? T is stopped, D waits for a disk",
                format!("ps -o pid,stat,wchan:32,nlwp,args -p {pid}"),
            )
            .next(
                "is it out of file descriptors?",
                format!("grep 'open files' /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l"),
            );
    }
    finding = finding
        .next("run it twice: does it rise?", format!("{ns}nstat -az TcpExtListenOverflows TcpExtListenDrops"))
        .advise(
            "if such bursts are normal, raise the service's backlog and net.core.somaxconn, then restart it",
        );
    if let Some(listener) = listener {
        finding = finding.listener(listener.clone());
    }
    if confidence == Confidence::Possible { finding.or(&["timeout.no-reply"]) } else { finding }.found()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::testing::{ACK, Case, Drop, SYN, there};
    use super::*;
    use crate::probes::TcpState;

    /// A client that waits for a listener of this machine.
    pub(in super::super) fn waiting() -> Case {
        Case::connecting().syn_again(&[1000, 3000]).wire(&[0, 1000, 3000]).peer_on_this_machine()
    }

    #[test]
    fn a_queue_over_its_limit_with_a_rising_counter_is_certain() {
        let case = waiting().queues(1000, 6, 0, &[("ListenOverflows", 2)]).queues(
            5000,
            6,
            0,
            &[("ListenOverflows", 4)],
        );
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Certain));
        assert_eq!(
            finding.cause,
            "the accept queue of nginx[800] on port 8080 in network namespace srv is full: 6 connections \
             wait, its limit is 5"
        );
        assert_eq!(finding.listener.unwrap().processes[0].pid, 800);
        assert_eq!(
            finding.next_steps[0].command.as_deref(),
            Some("ip netns exec srv ss -ltnp 'sport = :8080'")
        );
    }

    #[test]
    fn one_of_the_two_alone_is_less() {
        let (code, finding) = waiting().queues(1000, 6, 0, &[]).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Likely));
        let drained = waiting().queues(1000, 3, 0, &[("ListenOverflows", 2)]).queues(
            5000,
            0,
            0,
            &[("ListenOverflows", 4)],
        );
        let (code, finding) = drained.diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Possible));
        assert!(finding.alternatives.contains(&"timeout.no-reply"));
    }

    #[test]
    fn one_of_several_namespaces_with_the_address_is_possible() {
        let ambiguous = || waiting().with(|e| e.facts.peer_ambiguous = true);
        let full = |case: Case| {
            let counted = |value| [("ListenOverflows", value)];
            case.queues(1000, 6, 0, &counted(2)).queues(5000, 6, 0, &counted(4))
        };
        let finding = full(ambiguous()).found("timeout.accept-queue-full");
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives, ["timeout.no-reply"]);
        assert!(finding.cause.ends_with("is full: 6 connections wait, its limit is 5"), "{}", finding.cause);
        assert!(finding.explanation.contains("Several network namespaces"), "{}", finding.explanation);

        let drop = Drop::syn("TCP_LISTEN_OVERFLOW", "tcp_v4_syn_recv_sock").flags(ACK).place(there());
        let finding = ambiguous().dropped(1000, drop).found("timeout.accept-queue-full");
        assert_eq!(finding.confidence, Confidence::Certain, "the kernel said where");
    }

    #[test]
    fn a_full_queue_is_not_full_at_its_limit() {
        let case = waiting().queues(1000, 5, 0, &[("ListenOverflows", 2)]).queues(
            5000,
            5,
            0,
            &[("ListenOverflows", 2)],
        );
        assert_eq!(case.asked("timeout.accept-queue-full"), Verdict::Healthy);
    }

    #[test]
    fn other_explanations_keep_it_out() {
        let full = |case: Case| {
            case.queues(1000, 6, 0, &[("ListenOverflows", 2)]).asked("timeout.accept-queue-full")
        };
        assert_eq!(
            full(waiting().dropped(1000, Drop::syn("NETFILTER_DROP", "nft_do_chain"))),
            Verdict::Healthy
        );
        assert_eq!(full(waiting().came(1001, SYN | ACK)), Verdict::Healthy);
        assert_eq!(full(Case::connecting().syn_again(&[1000])), Verdict::Healthy);
        assert_eq!(full(Case::connecting().lasted(300).peer_on_this_machine()), Verdict::Healthy);
    }

    #[test]
    fn queues_that_were_not_read_leave_it_open() {
        assert!(matches!(waiting().asked("timeout.accept-queue-full"), Verdict::NotEnough(_)));
    }

    #[test]
    fn the_kernel_may_say_overflow_itself() {
        let (code, finding) = Case::ending(TcpState::Established, TcpState::FinWait1)
            .data_again(&[200, 600, 1400])
            .peer_on_this_machine()
            .dropped(200, Drop::syn("TCP_LISTEN_OVERFLOW", "tcp_v4_syn_recv_sock").flags(ACK).place(there()))
            .diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Certain));
    }

    #[test]
    fn a_syn_that_was_seen_to_be_refused_is_certain_however_short_the_wait() {
        let overflow = What::ListenOverflow { accept_queue: 6, backlog: 5, place: there() };
        let (code, finding) = waiting().queues(1000, 6, 0, &[]).at(1, overflow).diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Certain));
        assert_eq!(finding.place.netns_name.as_deref(), Some("srv"));
    }

    #[test]
    fn established_for_the_client_alone() {
        let case = Case::ending(TcpState::Established, TcpState::FinWait1)
            .data_again(&[200, 600, 1400])
            .peer_on_this_machine()
            .queues(5000, 6, 0, &[]);
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.confidence), ("timeout.accept-queue-full", Confidence::Likely));
    }
}
