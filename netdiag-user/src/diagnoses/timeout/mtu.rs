//! Packets that a link on this machine does not take, and a sender that does not learn of it.

use super::super::words::how_it_ended;
use super::dropped::{Drop, ended_it, last_drop};
use super::{
    Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, own_netns, too_big, where_phrase,
};
use crate::track::What;

/// Path MTU discovery that works loses a packet, too: the next copy is small enough, and the connection goes on.
pub(super) fn mtu_blackhole(evidence: &Evidence) -> Verdict {
    let is_too_big = |drop: &Drop| drop.reason == "PKT_TOO_BIG";
    let Some(drop) = last_drop(evidence, true, is_too_big) else { return Verdict::Healthy };
    let whole = ended_it(evidence, &drop) || told_again(evidence);
    let there = where_phrase(evidence, drop.place);
    let ns = enter(evidence, drop.place);
    let peer = evidence.connection.peer;
    let (message, largest) = match peer.ip().to_canonical().is_ipv4() {
        true => ("ICMP \"fragmentation needed\" (type 3 code 4)", 1472),
        false => ("ICMPv6 \"packet too big\" (type 2)", 1452),
    };
    let finding = Finding::new(
        if whole { Confidence::Certain } else { Confidence::Possible },
        Where::new(WhereSide::Local, Stage::Route).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("packets are larger than the next link takes{there}, and the sender does not learn of it"),
    )
    .explain(format!(
        "The handshake and other small packets passed, full ones did not: they were to be forwarded{there} to an interface \
         whose MTU is smaller, and may not be cut. The sender should be told with {message}, and send smaller ones; it \
         went on with large ones, so that message is lost or ignored. Often a firewall drops it."
    ))
    .next("which interface there has the smaller MTU?", format!("{ns}ip link"))
    .next(
        "does the message arrive at the sender?",
        format!("{}tcpdump -nvi any 'icmp or icmp6'", own_netns(evidence)),
    )
    .next(
        "what is the largest packet that passes? Try smaller ones",
        format!("{}ping -M do -c 2 -s {largest} {}", own_netns(evidence), peer.ip()),
    )
    .advise(format!("let {message} pass in every firewall on the way"))
    .next(
        "or let the handshake announce what fits",
        format!("{ns}iptables -t mangle -A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu"),
    );
    if whole { finding } else { finding.or(&["timeout.peer-vanished"]) }.found()
}

/// Drops of one flow are told only so often; the message that goes with each is told every time.
fn told_again(evidence: &Evidence) -> bool {
    let ipv4 = evidence.connection.peer.ip().to_canonical().is_ipv4();
    let again = evidence.find(|what| match what {
        What::Retransmit { .. } => Some(()),
        _ => None,
    });
    let Some((last, ())) = again.last() else { return false };
    evidence
        .find(move |what| match what {
            What::IcmpSent { outgoing: true, icmp_type, icmp_code, .. } => {
                too_big(ipv4, *icmp_type, *icmp_code).then_some(())
            }
            _ => None,
        })
        .any(|(time_ns, ())| time_ns.saturating_add(100_000_000) >= last)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ACK, Case, Drop, there};
    use super::*;
    use crate::probes::TcpState;

    const CODE: &str = "timeout.mtu-blackhole";

    fn too_big() -> Drop {
        Drop::syn("PKT_TOO_BIG", "ip_forward").flags(ACK).place(there())
    }

    fn silent(retransmits: &[u64]) -> Case {
        Case::ending(TcpState::Established, TcpState::FinWait1).data_again(retransmits)
    }

    #[test]
    fn full_packets_are_lost_every_time() {
        let case = silent(&[200, 600, 1400]).dropped(0, too_big()).dropped(1400, too_big());
        let (code, finding) = case.diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert_eq!(finding.place.netns_name.as_deref(), Some("srv"));
    }

    #[test]
    fn a_drop_that_is_not_told_any_more_has_its_message() {
        let sent = || What::IcmpSent { icmp_type: 3, icmp_code: 4, outgoing: true, place: there() };
        let case = || silent(&[200, 600, 1400]).dropped(0, too_big()).at(0, sent());
        assert_eq!(case().at(1400, sent()).found(CODE).confidence, Confidence::Certain);
        let finding = case().found(CODE);
        assert_eq!(
            (finding.confidence, &finding.alternatives[..]),
            (Confidence::Possible, &["timeout.peer-vanished"][..])
        );
    }

    #[test]
    fn path_mtu_discovery_that_works_is_none() {
        let reset = Case::ending(TcpState::Established, TcpState::Close).errno(libc::ECONNRESET);
        assert_eq!(reset.dropped(0, too_big()).asked(CODE), Verdict::Healthy);
        assert_eq!(silent(&[200, 600]).asked(CODE), Verdict::Healthy);
        let rule = Drop::syn("NETFILTER_DROP", "nft_do_chain").flags(ACK).place(there());
        assert_eq!(silent(&[200]).dropped(200, rule).asked(CODE), Verdict::Healthy);
    }
}
