//! The way of a packet through chains, as far as it can be told.

use std::collections::HashMap;

use serde_json::Value;

use super::{Fits, Subject, nft, xtables};

/// Rules that one packet may meet; jumps within jumps multiply.
const MAX_STEPS: usize = 200_000;
/// net/netfilter/nf_tables_core.c: `NFT_JUMP_STACK_SIZE`; iptables allows more, and no ruleset needs them.
const MAX_DEPTH: usize = 32;
/// More rules than this to choose from are no help.
const MAX_FOUND: usize = 64;

/// What a rule does with a packet that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    Continue,
    Accept,
    Drop,
    /// Drops, and answers.
    Reject,
    Return,
    Jump(String),
    Goto(String),
    /// Gives the packet another destination, in words: an address, a port (`:8081`), or both. `None`: one that the
    /// listing does not tell.
    Translate(Option<String>),
}

/// One of a rule's verdicts; a verdict map has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Outcome {
    pub(in super::super) fits: Fits,
    pub(in super::super) verdict: Verdict,
}

/// What a rule is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Named {
    /// In nftables.
    pub(in super::super) handle: Option<u64>,
    /// From 1.
    pub(in super::super) number: u64,
    /// In its own words; empty where they are to be looked up.
    pub(in super::super) text: String,
    pub(in super::super) comment: Option<String>,
}

/// What a rule asks for and does.
#[derive(Debug)]
pub(in super::super) enum Body {
    /// As iptables-save has it, without chain and command.
    Words(Vec<String>),
    /// The statements of libnftables-json(5).
    Statements(Vec<Value>),
}

/// A rule as it was read: which packets fit is found out for the rules that a packet meets.
#[derive(Debug)]
pub(in super::super) struct Rule {
    pub(in super::super) named: Named,
    pub(in super::super) body: Body,
    /// Packets that it counted, if it counts; no fewer than it dropped.
    pub(in super::super) packets: Option<u64>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Base {
    /// In the words of [`crate::track::Hook`].
    pub(in super::super) hook: String,
    pub(in super::super) priority: i64,
    pub(in super::super) drops: bool,
    /// Packets that came to the policy, if they are counted.
    pub(in super::super) packets: Option<u64>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Chain {
    pub(in super::super) family: String,
    pub(in super::super) table: String,
    pub(in super::super) table_handle: u64,
    pub(in super::super) name: String,
    pub(in super::super) base: Option<Base>,
    pub(in super::super) rules: Vec<Rule>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Table {
    pub(in super::super) family: String,
    pub(in super::super) name: String,
    pub(in super::super) handle: u64,
    /// By name.
    pub(in super::super) chains: HashMap<String, Chain>,
    /// Sets and maps of nftables, by name.
    pub(in super::super) sets: HashMap<String, Value>,
}

/// A ruleset, for any packet.
#[derive(Debug, Default)]
pub(in super::super) struct Chains {
    /// In the order of the listing.
    pub(in super::super) tables: Vec<Table>,
}

/// A rule that may have dropped the packet, or a chain whose policy may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Found {
    pub(in super::super) family: String,
    pub(in super::super) table: String,
    pub(in super::super) table_handle: u64,
    pub(in super::super) chain: String,
    /// `None`: the policy.
    pub(in super::super) rule: Option<Named>,
    pub(in super::super) rejects: bool,
    pub(in super::super) packets: Option<u64>,
    /// Where it sends the packet to, of rules that do.
    pub(in super::super) to: Option<String>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Drops,
    Translations,
}

impl Found {
    /// Whether it is the same rule in another reading of the ruleset.
    pub(in super::super) fn is(&self, other: &Self) -> bool {
        let words = |found: &'_ Self| {
            let rule = found.rule.as_ref();
            rule.map(|rule| (rule.handle, rule.text.clone(), rule.number))
        };
        (&self.family, &self.table, &self.chain) == (&other.family, &other.table, &other.chain)
            && words(self) == words(other)
    }
}

impl Chains {
    /// The rules that may have dropped the packet, in the order in which it met them. Empty if it passes for sure.
    pub(in super::super) fn candidates(&self, subject: &Subject<'_>) -> Vec<Found> {
        self.walk(subject, Wanted::Drops)
    }

    /// The rules that may have given the packet another destination, in the order in which it met them. Empty if none did
    /// for sure.
    pub(in super::super) fn translations(&self, subject: &Subject<'_>) -> Vec<Found> {
        self.walk(subject, Wanted::Translations)
    }

