//! NAT of this machine may have sent the request to another end, and no packet tells.

use super::super::words::{host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Where, WhereSide};
use crate::enrich::facts::NatRule;

/// A rule of NAT that may have sent the request elsewhere, where no packet of it was seen.
pub(super) fn sent_on(evidence: &Evidence) -> Option<&NatRule> {
    let seen = evidence.connection.before_nat.is_some() || evidence.drops().next().is_some();
    evidence.facts.nat_rules.iter().flatten().next().filter(|_| !seen)
}

/// Who answered is not known, and the rule that fits is all that can be named.
pub(super) fn behind(evidence: &Evidence, rule: &NatRule) -> Finding {
    let peer = host_port(evidence.connection.peer);
    let NatRule { family, table, chain, handle, .. } = rule;
    let one = evidence.facts.nat_rules.iter().flatten().count() == 1;
    let to = rule.to.as_deref().filter(|_| one).map(|to| format!(" to {to}")).unwrap_or_default();
    // The other one is netdiag's own.
    let there = evidence.facts.netns.as_ref().filter(|netns| netns.inode == rule.netns);
    let prefix = in_netns(there.and_then(|netns| netns.name.as_deref()));
    let named = match handle {
        Some(handle) => format!("{family} {table} {chain} handle {handle}"),
        None => format!("table {table}, chain {chain}"),
    };
    let listing = match (handle, family.as_str()) {
        (Some(_), _) => format!("{prefix}nft -a list chain {family} {table} {chain}"),
        (None, "ip6") => format!("{prefix}ip6tables-legacy-save -t {table}"),
        (None, _) => format!("{prefix}iptables-legacy-save -t {table}"),
    };
    Finding::new(
        Confidence::Possible,
        Where::new(WhereSide::Unknown, Stage::Remote),
        "refused",
        format!("who answered says that nothing listens: NAT of this machine may send {peer} on{to}"),
    )
    .explain(format!(
        "The SYN was answered with RST, as by a host that has no listener on that port. A rule of NAT on this machine \
         ({named}) fits what goes to {peer} and sends it on{to}, so it was probably the end there that answered. It is not \
         known for sure: the packets were not watched, and connection tracking forgets a connection that is reset at once."
    ))
    .next("see where the rule sends it", listing)
    .next(
        "watch NAT at the next attempt",
        format!("{prefix}conntrack -E -p tcp --orig-port-dst {}", evidence.connection.peer.port()),
    )
    .advise("on the host where it is sent to, see what listens; start the service there, or correct the rule")
    .or(&["refused.no-listener", "refused.firewall-reject"])
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Case, Drop, there};
    use super::*;
    use crate::enrich::facts::NAT;
    use crate::track::What;

    fn refused() -> Case {
        Case::connecting().errno(libc::ECONNREFUSED).lasted(1).at(0, What::ResetReceived)
    }

    fn best(case: Case) -> (&'static str, Confidence, Finding) {
        let (code, finding) = case.diagnosed();
        (code, finding.confidence, finding)
    }

    #[test]
    fn who_answered_behind_nat_is_not_known() {
        let rule = |to: Option<&str>| NatRule {
            netns: 7,
            family: "ip".into(),
            table: "services".into(),
            chain: "out".into(),
            handle: Some(4),
            to: to.map(str::to_owned),
        };
        let nat = |case: Case, rules: Vec<NatRule>| case.with(|e| e.facts.nat_rules = Some(rules));
        let (code, confidence, finding) = best(nat(refused(), vec![rule(Some("10.0.9.9:80"))]));
        assert_eq!((code, confidence), ("refused.peer-no-listener", Confidence::Possible));
        assert_eq!(finding.alternatives, ["refused.no-listener", "refused.firewall-reject"]);
        assert!(finding.cause.ends_with("NAT of this machine may send 10.0.2.2:8080 on to 10.0.9.9:80"));
        assert_eq!(finding.next_steps[0].command.as_deref(), Some("nft -a list chain ip services out"));
        // Of several nobody knows which.
        let several = vec![rule(Some("10.0.9.9:80")), rule(Some("10.0.9.8:80"))];
        let (_, _, finding) = best(nat(refused(), several));
        assert!(finding.cause.ends_with("may send 10.0.2.2:8080 on"), "{}", finding.cause);
        // An address of this machine says nothing then, whoever listens there.
        let here = || refused().peer_on_this_machine();
        for case in [here(), here().with(|e| e.facts.listeners = Some(Vec::new()))] {
            let (code, confidence, _) = best(nat(case, vec![rule(None)]));
            assert_eq!((code, confidence), ("refused.peer-no-listener", Confidence::Possible));
        }
        // No rule fits, or the SYN itself was seen.
        assert_eq!(best(nat(refused(), Vec::new())).1, Confidence::Likely);
        let unknown = refused().with(|e| e.facts.not_looked_up.push(NAT.to_owned()));
        assert_eq!(best(unknown).1, Confidence::Possible);
        let no_socket = Drop::syn("NO_SOCKET", "tcp_v4_rcv").place(there());
        let (code, confidence, _) = best(nat(
            here().with(|e| e.facts.listeners = Some(Vec::new())).dropped(0, no_socket),
            vec![rule(None)],
        ));
        assert_eq!((code, confidence), ("refused.no-listener", Confidence::Certain));
    }
}
