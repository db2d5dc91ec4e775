//! SYNs that fill the queue of a listener on this machine.

use super::super::timeout::syn_queue_full;
use super::super::{Confidence, Evidence, Verdict};
use crate::enrich::facts::QueueSample;

/// A flood has at least so many SYNs a second that the queue has no room for.
pub const MIN_RATE: f64 = 10.0;
/// And of those so few are finished, in percent: a crowd of real clients finishes its handshakes.
pub const MAX_FINISHED_PERCENT: f64 = 10.0;
/// Samples that are closer say nothing about a rate.
const MIN_SECONDS: f64 = 0.2;

/// Whether that is a flood: SYNs a second beyond what the queue holds, and handshakes finished a second.
pub fn is_flood(excess: f64, finished: f64) -> bool {
    excess >= MIN_RATE && finished * 100.0 < excess * MAX_FINISHED_PERCENT
}

/// The SYN queue is full, and the kernel drops many more SYNs than handshakes are finished (net/ipv4/tcp_input.c,
/// `tcp_conn_request`, counts the former; `tcp_create_openreq_child` the latter).
pub fn syn_flood(evidence: &Evidence) -> Verdict {
    let Verdict::Found(mut finding) = syn_queue_full(evidence) else { return Verdict::Healthy };
    if finding.confidence != Confidence::Certain {
        return Verdict::Healthy;
    }
    let Some(seen) = measure(&evidence.facts.queue_samples) else { return Verdict::Healthy };
    if !is_flood(seen.dropped, seen.finished) {
        return Verdict::Healthy;
    }
    let sources = match seen.sources {
        Some(1) => " from one address".to_owned(),
        Some(count) => format!(" from {count} addresses"),
        None => String::new(),
    };
    let port = evidence.connection.peer.port();
    finding.cause = format!(
        "a flood of SYNs to port {port}: {:.0} a second find no room among {} half-open connections{sources}, and SYN \
         cookies are off",
        seen.dropped, seen.half_open
    );
    finding.explanation = format!(
        "For each SYN the kernel keeps a note until the handshake is finished. The listener's queue is full of notes \
         that nobody finishes ({:.0} handshakes a second are), so with net.ipv4.tcp_syncookies=0 the SYNs of real \
         clients are dropped in silence. The addresses of a flood are mostly invented: blocking them is of no use. \
         With SYN cookies the kernel needs no note, and real clients get through.",
        seen.finished
    );
    Verdict::Found(finding)
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    half_open: u32,
    sources: Option<u32>,
    /// SYNs dropped and handshakes finished, a second.
    dropped: f64,
    finished: f64,
}

/// From the first and the last sample of the listener with the most half-open connections.
fn measure(samples: &[QueueSample]) -> Option<Seen> {
    let fullest = samples.iter().max_by_key(|sample| sample.syn_recv)?;
    let mut same = samples.iter().filter(|one| (one.netns, one.local) == (fullest.netns, fullest.local));
    let (first, last) = (same.next()?, same.next_back()?);
    let seconds = last.time_ns.saturating_sub(first.time_ns) as f64 / 1e9;
    let rate = |name: &str| {
        let (before, after) = (first.counters.get(name)?, last.counters.get(name)?);
        Some(after.saturating_sub(*before) as f64 / seconds)
    };
    (seconds >= MIN_SECONDS).then_some(())?;
    Some(Seen {
        half_open: fullest.syn_recv,
        sources: fullest.syn_sources,
        dropped: rate("TCPReqQFullDrop")?,
        finished: rate("PassiveOpens")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Case;
    use super::*;

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
}
