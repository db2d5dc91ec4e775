//! The accept queue overflowed, and the listener answers with RST.

use super::super::words::{errno_name, host_port, in_netns, netns_phrase};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::was_reset;
use crate::enrich::facts::QueueSample;
use crate::probes::{TcpState, protocol};
use crate::track::{Place, Side, What};

const ABORT: &str = "net.ipv4.tcp_abort_on_overflow";

/// The client has its SYN-ACK, so it is ESTABLISHED and the RST reaches it as ECONNRESET, or EPIPE once it
/// writes again (net/ipv4/tcp_minisocks.c, tcp_check_req: listen_overflow).
pub fn overflow(evidence: &Evidence) -> Verdict {
    let connection = &evidence.connection;
    let Some(errno @ (libc::ECONNRESET | libc::EPIPE)) = connection.errno else { return Verdict::Healthy };
    if connection.protocol != protocol::TCP
        || connection.side != Side::Outbound
        || !connection.was_established()
        || connection.tcp.bytes_received.is_some_and(|bytes| bytes > 0)
        || evidence.peer_is_local() != Some(true)
    {
        return Verdict::Healthy;
    }
    let answer = listener_reset(evidence);
    let sample =
        evidence.facts.queue_samples.iter().rev().find(|sample| sample.accept_queue > sample.backlog);
    let (confidence, queue, backlog) = match (&answer, sample) {
        (Some((_, queue, backlog)), _) if queue > backlog => (Confidence::Certain, *queue, *backlog),
        (Some(_), Some(sample)) => (Confidence::Likely, sample.accept_queue, sample.backlog),
        (None, Some(sample)) if was_reset(evidence) => {
            // Several namespaces have the address: the queue may be another's.
            let guess = evidence.facts.peer_ambiguous;
            let confidence = if guess { Confidence::Possible } else { Confidence::Likely };
            (confidence, sample.accept_queue, sample.backlog)
        }
        _ => return Verdict::Healthy,
    };
    match abort_on_overflow(evidence) {
        Some(true) => {}
        Some(false) => return Verdict::Healthy,
        None => return Verdict::NotEnough(format!("{ABORT} of the listener's namespace is not known")),
    }
    let place = answer.map(|(place, ..)| place.clone()).or_else(|| sample.map(|s| sample_place(evidence, s)));
    let place = place.unwrap_or_default();
    let netns = (place.netns != 0).then_some(place.netns);
    let there = netns_phrase(evidence, netns, place.netns_name.as_deref());
    let prefix = in_netns(place.netns_name.as_deref());
    let peer = connection.peer;
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Tcp).at(&place),
        format!("reset right after the handshake ({})", errno_name(errno)),
        format!("the accept queue of {}{there} is full ({queue} wait, {backlog} may)", host_port(peer)),
    )
    .explain(format!(
        "The handshake was all but complete, but the listener's queue of connections that wait for accept() \
         had no room. {ABORT} is 1 there, so the kernel answered with RST instead of letting the client try \
         again. The service does not call accept() as fast as connections come in."
    ))
    .next("see the queue (full: Recv-Q above Send-Q)", format!("{prefix}ss -ltnp 'sport = :{}'", peer.port()))
    .advise("find out why the service does not accept: stopped, out of file descriptors, all workers busy")
    .next("let a short burst cost a retransmission, not an error", format!("{prefix}sysctl -w {ABORT}=0"));
    let listener = evidence.facts.listeners.iter().flatten().find(|listener| {
        netns.is_none_or(|inode| listener.netns == u64::from(inode)) && listener.accepts(peer.ip())
    });
    if let Some(listener) = listener {
        finding = finding.listener(listener.clone());
    }
    if confidence == Confidence::Possible {
        finding = finding.or(&["reset.by-peer"]);
    }
    finding.found()
}

/// The RST that a listening socket of this machine sent for this connection: place, queue, its bound.
fn listener_reset(evidence: &Evidence) -> Option<(&Place, u32, u32)> {
    let answers = evidence.find(|what| match what {
        What::ResetAnswered { reason, state, accept_queue, backlog, place } => {
            let overflow = reason.as_deref() == Some("TCP_LISTEN_OVERFLOW");
            (overflow || *state == Some(TcpState::Listen)).then_some((place, *accept_queue, *backlog))
        }
        _ => None,
    });
    answers.map(|(_, answer)| answer).last()
}

/// The setting where the listener is; `None` where it is not known.
fn abort_on_overflow(evidence: &Evidence) -> Option<bool> {
    let facts = &evidence.facts;
    let own = facts.sysctls.get(ABORT).filter(|_| evidence.connection.peer.ip().is_loopback());
    facts.peer_sysctls.get(ABORT).or(own).map(|value| value.trim() != "0")
}

fn sample_place(evidence: &Evidence, sample: &QueueSample) -> Place {
    let known = evidence.facts.peer_namespaces.iter().flatten();
    let name = known.filter(|netns| netns.inode == sample.netns).find_map(|netns| netns.name.clone());
    Place { netns: u32::try_from(sample.netns).unwrap_or(0), netns_name: name, interface: None }
}
