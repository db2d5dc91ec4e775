//! A change of what packets meet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::probes::DropRule;

/// What kind of change. The names are those of events in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    RuleAdded,
    RuleRemoved,
    /// A table, chain, set or one of its elements.
    RulesetChanged,
    RouteAdded,
    RouteRemoved,
    PolicyRuleAdded,
    PolicyRuleRemoved,
    AddressAdded,
    AddressRemoved,
    LinkAdded,
    LinkRemoved,
    LinkUp,
    LinkDown,
    LinkChanged,
    NeighbourChanged,
    /// There were more than the kernel kept for netdiag.
    ChangesLost,
}

impl ChangeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RuleAdded => "rule-added",
            Self::RuleRemoved => "rule-removed",
            Self::RulesetChanged => "ruleset-changed",
            Self::RouteAdded => "route-added",
            Self::RouteRemoved => "route-removed",
            Self::PolicyRuleAdded => "policy-rule-added",
            Self::PolicyRuleRemoved => "policy-rule-removed",
            Self::AddressAdded => "address-added",
            Self::AddressRemoved => "address-removed",
            Self::LinkAdded => "link-added",
            Self::LinkRemoved => "link-removed",
            Self::LinkUp => "link-up",
            Self::LinkDown => "link-down",
            Self::LinkChanged => "link-changed",
            Self::NeighbourChanged => "neighbour-changed",
            Self::ChangesLost => "changes-lost",
        }
    }

    pub fn is_of_ruleset(self) -> bool {
        matches!(self, Self::RuleAdded | Self::RuleRemoved | Self::RulesetChanged)
    }
}

/// Who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBy {
    pub pid: u32,
    pub comm: String,
}

/// A rule of nftables by name, or what else is in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    pub family: String,
    pub table: String,
    /// Empty: the table itself, a set or the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
}

impl RuleName {
    pub fn is(&self, rule: &DropRule) -> bool {
        self.handle == rule.handle
            && (&self.family, &self.table, &self.chain) == (&rule.family, &rule.table, &rule.chain)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    /// `inet filter output handle 12`, `10.0.0.0/8 via 10.1.0.1 dev eth0`: to follow the kind's words.
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ChangedBy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The addresses that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<(IpAddr, u8)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
}

impl Change {
    pub(super) fn new(kind: ChangeKind, subject: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), by: None, interface: None, about: None, rule: None }
    }

    pub(super) fn on(mut self, interface: Option<&str>) -> Self {
        self.interface = interface.map(str::to_owned);
        self
    }

    pub(super) fn about(mut self, prefix: (IpAddr, u8)) -> Self {
        self.about = Some(prefix);
        self
    }

    /// In words: `rule added: inet filter output handle 12 (by nft[4242])`.
    pub fn text(&self) -> String {
        let subject = &self.subject;
        let text = match self.kind {
            ChangeKind::RuleAdded => format!("rule added: {subject}"),
            ChangeKind::RuleRemoved => format!("rule removed: {subject}"),
            ChangeKind::RouteAdded => format!("route added: {subject}"),
            ChangeKind::RouteRemoved => format!("route removed: {subject}"),
            ChangeKind::PolicyRuleAdded => format!("routing rule added: {subject}"),
            ChangeKind::PolicyRuleRemoved => format!("routing rule removed: {subject}"),
            ChangeKind::AddressAdded => format!("address added: {subject}"),
            ChangeKind::AddressRemoved => format!("address removed: {subject}"),
            ChangeKind::LinkAdded => format!("link {subject} added"),
            ChangeKind::LinkRemoved => format!("link {subject} removed"),
            ChangeKind::LinkUp => format!("link {subject} up"),
            ChangeKind::LinkDown => format!("link {subject} down"),
            ChangeKind::RulesetChanged | ChangeKind::LinkChanged | ChangeKind::NeighbourChanged => {
                subject.clone()
            }
            ChangeKind::ChangesLost => format!("changes of {subject} were lost: there were too many at once"),
        };
        match &self.by {
            Some(by) => format!("{text} (by {}[{}])", by.comm, by.pid),
            None => text,
        }
    }
}
