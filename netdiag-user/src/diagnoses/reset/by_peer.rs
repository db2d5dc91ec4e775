//! A RST came in.

use super::cause::{got_reset, refused_by_listener};
use super::known::{bytes, errno};
use crate::diagnoses::rule::{self, Allow};
use crate::diagnoses::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, words};
use crate::probes::{DropRule, Packet, TcpState};
use crate::track::{End, Side, What};

/// The answer of a rule of this machine comes at once.
const AT_ONCE_NS: u64 = 100_000_000;

/// Who sent the RST, as far as it can be told.
enum Origin<'a> {
    /// The kernel of the peer's namespace, on this machine, had no socket for our segment.
    Forgotten { what: &'a What },
    /// The other end's socket on this machine.
    PeerHere,
    /// A rule of this machine's firewall that rejects dropped our packet right before.
    Rejected { what: &'a What, rule: &'a DropRule },
    /// A firewall of this machine dropped our packet, and may have answered for the peer.
    Firewall,
    /// The RST's time to live is not that of the SYN-ACK.
    OtherTtl { syn_ack: u8, rst: u8 },
    /// The time to live fits, or was not seen.
    Remote { same_ttl: bool },
}

pub(super) fn by_peer(evidence: &Evidence) -> Verdict {
    if !got_reset(evidence) || refused_by_listener(evidence) {
        return Verdict::Healthy;
    }
    let connection = &evidence.connection;
    let other = if connection.side == Side::Outbound { "the peer" } else { "the client" };
    let origin = origin(evidence);
    if let Origin::Rejected { what, rule } = origin {
        return rejected(evidence, what, rule);
    }
    let seen = evidence.timeline.iter().any(|moment| moment.what == What::ResetReceived);
    let confidence = match origin {
        Origin::Forgotten { .. } | Origin::Rejected { .. } => Confidence::Certain,
        Origin::PeerHere if seen => Confidence::Certain,
        Origin::PeerHere | Origin::Remote { .. } => Confidence::Likely,
        Origin::Firewall | Origin::OtherTtl { .. } => Confidence::Possible,
    };
    let conversation = conversation(evidence);
    let cause = match origin {
        Origin::Forgotten { what: What::Dropped { place, .. } } => {
            let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
            format!("{other}'s kernel{there} no longer has a socket for it; {conversation}")
        }
        Origin::Forgotten { .. } => format!("{other}'s kernel no longer has a socket for it; {conversation}"),
        Origin::PeerHere => format!("{other} sent RST; {conversation}"),
        Origin::Remote { same_ttl: true } => {
            format!("{other} sent RST (same TTL as its SYN-ACK); {conversation}")
        }
        Origin::Remote { same_ttl: false } => {
            format!("{other}, or a device in its name, sent RST; {conversation}")
        }
        Origin::OtherTtl { syn_ack, rst } => {
            format!(
                "a RST came with TTL {rst}, {other}'s SYN-ACK had {syn_ack}: perhaps a device in between; {conversation}"
            )
        }
        Origin::Firewall | Origin::Rejected { .. } => {
            format!("a RST came after a firewall of this machine had dropped a packet of it; {conversation}")
        }
    };
    let after = words::duration(connection.duration());
    let headline = format!("reset by {other} after {after}{}", errno(evidence));
    let finding = Finding::new(confidence, place(evidence, &origin), headline, cause).explain(format!(
        "The connection was up, and then a RST came in that TCP accepted: {other} says that it gives the connection up, or \
         does not know it. {} A RST carries no reason; the other side's log has it.",
        stage(evidence)
    ));
    let finding = steps(evidence, finding);
    match origin {
        Origin::Firewall => finding.or(&["timeout.firewall-drop"]),
        _ => finding,
    }
    .found()
}

fn origin(evidence: &Evidence) -> Origin<'_> {
    if let Some((_, what)) = evidence.drop_of(&["NO_SOCKET"], true) {
        return Origin::Forgotten { what };
    }
    let rejected = evidence.filtered_at_end(AT_ONCE_NS).filter_map(|what| match what {
        What::Dropped { rule: Some(rule), .. } if rule.candidates().any(|rule| rule.rejects) => {
            Some(Origin::Rejected { what, rule })
        }
        _ => None,
    });
    if let Some(origin) = rejected.last() {
        return origin;
    }
    if evidence.drop_of(&["NETFILTER_DROP"], true).is_some() {
        return Origin::Firewall;
    }
    let ttl = |wanted: fn(&Packet) -> bool| {
        evidence.answers_on_wire().find_map(|(_, what)| match what {
            What::Wire { packet, .. } if wanted(packet) => Some(packet.ttl),
            _ => None,
        })
    };
    match (ttl(Packet::is_syn_ack), ttl(Packet::is_rst)) {
        (Some(syn_ack), Some(rst)) if syn_ack != rst => Origin::OtherTtl { syn_ack, rst },
        _ if evidence.peer_is_local() == Some(true) => Origin::PeerHere,
        (Some(_), Some(_)) => Origin::Remote { same_ttl: true },
        _ => Origin::Remote { same_ttl: false },
    }
}

