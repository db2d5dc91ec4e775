//! The way of a packet through chains, as far as it can be told.

use std::collections::HashMap;

use super::Fits;

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
}

/// One of a rule's verdicts; a verdict map has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Outcome {
    pub(in super::super) fits: Fits,
    pub(in super::super) verdict: Verdict,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Rule {
    pub(in super::super) outcomes: Vec<Outcome>,
    /// In nftables.
    pub(in super::super) handle: Option<u64>,
    /// From 1.
    pub(in super::super) number: u64,
    /// In its own words; empty where they are to be looked up.
    pub(in super::super) text: String,
    pub(in super::super) comment: Option<String>,
    /// Packets that it counted, if it counts; no fewer than it dropped.
    pub(in super::super) packets: Option<u64>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Base {
    /// That of the packet.
    pub(in super::super) at_hook: bool,
    pub(in super::super) priority: i64,
    pub(in super::super) drops: bool,
    /// Packets that came to the policy, if they are counted.
    pub(in super::super) packets: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Chain {
    pub(in super::super) family: String,
    pub(in super::super) table: String,
    pub(in super::super) table_handle: u64,
    pub(in super::super) name: String,
    pub(in super::super) base: Option<Base>,
    pub(in super::super) rules: Vec<Rule>,
}

/// All chains that a packet may come to, by an index of each table (its place in the listing) and their name.
#[derive(Debug, Default)]
pub(in super::super) struct Chains {
    pub(in super::super) tables: Vec<HashMap<String, Chain>>,
}

/// A rule that may have dropped the packet, or a chain whose policy may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Found {
    pub(in super::super) family: String,
    pub(in super::super) table: String,
    pub(in super::super) table_handle: u64,
    pub(in super::super) chain: String,
    /// `None`: the policy.
    pub(in super::super) rule: Option<Rule>,
    pub(in super::super) rejects: bool,
    pub(in super::super) packets: Option<u64>,
}

impl Found {
    /// Whether it is the same rule in another reading of the ruleset.
    pub(in super::super) fn is(&self, other: &Self) -> bool {
        let words =
            |found: &Self| found.rule.as_ref().map(|rule| (rule.handle, rule.text.clone(), rule.number));
        (&self.family, &self.table, &self.chain) == (&other.family, &other.table, &other.chain)
            && words(self) == words(other)
    }
}

impl Chains {
    /// The rules that may have dropped the packet, in the order in which it met them. Empty if it passes for sure.
    pub(in super::super) fn candidates(&self) -> Vec<Found> {
        let mut bases: Vec<(&HashMap<String, Chain>, &Chain, Base)> = Vec::new();
        for table in &self.tables {
            let here = table.values().filter_map(|chain| chain.base.map(|base| (table, chain, base)));
            bases.extend(here.filter(|(_, _, base)| base.at_hook));
        }
        bases.sort_by_key(|(_, chain, base)| (base.priority, chain.table_handle, chain.name.clone()));
        let mut found = Vec::new();
        for (table, chain, base) in bases {
            let mut walk = Walk { table, found: &mut found, steps: 0 };
            match walk.chain(chain, 0) {
                Flow::Dropped => break,
                Flow::Accepted => continue,
                Flow::GoesOn => {}
            }
            if base.drops {
                found.push(Found { rule: None, rejects: false, packets: base.packets, ..Found::of(chain) });
                break;
            }
        }
        found.truncate(MAX_FOUND);
        found
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
    table: &'a HashMap<String, Chain>,
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
            for outcome in rule.outcomes.iter().filter(|outcome| outcome.fits != Fits::No) {
                let sure = outcome.fits == Fits::Yes;
                let flow = match &outcome.verdict {
                    Verdict::Continue => continue,
                    Verdict::Return if sure => return Flow::GoesOn,
                    Verdict::Return => continue,
                    Verdict::Accept => Flow::Accepted,
                    Verdict::Drop | Verdict::Reject => {
                        self.add(chain, rule, outcome.verdict == Verdict::Reject);
                        Flow::Dropped
                    }
                    Verdict::Jump(name) | Verdict::Goto(name) => match self.table.get(name) {
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

    fn add(&mut self, chain: &Chain, rule: &Rule, rejects: bool) {
        let found = Found { rule: Some(rule.clone()), rejects, packets: rule.packets, ..Found::of(chain) };
        if !self.found.iter().any(|known| known.is(&found)) {
            self.found.push(found);
        }
    }
}
