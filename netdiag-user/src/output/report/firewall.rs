//! A firewall's verdict as reports tell it.

use serde::{Deserialize, Serialize};

use crate::diagnoses::FirewallFact;
use crate::probes::{Basis, DropRule};
use crate::track::Hook;

/// The firewall's verdict; the rule's fields are filled in once the rule is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirewallPart {
    /// `nftables`, `iptables`, `bpf`.
    pub engine: Option<String>,
    pub hook: Option<Hook>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// No rule but the chain's policy decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<bool>,
    /// The kernel named the rule (else it was found by matching); `None` while no rule is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// The rule was not in the ruleset any more when that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<bool>,
    /// `counter` or `matching`: how it was found where it is not exact; `trace` where nftables' tracing named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// All rules that may have dropped it, where there are several; the first is the one above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<FirewallPart>,
}

impl From<&FirewallFact> for FirewallPart {
    fn from(fact: &FirewallFact) -> Self {
        let part = Self { engine: fact.engine.clone(), hook: fact.hook, ..Self::default() };
        let Some(rule) = &fact.rule else { return part };
        let one = |rule: &DropRule| Self { exact: None, basis: None, ..Self::default().with(rule) };
        let several = !rule.others.is_empty();
        let candidates = rule.candidates().filter(|_| several).map(one).collect();
        Self { candidates, ..part.with(rule) }
    }
}

impl FirewallPart {
    fn with(self, rule: &DropRule) -> Self {
        Self {
            family: Some(rule.family.clone()),
            table: Some(rule.table.clone()),
            chain: Some(rule.chain.clone()),
            handle: rule.handle,
            rule_number: rule.number,
            rule: rule.text.clone(),
            comment: rule.comment.clone(),
            policy: Some(rule.is_policy()),
            exact: Some(rule.basis.is_exact()),
            removed: rule.gone.then_some(true),
            basis: match rule.basis {
                Basis::Kernel => None,
                Basis::Trace => Some("trace".into()),
                Basis::Counter => Some("counter".into()),
                Basis::Matching => Some("matching".into()),
            },
            ..self
        }
    }
}
