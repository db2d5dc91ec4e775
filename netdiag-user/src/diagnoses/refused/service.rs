//! kube-proxy said no: the Service has no endpoints.

use super::super::rule;
use super::super::words::{enter, netns_phrase};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::firewall::{self, Rejected};
use super::request;
use crate::probes::DropRule;

/// What kube-proxy writes behind the Service's name (kubernetes, pkg/proxy/iptables/proxier.go).
const NO_ENDPOINTS: &str = " has no endpoints";
/// Its table and chain in the nftables mode (pkg/proxy/nftables/proxier.go).
const TABLE: &str = "kube-proxy";
const CHAIN: &str = "reject-chain";

/// A Service's port as Kubernetes names it: `NAMESPACE/NAME:PORT`, the port where it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
    whole: &'a str,
}

impl<'a> Service<'a> {
    /// Of a rule that kube-proxy made.
    fn of(rule: &'a DropRule) -> Option<Self> {
        let by_comment = rule.comment.as_deref().and_then(|comment| comment.strip_suffix(NO_ENDPOINTS));
        let own = (rule.table.as_str(), rule.chain.as_str()) == (TABLE, CHAIN);
        Self::parse(by_comment.or(rule.element.as_deref().filter(|_| own))?)
    }

    fn parse(whole: &'a str) -> Option<Self> {
        let (namespace, rest) = whole.split_once('/')?;
        let name = rest.split_once(':').map_or(rest, |(name, _)| name);
        // RFC 1123: what an object of Kubernetes may be called; it goes into commands.
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        (is_name(namespace) && is_name(name)).then_some(Self { namespace, name, whole })
    }
}

/// A rule of kube-proxy's rejected it.
pub fn no_endpoints(evidence: &Evidence) -> Verdict {
    let Some(Rejected { packet, symbol, hook, place, rule: Some(rule) }) = firewall::last(evidence) else {
        return Verdict::Healthy;
    };
    let services: Vec<_> = rule.candidates().map(Service::of).collect();
    let Some(service) = services[0].filter(|first| services.iter().all(|one| *one == Some(*first))) else {
        return Verdict::Healthy;
    };
    let peer = evidence.connection.peer;
    let there =
        netns_phrase(evidence, Some(place.netns).filter(|inode| *inode != 0), place.netns_name.as_deref());
    let Service { namespace, name, whole } = service;
    let what = request(evidence);
    Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Netfilter).at(place).symbol(symbol),
        "refused",
        format!("the Service {whole} has no endpoints: kube-proxy rejects the {what}{there}"),
    )
    .firewall(rule::fact(None, hook, Some(&rule)))
    .explain(format!(
        "{} is an address of the Service {name} in the Kubernetes namespace {namespace}. No pod that is ready stands behind \
         that Service now, so kube-proxy put a rule{there} that rejects what is sent to it. {} Neither the network nor \
         the rule is at fault: the pods are.",
        packet.tuple.destination,
        rule::sentence(&rule),
    ))
    .next(
        "see its endpoints: none is ready",
        format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"),
    )
    .next("which pods does it select, and on which port?", format!("kubectl -n {namespace} describe service {name}"))
    .next("are these pods there, and ready?", format!("kubectl -n {namespace} get pods -o wide --show-labels"))
    .next(
        "the rule itself, which kube-proxy takes away once a pod is ready",
        match rule.table.as_str() {
            TABLE => format!(
                "{}nft list map {} {TABLE} no-endpoint-services",
                enter(evidence, place),
                rule.family
            ),
            _ => format!("{}{} | grep 'has no endpoints'", enter(evidence, place), rule::save_command(&rule)),
        },
    )
    .advise(format!("if {peer} is not meant to be that Service, correct the address in the client"))
    .found()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, Case, there};
    use super::*;
    use crate::probes::{Basis, Engine};
    use crate::track::Hook;

    const CODE: &str = "refused.service-no-endpoints";

    fn rule() -> DropRule {
        DropRule {
            engine: Engine::Iptables,
            family: "ip".into(),
            table: "filter".into(),
            chain: "KUBE-SERVICES".into(),
            handle: Some(4),
            number: Some(1),
            rejects: true,
            comment: Some("default/web:http has no endpoints".into()),
            ..DropRule::default()
        }
    }

    fn refused(rule: DropRule) -> Case {
        let drop = testing::Drop::syn("NETFILTER_DROP", "nft_do_chain").hook(Hook::Output).place(there());
        Case::connecting().errno(libc::ECONNREFUSED).lasted(1).dropped(0, drop.rule(rule))
    }

    #[test]
    fn the_service_is_named() {
        let (code, finding) = refused(rule()).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert!(
            finding.cause.starts_with("the Service default/web:http has no endpoints"),
            "{}",
            finding.cause
        );
        let first = finding.next_steps[0].command.as_deref().unwrap();
        assert_eq!(first, "kubectl -n default get endpointslices -l kubernetes.io/service-name=web");
    }

    #[test]
    fn the_nftables_mode_has_the_name_in_its_map() {
        let nft = DropRule {
            engine: Engine::Nftables,
            table: TABLE.into(),
            chain: CHAIN.into(),
            number: None,
            comment: None,
            element: Some("prod/api".into()),
            ..rule()
        };
        let (code, finding) = refused(nft.clone()).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert!(finding.explanation.contains("Service api in the Kubernetes namespace prod"));
        let elsewhere = DropRule { chain: "c".into(), ..nft };
        assert_eq!(refused(elsewhere).diagnosed().0, "refused.firewall-reject");
    }

    #[test]
    fn a_rule_that_was_found_by_matching_is_likely() {
        let found =
            DropRule { engine: Engine::IptablesLegacy, handle: None, basis: Basis::Matching, ..rule() };
        let (code, finding) = refused(found.clone()).diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Likely));
        let other = DropRule { comment: None, number: Some(2), ..found.clone() };
        let doubtful = DropRule { others: vec![other], ..found.clone() };
        let (code, finding) = refused(doubtful).diagnosed();
        assert_eq!((code, finding.confidence), ("refused.firewall-reject", Confidence::Possible));
        let silent = DropRule { rejects: false, number: Some(3), ..found.clone() };
        assert_eq!(refused(DropRule { others: vec![silent], ..found }).diagnosed().0, CODE);
    }

    #[test]
    fn another_comment_is_another_rule() {
        for comment in [
            "by hand",
            "has no endpoints",
            " has no endpoints",
            "a b/c has no endpoints",
            "x/$(reboot) has no endpoints",
        ] {
            let other = DropRule { comment: Some(comment.into()), ..rule() };
            assert_eq!(refused(other).diagnosed().0, "refused.firewall-reject", "{comment}");
        }
    }
}
