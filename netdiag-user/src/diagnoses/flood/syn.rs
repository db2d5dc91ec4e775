//! SYNs that fill the queue of a listener on this machine: as a client sees it that gets no answer, and as the listener
//! sees it, which may go on serving by SYN cookies.

use super::super::timeout::syn_queue_full;
use super::super::words::in_netns;
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::Rates;
use crate::enrich::facts::QueueSample;

/// The SYN queue is full, and the kernel has no room for many more SYNs than handshakes are finished
/// (net/ipv4/tcp_input.c, `tcp_conn_request`, counts the former; `tcp_create_openreq_child` the latter).
pub fn syn_flood(evidence: &Evidence) -> Verdict {
    if evidence.connection.is_of_listener() { of_listener(evidence) } else { of_client(evidence) }
}

fn of_client(evidence: &Evidence) -> Verdict {
    let Verdict::Found(mut finding) = syn_queue_full(evidence) else { return Verdict::Healthy };
    if finding.confidence != Confidence::Certain {
        return Verdict::Healthy;
    }
    let Some(seen) = measure(&evidence.facts.queue_samples) else { return Verdict::Healthy };
    if !seen.rates.is_flood() {
        return Verdict::Healthy;
    }
    let port = evidence.connection.peer.port();
    finding.cause = format!(
        "a flood of SYNs to port {port}: {:.0} a second find no room among {}, and SYN cookies are off",
        seen.rates.dropped,
        seen.half_open()
    );
    finding.explanation = without_cookies(&seen);
    Verdict::Found(finding)
}

fn without_cookies(seen: &Seen) -> String {
    format!(
        "For each SYN the kernel keeps a note until the handshake is finished. The listener's queue is full of notes \
         that nobody finishes ({:.0} handshakes a second are), so with net.ipv4.tcp_syncookies=0 the SYNs of real \
         clients are dropped in silence. The addresses of a flood are mostly invented: blocking them is of no use. \
         With SYN cookies the kernel needs no note, and real clients get through.",
        seen.rates.finished
    )
}

fn of_listener(evidence: &Evidence) -> Verdict {
    let Some(seen) = measure(&evidence.facts.queue_samples) else { return Verdict::Healthy };
    // Finished handshakes that wait for accept() keep their notes too: then it is the service that is slow.
    if !is_full(seen.fullest) || evidence.facts.queue_samples.iter().any(accept_queue_is_full) {
        return Verdict::Healthy;
    }
    if !seen.rates.is_flood() {
        return Verdict::Healthy;
    }
    let setting =
        |name: &str| evidence.facts.sysctls.get(name).and_then(|value| value.trim().parse::<u8>().ok());
    let Some(cookies) = setting("net.ipv4.tcp_syncookies") else {
        return Verdict::NotEnough("net.ipv4.tcp_syncookies of the listener's namespace is not known".into());
    };
    let (rates, port) = (seen.rates, evidence.connection.local.port());
    let name = evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref());
    let ns = in_netns(name);
    let mut place = Where::new(WhereSide::Local, Stage::Tcp);
    place.netns = Some(evidence.connection.netns);
    place.netns_name = name.map(str::to_owned);
    let count = format!("{:.0} SYNs a second more than the queue of port {port} holds", rates.excess());
    let finding = if cookies == 0 {
        Finding::new(
            Confidence::Likely,
            place,
            "is flooded with SYNs, and new clients get no answer".to_owned(),
            format!("{count}, which is full of {}, and SYN cookies are off", seen.half_open()),
        )
        .explain(without_cookies(&seen))
        .next(
            "switch SYN cookies on: real clients get through at once",
            format!("{ns}sysctl -w net.ipv4.tcp_syncookies=1"),
        )
    } else {
        let timestamps = setting("net.ipv4.tcp_timestamps");
        let finding = Finding::new(
            Confidence::Likely,
            place,
            "is flooded with SYNs, and goes on serving by SYN cookies".to_owned(),
            format!("{count}, which is full of {}; {}", seen.half_open(), cookies_text(&rates)),
        )
        .explain(with_cookies(cookies, timestamps));
        match timestamps {
            Some(0) => finding.next(
                "with timestamps a cookie keeps window scaling and SACK",
                format!("{ns}sysctl -w net.ipv4.tcp_timestamps=1"),
            ),
            _ => finding,
        }
    };
    let mut finding = finding
        .next("look again: who is flooded, how fast, who finishes", format!("netdiag sockets --listening port {port}"))
        .next(
            "run it twice: sent and not received is the flood",
            format!("{ns}nstat -az TcpExtSyncookiesSent TcpExtSyncookiesRecv TcpExtTCPReqQFullDrop TcpPassiveOpens"),
        )
        .next(
            "look at addresses and TTLs: are they those of your clients? then it is the answers that get lost",
            format!("{ns}tcpdump -c 100 -ni any 'tcp[tcpflags] == tcp-syn and port {port}'"),
        )
        .advise("filter upstream (provider, load balancer, synproxy on a router): the line and the processor still pay");
    let listener = evidence
        .facts
        .listeners
        .iter()
        .flatten()
        .find(|listener| listener.netns == seen.fullest.netns && listener.local == seen.fullest.local);
    if let Some(listener) = listener {
        finding = finding.listener(listener.clone());
    }
    finding.found()
}

