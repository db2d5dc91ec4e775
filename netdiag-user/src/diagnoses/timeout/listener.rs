//! A listener on this machine whose queues are full: the kernel discards the SYN without a drop event.

use super::super::words::how_it_ended;
use super::{
    Confidence, Evidence, Finding, Place, Stage, Verdict, What, Where, WhereSide, connecting, enter,
    syn_acks, syns_again, went_silent, where_phrase,
};
use crate::enrich::facts::QueueSample;
use crate::enrich::listeners::Listener;

/// What the samples of one listener say.
#[derive(Debug, Clone, Copy)]
struct Queues<'a> {
    first: &'a QueueSample,
    last: &'a QueueSample,
    /// The sample with the longest accept queue.
    longest: &'a QueueSample,
    /// The sample with the most half-open connections.
    most_half_open: &'a QueueSample,
}

impl Queues<'_> {
    fn accept_full(&self) -> bool {
        self.longest.accept_queue > self.longest.backlog
    }

    /// How much a counter of the namespace grew while the SYN was being sent again.
    fn grew(&self, counter: &str) -> u64 {
        let value = |sample: &QueueSample| sample.counters.get(counter).copied();
        match (value(self.first), value(self.last)) {
            (Some(first), Some(last)) => last.saturating_sub(first),
            _ => 0,
        }
    }
}

/// Samples by listener, the one that comes first with a full queue if there is one.
fn queues(evidence: &Evidence) -> Option<Queues<'_>> {
    let samples = &evidence.facts.queue_samples;
    let mut all = samples.iter().enumerate().filter_map(|(index, sample)| {
        let same = |other: &&QueueSample| (other.netns, other.local) == (sample.netns, sample.local);
        if samples[..index].iter().any(|other| same(&other)) {
            return None;
        }
        let mine = || samples[index..].iter().filter(same);
        Some(Queues {
            first: sample,
            last: mine().next_back()?,
            longest: mine().max_by_key(|s| i64::from(s.accept_queue) - i64::from(s.backlog))?,
            most_half_open: mine().max_by_key(|s| s.syn_recv)?,
        })
    });
    let first = all.next()?;
    if first.accept_full() {
        return Some(first);
    }
    Some(all.find(Queues::accept_full).unwrap_or(first))
}

/// Waits for an answer that only a listener of this machine could give.
fn waits_for_listener(evidence: &Evidence) -> bool {
    let overdue = evidence.connection.errno.is_some() || syns_again(evidence).is_none_or(|count| count > 0);
    connecting(evidence)
        && overdue
        && evidence.peer_is_local() != Some(false)
        && syn_acks(evidence).next().is_none()
        && !evidence.drops().any(|(_, what)| {
            matches!(what, What::Dropped { packet, reason, .. }
                if (packet.is_syn() || packet.is_syn_ack()) && reason != "TCP_LISTEN_OVERFLOW")
        })
}

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

/// Whether the queues may be those of a namesake: of another namespace with the same address.
fn is_guess(evidence: &Evidence, queues: Option<Queues>) -> bool {
    let elsewhere = |queues: Queues| queues.longest.netns != u64::from(evidence.connection.netns);
    evidence.facts.peer_ambiguous && queues.is_none_or(elsewhere)
}

fn guessed(evidence: &Evidence) -> String {
    format!(
        " Several network namespaces of this machine have the address {}, and it is not known which of them \
         gets the packets.",
        evidence.connection.peer.ip()
    )
}

/// The listener's namespace.
fn place(evidence: &Evidence, dropped_at: Option<&Place>, queues: Option<Queues>) -> Place {
    let netns = match (dropped_at, queues) {
        (Some(place), _) => return place.clone(),
        (None, Some(queues)) => queues.longest.netns,
        (None, None) => return Place::default(),
    };
    let name = |listener: &Listener| (listener.netns == netns).then(|| listener.netns_name.clone()).flatten();
    let netns_name = evidence.facts.listeners.iter().flatten().find_map(name).or_else(|| {
        let spaces = evidence.facts.peer_namespaces.iter().flatten();
        spaces.filter(|space| space.inode == netns).find_map(|space| space.name.clone())
    });
    Place { netns: netns as u32, netns_name, interface: None }
}

fn listener<'a>(evidence: &'a Evidence, place: &Place) -> Option<&'a Listener> {
    let peer = evidence.connection.peer.ip();
    let listeners = evidence.facts.listeners.iter().flatten();
    listeners.filter(|l| l.netns == u64::from(place.netns)).find(|listener| listener.accepts(peer))
}

/// "nginx[800]", "nginx[800] and 3 more".
fn owners(listener: &Listener) -> String {
    match listener.processes.as_slice() {
        [] => "the service".into(),
        [one] => format!("{}[{}]", one.comm, one.pid),
        [first, rest @ ..] => format!("{}[{}] and {} more", first.comm, first.pid, rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, Case, Drop, SYN, there};
    use super::*;
    use crate::probes::TcpState;

    fn waiting() -> Case {
        Case::connecting().syn_again(&[1000, 3000]).wire(&[0, 1000, 3000]).peer_on_this_machine()
    }

    fn no_cookies(case: Case) -> Case {
        case.with(|e| {
            e.facts.peer_sysctls.insert("net.ipv4.tcp_syncookies".into(), "0".into());
            e.facts.peer_sysctls.insert("net.ipv4.tcp_max_syn_backlog".into(), "128".into());
        })
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
        let ambiguous = |case: Case| case.with(|e| e.facts.peer_ambiguous = true);
        let full = |case: Case| {
            let counted = |value| [("ListenOverflows", value)];
            case.queues(1000, 6, 0, &counted(2)).queues(5000, 6, 0, &counted(4))
        };
        let finding = full(ambiguous(waiting())).found("timeout.accept-queue-full");
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives, ["timeout.no-reply"]);
        assert!(finding.cause.ends_with("is full: 6 connections wait, its limit is 5"), "{}", finding.cause);
        assert!(finding.explanation.contains("Several network namespaces"), "{}", finding.explanation);

        let half_open = no_cookies(ambiguous(waiting())).queues(1000, 0, 5, &[]);
        let finding = half_open.found("timeout.syn-queue-full");
        assert_eq!(finding.confidence, Confidence::Possible);
        assert_eq!(finding.alternatives, ["timeout.no-reply", "timeout.accept-queue-full"]);

        let drop = Drop::syn("TCP_LISTEN_OVERFLOW", "tcp_v4_syn_recv_sock").flags(ACK).place(there());
        let finding = ambiguous(waiting()).dropped(1000, drop).found("timeout.accept-queue-full");
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