fn rejected(evidence: &Evidence, what: &What, named: &DropRule) -> Verdict {
    let What::Dropped { packet, hook, place, symbol, .. } = what else { return Verdict::Healthy };
    let there = words::netns_phrase(evidence, Some(place.netns), place.netns_name.as_deref());
    let after = words::duration(evidence.connection.duration());
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Netfilter).at(place).symbol(symbol.as_deref()),
        format!("reset after {after}{}", errno(evidence)),
        format!("a firewall of this machine{there} answered a packet of it with RST, in the peer's name"),
    )
    .firewall(rule::fact(None, *hook, Some(named)))
    .explain(format!(
        "The connection was up, and then a rule{there} that rejects took one of its packets. The peer did not send the RST, \
         and may not know of it. {}",
        rule::sentence(named)
    ));
    rule::steps(finding, &words::enter(evidence, place), named, Allow::Packet(&packet.tuple)).found()
}

fn place(evidence: &Evidence, origin: &Origin) -> Where {
    let mut at = Where::new(WhereSide::Peer, Stage::Remote);
    match origin {
        Origin::Forgotten { what: What::Dropped { place, symbol, .. } } => {
            return Where::new(WhereSide::Peer, Stage::Tcp).at(place).symbol(symbol.as_deref());
        }
        Origin::OtherTtl { .. } | Origin::Firewall => at.side = WhereSide::Unknown,
        _ => {}
    }
    if let (Origin::PeerHere, Some([namespace])) = (origin, evidence.facts.peer_namespaces.as_deref()) {
        at.netns = u32::try_from(namespace.inode).ok();
        at.netns_name = namespace.name.clone();
    }
    at
}

/// "sent 120 bytes, received 0 bytes".
fn conversation(evidence: &Evidence) -> String {
    let tcp = &evidence.connection.tcp;
    // tcp_sock counts the SYN of the side that sent it (net/ipv4/tcp_input.c tcp_snd_una_update).
    let syn = u64::from(evidence.connection.side == Side::Outbound);
    let fin = u64::from(from(evidence) == Some(TcpState::CloseWait));
    let sent = tcp.bytes_acked.map(|count| count.saturating_sub(syn));
    let received = tcp.bytes_received.map(|count| count.saturating_sub(fin));
    let text = match (sent, received) {
        (Some(sent), Some(received)) => {
            format!("{} had been acknowledged, {} received", bytes(sent), bytes(received))
        }
        _ => "how much had been exchanged is not known".to_owned(),
    };
    match tcp.unacked.unwrap_or(0) {
        0 => text,
        unacked => format!("{text}, {} not acknowledged", bytes(unacked.into())),
    }
}

fn from(evidence: &Evidence) -> Option<TcpState> {
    match evidence.connection.end {
        End::State { from, .. } => Some(from),
        _ => None,
    }
}

/// What the stage of the conversation suggests.
fn stage(evidence: &Evidence) -> &'static str {
    let tcp = &evidence.connection.tcp;
    match (from(evidence), tcp.bytes_received) {
        (Some(TcpState::CloseWait), _) => {
            "It had said before that it would send no more (FIN), and this side still had something to send."
        }
        (Some(TcpState::FinWait1 | TcpState::FinWait2), _) => {
            "This side had already said that it would send no more (FIN)."
        }
        (_, Some(0)) => {
            "Nothing had come from it yet: it may have refused the request, crashed on it, or have no service behind it."
        }
        _ => {
            "Both sides had exchanged data: a crash, a restart, a time limit or a close in the middle are the usual reasons."
        }
    }
}

