//! Packets of the connection that this machine dropped.

use super::{Evidence, Place, What, connecting, syn_acks, went_silent};
use crate::probes::{DropRule, Packet, TcpState};
use crate::track::Hook;

/// A packet that passes the firewall may take this long to be dropped further on, and a drop on the way out
/// comes before the retransmission is reported.
const SAME_ATTEMPT_NS: u64 = 100_000_000;

/// One drop of a packet that mattered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drop<'a> {
    pub(super) time_ns: u64,
    pub(super) packet: &'a Packet,
    pub(super) outgoing: bool,
    pub(super) reason: &'a str,
    pub(super) symbol: Option<&'a str>,
    pub(super) hook: Option<Hook>,
    pub(super) place: &'a Place,
    /// What the kernel named.
    pub(super) rule: Option<&'a DropRule>,
}

impl Drop<'_> {
    /// Kernels without drop reasons (before 5.17) name only the place.
    pub(super) fn has_reason(&self) -> bool {
        !matches!(self.reason, "" | "NOT_SPECIFIED")
    }

    pub(super) fn by_netfilter(&self) -> bool {
        let symbol = self.symbol.unwrap_or_default();
        self.reason == "NETFILTER_DROP"
            || (!self.has_reason()
                && (symbol.starts_with("nf_hook_slow") || symbol.starts_with("nft_do_chain")))
    }

    pub(super) fn by_reverse_path(&self) -> bool {
        self.reason == "IP_RPFILTER"
            || (!self.has_reason()
                && self.symbol.is_some_and(|symbol| symbol.starts_with("ip_rcv_finish_core")))
    }

    /// "the SYN", "the answer (SYN-ACK)", "what was sent".
    pub(super) fn what(&self) -> &'static str {
        match self.packet {
            packet if packet.is_syn() => "the SYN",
            packet if packet.is_syn_ack() => "the answer (SYN-ACK)",
            packet if packet.is_rst() => "the answer (RST)",
            _ if self.outgoing => "what was sent",
            _ => "what the peer sent",
        }
    }
}

/// Drops of packets that the connection was waiting for: the SYN or its answer (a RST
/// is one) while it connected, segments other than RST once it was silent.
fn that_mattered<'a>(evidence: &'a Evidence, outgoing: bool) -> impl Iterator<Item = Drop<'a>> {
    let connecting = connecting(evidence);
    let silent = went_silent(evidence);
    let end = evidence.connection.end_ns;
    evidence.drops().filter_map(move |(time_ns, what)| {
        let What::Dropped { packet, outgoing: out, reason, symbol, hook, place, rule, .. } = what else {
            return None;
        };
        let mattered = if connecting {
            if outgoing { packet.is_syn() } else { packet.is_syn_ack() || packet.is_rst() }
        } else {
            silent && !packet.is_rst() && !packet.is_syn()
        };
        (mattered && *out == outgoing && time_ns <= end + SAME_ATTEMPT_NS).then_some(Drop {
            time_ns,
            packet,
            outgoing,
            reason,
            symbol: symbol.as_deref(),
            hook: *hook,
            place,
            rule: rule.as_deref(),
        })
    })
}

/// The last time that the SYN, or unanswered data, was sent.
fn last_attempt(evidence: &Evidence) -> u64 {
    let wanted = |state: TcpState| (state == TcpState::SynSent) == evidence.connection.died_connecting();
    evidence
        .find(move |w| matches!(w, What::Retransmit { state, .. } if wanted(*state)).then_some(()))
        .map(|(time, ())| time)
        .last()
        .unwrap_or(evidence.connection.start_ns)
}

/// Whether `drop` ended the last attempt too: if not, a later copy passed, and something else was wrong too.
pub(super) fn ended_it(evidence: &Evidence, drop: &Drop) -> bool {
    drop.time_ns.saturating_add(SAME_ATTEMPT_NS) >= last_attempt(evidence)
}

pub(super) fn last_drop<'a>(
    evidence: &'a Evidence,
    outgoing: bool,
    pick: impl Fn(&Drop<'a>) -> bool,
) -> Option<Drop<'a>> {
    let mut last = that_mattered(evidence, outgoing).filter(|drop| pick(drop)).last()?;
    if last.rule.is_none_or(|rule| !rule.basis.is_exact()) {
        // Of another copy, in the same place, the kernel may have said more.
        let same = |drop: &Drop| {
            (drop.symbol, drop.hook, drop.place.netns) == (last.symbol, last.hook, last.place.netns)
        };
        let copies = that_mattered(evidence, outgoing).filter(|drop| pick(drop) && same(drop));
        let rules: Vec<&DropRule> = copies.filter_map(|drop| drop.rule).collect();
        let exact = rules.iter().copied().find(|rule| rule.basis.is_exact());
        last.rule = exact.or(last.rule).or(rules.first().copied());
    }
    Some(last)
}

pub(super) fn accepted_answer(evidence: &Evidence) -> bool {
    connecting(evidence) && syn_acks(evidence).next().is_some()
}