/// "480 SYN cookies a second are sent, 12 come back valid, 0 ACKs are none"
fn cookies_text(rates: &Rates) -> String {
    format!(
        "{:.0} SYN cookies a second are sent, {:.0} come back valid, {:.0} ACKs have none",
        rates.cookies, rates.valid, rates.failed
    )
}

fn with_cookies(policy: u8, timestamps: Option<u8>) -> String {
    let always = if policy == 2 { " (net.ipv4.tcp_syncookies=2 sends one for every SYN.)" } else { "" };
    let options = match timestamps {
        Some(0) => {
            "as net.ipv4.tcp_timestamps is 0: window scaling, SACK and ECN, so that transfers are slower"
        }
        _ => {
            "unless the client uses TCP timestamps: window scaling, SACK and ECN, so that transfers are slower"
        }
    };
    format!(
        "The queue of half-open connections is full, and nobody finishes them. The kernel answers each further SYN with a \
         cookie in its sequence number and keeps no note, so real clients get through.{always} What is lost for \
         connections made that way: options that do not fit into the cookie, {options}; the MSS is rounded down, and a \
         SYN-ACK that gets lost is not sent again. The addresses of a flood are mostly invented: blocking them is of no \
         use. The counters are those of the whole network namespace."
    )
}

/// As many half-open connections as the listener may have.
pub(crate) fn is_full(sample: &QueueSample) -> bool {
    sample.backlog > 0 && sample.syn_recv >= sample.backlog
}

fn accept_queue_is_full(sample: &QueueSample) -> bool {
    sample.accept_queue > sample.backlog
}

#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    fullest: &'a QueueSample,
    rates: Rates,
}

impl Seen<'_> {
    /// "16 half-open connections from 14 addresses"
    fn half_open(&self) -> String {
        let sources = match self.fullest.syn_sources {
            Some(1) => " from one address".to_owned(),
            Some(count) => format!(" from {count} addresses"),
            None => String::new(),
        };
        format!("{} half-open connections{sources}", self.fullest.syn_recv)
    }
}