    fn walk(&self, subject: &Subject<'_>, wanted: Wanted) -> Vec<Found> {
        let mut bases: Vec<(&Table, &Chain, &Base)> = Vec::new();
        for table in self.tables.iter().filter(|table| subject.meets(&table.family)) {
            let here = table.chains.values().filter_map(|chain| Some((table, chain, chain.base.as_ref()?)));
            bases.extend(here.filter(|(_, _, base)| base.hook == subject.hook.as_str()));
        }
        bases.sort_by_key(|(_, chain, base)| (base.priority, chain.table_handle, chain.name.clone()));
        let mut found = Vec::new();
        for (table, chain, base) in bases {
            let mut walk = Walk { subject, table, wanted, found: &mut found, steps: 0 };
            match walk.chain(chain, 0) {
                // What was answered was not dropped.
                Flow::Dropped if wanted == Wanted::Drops => break,
                Flow::Dropped => continue,
                Flow::Accepted => continue,
                Flow::GoesOn => {}
            }
            if base.drops && wanted == Wanted::Drops {
                found.push(Found { rule: None, rejects: false, packets: base.packets, ..Found::of(chain) });
                break;
            }
        }
        found.truncate(MAX_FOUND);
        found
    }

    /// Whether any rule or policy counts packets.
    pub(in super::super) fn counts(&self) -> bool {
        let counts = |chain: &Chain| {
            let policy = chain.base.as_ref().is_some_and(|base| base.packets.is_some());
            policy || chain.rules.iter().any(|rule| rule.packets.is_some())
        };
        self.tables.iter().flat_map(|table| table.chains.values()).any(counts)
    }
}

impl Found {
    fn of(chain: &Chain) -> Self {
        Self {
            family: chain.family.clone(),
            table: chain.table.clone(),
            table_handle: chain.table_handle,
            chain: chain.name.clone(),
            rule: None,
            rejects: false,
            packets: None,
            to: None,
        }
    }
}

/// What surely happened to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// It may have come to the end.
    GoesOn,
    Accepted,
    Dropped,
}

struct Walk<'a> {
    subject: &'a Subject<'a>,
    table: &'a Table,
    wanted: Wanted,
    found: &'a mut Vec<Found>,
    steps: usize,
}

impl Walk<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> Flow {
        for rule in &chain.rules {
            self.steps += 1;
            if self.steps > MAX_STEPS || depth > MAX_DEPTH || self.found.len() > MAX_FOUND {
                return Flow::GoesOn;
            }
            let outcomes = match &rule.body {
                Body::Words(words) => xtables::outcomes(words, self.table, self.subject),
                Body::Statements(statements) => nft::outcomes(statements, self.table, self.subject),
            };
            for outcome in outcomes.iter().filter(|outcome| outcome.fits != Fits::No) {
                let sure = outcome.fits == Fits::Yes;
                let flow = match &outcome.verdict {
                    Verdict::Continue => continue,
                    Verdict::Return if sure => return Flow::GoesOn,
                    Verdict::Return => continue,
                    Verdict::Accept => Flow::Accepted,
                    Verdict::Drop | Verdict::Reject => {
                        let rejects = outcome.verdict == Verdict::Reject;
                        self.add(Wanted::Drops, rule, Found { rejects, ..Found::of(chain) });
                        Flow::Dropped
                    }
                    Verdict::Translate(to) => {
                        let found = Found { to: to.clone(), ..Found::of(chain) };
                        self.add(Wanted::Translations, rule, found);
                        Flow::Accepted
                    }
                    Verdict::Jump(name) | Verdict::Goto(name) => match self.table.chains.get(name) {
                        Some(target) => self.chain(target, depth + 1),
                        None => Flow::GoesOn,
                    },
                };
                if sure && (flow != Flow::GoesOn || matches!(outcome.verdict, Verdict::Goto(_))) {
                    return flow;
                }
            }
        }
        Flow::GoesOn
    }

    fn add(&mut self, as_what: Wanted, rule: &Rule, found: Found) {
        if as_what != self.wanted {
            return;
        }
        let found = Found { rule: Some(rule.named.clone()), packets: rule.packets, ..found };
        if !self.found.iter().any(|known| known.is(&found)) {
            self.found.push(found);
        }
    }
}