fn steps(evidence: &Evidence, finding: Finding) -> Finding {
    let peer = evidence.connection.peer;
    let prefix = words::in_netns(evidence.facts.netns.as_ref().and_then(|netns| netns.name.as_deref()));
    let capture = format!("{prefix}tcpdump -nvi any 'host {} and tcp port {}'", peer.ip(), peer.port());
    finding
        .advise("look at the other side's log and restarts at that moment")
        .next("see what comes before the RST, and compare the ttl", capture)
        .next(
            "on the other side: does it close with unread data (TCPAbortOnClose)?",
            "nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData TcpOutRsts",
        )
        .advise("if it was idle before, make this side's idle limit shorter than the other side's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnoses::testing::{ACK, Case, Drop, RST, SYN, there};

    const CODE: &str = "reset.by-peer";

    fn reset() -> Case {
        let case = Case::ending(TcpState::Established, TcpState::Close).errno(libc::ECONNRESET);
        case.at(4999, What::ResetReceived)
            .tcp(|tcp| (tcp.bytes_acked, tcp.bytes_received) = (Some(121), Some(40)))
    }

    #[test]
    fn by_a_remote_peer() {
        let (code, finding) = reset().diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        assert_eq!(finding.headline, "reset by the peer after 5.0 s (ECONNRESET)");
        assert!(
            finding.cause.contains("120 bytes had been acknowledged, 40 bytes received"),
            "{}",
            finding.cause
        );
        assert!(!finding.explanation.is_empty() && !finding.next_steps.is_empty());
        let pipe = Case::ending(TcpState::CloseWait, TcpState::Close).errno(libc::EPIPE).found(CODE);
        assert!(pipe.explanation.contains("(FIN)"));
    }

    #[test]
    fn by_a_peer_on_this_machine() {
        let finding = reset().peer_on_this_machine().found(CODE);
        assert_eq!(
            (finding.confidence, finding.place.netns_name.as_deref()),
            (Confidence::Certain, Some("srv"))
        );
        let gone =
            reset().dropped(4999, Drop::syn("NO_SOCKET", "tcp_v4_rcv").flags(ACK).place(there())).found(CODE);
        assert_eq!((gone.confidence, gone.place.stage), (Confidence::Certain, Stage::Tcp));
    }

    #[test]
    fn by_a_rule_of_this_machine() {
        let rule = |rejects| DropRule { rejects, handle: Some(5), ..DropRule::default() };
        let dropped = |rejects| {
            Drop::syn("NETFILTER_DROP", "nft_do_chain").flags(ACK).place(there()).rule(rule(rejects))
        };
        let case = || reset().lasted(5000);
        let finding = case().dropped(4999, dropped(true)).found(CODE);
        assert_eq!((finding.confidence, finding.place.stage), (Confidence::Certain, Stage::Netfilter));
        let in_silence = case().dropped(4999, dropped(false)).found(CODE);
        assert_eq!(in_silence.confidence, Confidence::Possible);
        let long_ago = case().dropped(1000, dropped(true)).found(CODE);
        assert_eq!(long_ago.confidence, Confidence::Possible);
    }

    #[test]
    fn ttl_that_does_not_fit() {
        let case = reset().came(1, SYN | ACK).came(4999, RST);
        assert!(case.found(CODE).cause.contains("same TTL"));
        let case = reset().came(1, SYN | ACK).came(4999, RST).with(|e| {
            if let Some(What::Wire { packet, .. }) = e.timeline.last_mut().map(|m| &mut m.what) {
                packet.ttl = 255;
            }
        });
        assert_eq!(case.found(CODE).confidence, Confidence::Possible);
    }

    #[test]
    fn not_a_reset_of_a_conversation() {
        let miss = |case: Case| assert_eq!(case.asked(CODE), Verdict::Healthy);
        miss(Case::connecting().errno(libc::ECONNREFUSED).at(1, What::ResetReceived));
        miss(Case::ending(TcpState::Established, TcpState::Close).errno(libc::ETIMEDOUT));
        let finished = Case::ending(TcpState::FinWait2, TcpState::Close).errno(libc::ECONNRESET);
        miss(finished.tcp(|tcp| tcp.bytes_received = Some(500)));
        miss(Case::ending(TcpState::LastAck, TcpState::Close).errno(libc::EPIPE));
        let overflow = What::ResetAnswered {
            reason: None,
            state: Some(TcpState::Listen),
            accept_queue: 6,
            backlog: 5,
            place: there(),
        };
        miss(reset().at(4998, overflow));
        let setting = ("net.ipv4.tcp_abort_on_overflow".to_owned(), "1".to_owned());
        let aborts = |received| {
            let setting = setting.clone();
            reset()
                .tcp(|tcp| tcp.bytes_received = Some(received))
                .with(|e| e.facts.peer_sysctls.extend([setting]))
        };
        miss(aborts(0));
        assert_eq!(aborts(40).found(CODE).confidence, Confidence::Likely);
    }
}