/// From the first and the last sample of the listener with the most half-open connections.
fn measure(samples: &[QueueSample]) -> Option<Seen<'_>> {
    let fullest = samples.iter().max_by_key(|sample| sample.syn_recv)?;
    let mut same = samples.iter().filter(|one| (one.netns, one.local) == (fullest.netns, fullest.local));
    let (first, last) = (same.next()?, same.next_back()?);
    let seconds = last.time_ns.saturating_sub(first.time_ns) as f64 / 1e9;
    let value = |sample: &'_ QueueSample, name: &str| sample.counters.get(name).copied();
    let rates = Rates::between(|name| value(first, name), |name| value(last, name), seconds)?;
    Some(Seen { fullest, rates })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Case, address};
    use super::*;
    use crate::enrich::facts::NetnsFact;
    use crate::probes::TcpState;
    use crate::track::Side;

    /// Two samples, four seconds apart.
    fn flooded(dropped: u64, finished: u64) -> Case {
        Case::connecting()
            .peer_on_this_machine()
            .syn_again(&[1000, 3000])
            .queues(1000, 0, 5, &[("TCPReqQFullDrop", 7), ("PassiveOpens", 3)])
            .queues(5000, 0, 5, &[("TCPReqQFullDrop", 7 + dropped), ("PassiveOpens", 3 + finished)])
            .with(|evidence| {
                let off = ("net.ipv4.tcp_syncookies".to_owned(), "0".to_owned());
                evidence.facts.peer_sysctls.extend([off]);
                for sample in &mut evidence.facts.queue_samples {
                    sample.syn_sources = Some(4);
                }
            })
    }

    #[test]
    fn many_syns_and_no_handshakes() {
        let (code, finding) = flooded(400, 0).diagnosed();
        assert_eq!((code, finding.confidence), ("flood.syn-flood", Confidence::Certain));
        assert!(finding.cause.contains("100 a second find no room among 5 half-open"), "{}", finding.cause);
        assert!(finding.cause.contains("from 4 addresses"), "{}", finding.cause);
    }

    #[test]
    fn a_crowd_finishes_its_handshakes() {
        assert_eq!(flooded(400, 100).diagnosed().0, "timeout.syn-queue-full");
    }

    #[test]
    fn a_trickle_is_no_flood() {
        assert_eq!(flooded(20, 0).diagnosed().0, "timeout.syn-queue-full");
    }

    #[test]
    fn without_the_counter_of_handshakes_nothing_is_said() {
        let case = flooded(400, 0).with(|evidence| {
            for sample in &mut evidence.facts.queue_samples {
                sample.counters.remove("PassiveOpens");
            }
        });
        assert_eq!(case.diagnosed().0, "timeout.syn-queue-full");
    }

    /// A listener with cookies: so many sent and valid in four seconds.
    fn listener(policy: &str, sent: u64, valid: u64, half_open: u32) -> Case {
        let counters = |sent, valid| {
            let names =
                ["TCPReqQFullDrop", "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "PassiveOpens"];
            names.into_iter().zip([0, sent, valid, 0, valid]).collect::<Vec<_>>()
        };
        let settings = ["net.ipv4.tcp_syncookies".to_owned(), "net.ipv4.tcp_timestamps".to_owned()];
        let settings = settings.into_iter().zip([policy.to_owned(), "1".to_owned()]);
        Case::ending(TcpState::SynRecv, TcpState::Close)
            .queues(1000, 0, half_open, &counters(0, 0))
            .queues(5000, 0, half_open, &counters(sent, valid))
            .with(|evidence| {
                evidence.connection.side = Side::Inbound;
                evidence.connection.local = address("10.0.1.2:8080");
                evidence.connection.peer = address("0.0.0.0:0");
                evidence.facts.sysctls.extend(settings);
                evidence.facts.netns = Some(NetnsFact { inode: 7, name: Some("web".into()) });
            })
    }

    #[test]
    fn cookies_that_nobody_answers() {
        let (code, finding) = listener("1", 2000, 40, 5).diagnosed();
        assert_eq!((code, finding.confidence), ("flood.syn-flood", Confidence::Likely));
        assert!(
            finding.cause.contains("500 SYN cookies a second are sent, 10 come back valid"),
            "{}",
            finding.cause
        );
        assert!(finding.headline.contains("goes on serving"), "{}", finding.headline);
        assert!(finding.explanation.contains("window scaling"), "{}", finding.explanation);
        let commands: Vec<&str> =
            finding.next_steps.iter().filter_map(|step| step.command.as_deref()).collect();
        assert!(commands[1].starts_with("ip netns exec web nstat"), "{commands:?}");
    }

    #[test]
    fn the_listener_of_a_flood_without_cookies() {
        let case = listener("0", 0, 0, 5).with(|evidence| {
            evidence.facts.queue_samples[1].counters.insert("TCPReqQFullDrop".into(), 400);
        });
        let (code, finding) = case.diagnosed();
        assert_eq!(code, "flood.syn-flood");
        assert!(finding.headline.contains("new clients get no answer"), "{}", finding.headline);
        assert_eq!(
            finding.next_steps[0].command.as_deref(),
            Some("ip netns exec web sysctl -w net.ipv4.tcp_syncookies=1")
        );
    }

    #[test]
    fn cookies_that_come_back_are_no_flood() {
        let healthy = |case: Case| assert_eq!(case.asked("flood.syn-flood"), Verdict::Healthy);
        healthy(listener("2", 2000, 1990, 5));
        healthy(listener("1", 2000, 1990, 5));
        healthy(listener("1", 2000, 0, 4));
        healthy(listener("1", 20, 0, 5));
        // The service does not accept: finished handshakes wait as half-open connections do.
        healthy(listener("1", 2000, 0, 5).with(|evidence| evidence.facts.queue_samples[0].accept_queue = 6));
        let unknown = listener("1", 2000, 0, 5).with(|evidence| evidence.facts.sysctls.clear());
        assert!(matches!(unknown.asked("flood.syn-flood"), Verdict::NotEnough(_)));
    }
}
