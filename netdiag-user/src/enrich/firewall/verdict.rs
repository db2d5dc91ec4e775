//! Which rule, or which chain's policy, dropped a packet: what the frames say, confirmed in the kernel's memory.
//!
//! What cannot be confirmed is not told. A rule is confirmed if an expression that drops is one of its expressions,
//! and the rule one of a chain's that its table lists. A policy is confirmed if a base chain that drops was walked to
//! its end, and no expression at hand could have dropped.

use super::chains::{Base, Chain};
use super::frames::Frames;
use super::layout::Layout;
use super::rules::Rule;
use crate::probes::Snapshot;
use crate::track::Hook;

/// include/uapi/linux/netfilter.h and netfilter/nf_tables.h: codes of a verdict.
mod code {
    pub(super) const DROP: i32 = 0;
    pub(super) const CONTINUE: i32 = -1;
    pub(super) const RETURN: i32 = -5;
}
/// Register number of the verdict (`NFT_REG_VERDICT`).
const VERDICT: u8 = 0;

/// The expression that answers and drops.
const REJECT: &str = "reject";
/// Expressions that drop under some circumstances only.
const SOMETIMES: &[&str] = &[
    "match", "target", "objref", "synproxy", "tproxy", "nat", "masq", "redir", "ct", "exthdr", "osf", "fwd",
];

/// What dropped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Rule { chain: Chain, rule: Rule, rejects: bool },
    Policy { chain: Chain },
}

/// Whether an expression that ran last drops the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Always,
    Sometimes,
    /// It ends the chain: in a base chain the policy decides then.
    Returns,
    Never,
}

struct Candidate {
    power: Power,
    rejects: bool,
    rule: Rule,
    chain: Chain,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) layout: &'a Layout,
    pub(super) frames: &'a Frames<'a>,
    /// Where the stack tells.
    pub(super) hook: Option<Hook>,
    /// What drops at this place were before: the compiler made one for rules and one for policies.
    pub(super) site: Site,
}

/// What is known of a place in the code that drops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) rules: bool,
    pub(super) policies: bool,
}

impl Site {
    fn is_for_rules(self) -> bool {
        self.rules && !self.policies
    }

    fn is_for_policies(self) -> bool {
        self.policies && !self.rules
    }
}

/// `None`: not known.
pub(super) fn find(question: Question<'_>, memory: &mut Snapshot<'_>) -> Option<Verdict> {
    let Question { layout, frames, hook, site } = question;
    let mut candidates: Vec<Candidate> = Vec::new();
    for word in frames.saved().filter(|word| frames.is_object(*word)) {
        let power = layout.power(memory, word);
        if power == Power::Never {
            continue;
        }
        let (rule, chain) = layout.rule_of(memory, word, frames)?;
        if !candidates.iter().any(|known| known.rule == rule) {
            let rejects = layout.expression_name(memory, word).is_some_and(|name| name == REJECT);
            candidates.push(Candidate { power, rejects, rule, chain });
        }
    }
    let mut dropping = candidates.iter().filter(|one| one.power != Power::Returns);
    let (only, more) = (dropping.next(), dropping.next().is_some());
    match only {
        _ if more => None,
        Some(only) if only.power == Power::Always => (!site.is_for_policies()).then(|| only.verdict()),
        // A base chain that was walked to its end leaves its last expression behind, which may be such a one.
        Some(only) => {
            let bases = base_chains(layout, memory, frames, hook);
            let accepts = !bases.is_empty() && bases.iter().all(|(_, base)| !base.drops);
            if accepts || !undecided(frames) || site.is_for_rules() {
                return Some(only.verdict());
            }
            let at_work = frames.own().any(|word| word == only.rule.address);
            if at_work && !site.is_for_policies() {
                return None;
            }
            policy(layout, memory, frames, bases, false)
        }
        None if site.is_for_rules() => None,
        None => {
            let bases = base_chains(layout, memory, frames, hook);
            let of_base = |one: &Candidate| bases.iter().any(|(chain, _)| chain.address == one.chain.address);
            let returned = candidates.iter().any(of_base);
            policy(layout, memory, frames, bases, returned)
        }
    }
}

impl Candidate {
    fn verdict(&self) -> Verdict {
        Verdict::Rule { chain: self.chain.clone(), rule: self.rule, rejects: self.rejects }
    }
}

/// Whether a verdict is at hand that is none: the policy decides where there is no other.
fn undecided(frames: &Frames<'_>) -> bool {
    frames.own().any(|word| low_half(word) == code::CONTINUE)
}

/// The base chain that drops, if it was walked to its end, or one of its rules returned. Chains of earlier packets may
/// be pointed to as well, even such as are gone: the registers tell more than the rest of the frame.
fn policy(
    layout: &Layout,
    memory: &mut Snapshot<'_>,
    frames: &Frames<'_>,
    bases: Vec<(Chain, Base)>,
    returned: bool,
) -> Option<Verdict> {
    let dropping: Vec<Chain> =
        bases.into_iter().filter(|(_, base)| base.drops).map(|(chain, _)| chain).collect();
    let mut the_only = |words: &[u64]| {
        let mut walked = dropping
            .iter()
            .filter(|chain| words.iter().any(|word| layout.chain_ends_at(memory, chain, *word)));
        walked.next().filter(|_| walked.next().is_none()).cloned()
    };
    let saved: Vec<u64> = frames.saved().collect();
    let walked = the_only(&saved).or_else(|| the_only(&frames.own().collect::<Vec<_>>()));
    let chain = match (walked, dropping.as_slice()) {
        (Some(chain), _) if undecided(frames) => chain,
        (_, [chain]) if returned => chain.clone(),
        _ => return None,
    };
    Some(Verdict::Policy { chain })
}

/// The base chains of this hook that the frames point to. `nft_do_chain`'s own frame has the one at work; what lies
/// beyond is looked at only where that has none.
fn base_chains(
    layout: &Layout,
    memory: &mut Snapshot<'_>,
    frames: &Frames<'_>,
    hook: Option<Hook>,
) -> Vec<(Chain, Base)> {
    let mut found: Vec<(Chain, Base)> = Vec::new();
    let mut look = |words: &mut dyn Iterator<Item = u64>| {
        for word in words.filter(|word| frames.is_object(*word)) {
            if found.iter().any(|(chain, _)| chain.address == word) {
                continue;
            }
            let chain = layout.chain(memory, word);
            found.extend(chain.and_then(|chain| {
                let base = chain.base.filter(|base| is_at(&chain, *base, hook))?;
                Some((chain, base))
            }));
        }
        found.is_empty()
    };
    if look(&mut frames.own()) {
        look(&mut frames.all());
    }
    found
}

/// Whether a base chain can be at this hook; include/uapi/linux/netfilter.h, `enum nf_inet_hooks` and
/// `enum nf_dev_hooks`.
fn is_at(chain: &Chain, base: Base, hook: Option<Hook>) -> bool {
    let number = match (hook, chain.table.family) {
        (Some(Hook::Ingress), "netdev") => 0,
        (Some(Hook::Egress), "netdev") => 1,
        (Some(Hook::Prerouting), _) => 0,
        (Some(Hook::Input), _) => 1,
        (Some(Hook::Forward), _) => 2,
        (Some(Hook::Output), _) => 3,
        (Some(Hook::Postrouting), _) => 4,
        (Some(Hook::Ingress), "inet") => 5,
        (Some(Hook::Ingress | Hook::Egress), _) => return false,
        (None, _) => return true,
    };
    base.hook == number
}

/// The first of two 32-bit numbers that a word of memory holds.
fn low_half(word: u64) -> i32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
}

impl Layout {
    fn power(&self, memory: &mut Snapshot<'_>, expression: u64) -> Power {
        self.known_power(memory, expression).unwrap_or(Power::Never)
    }

    fn known_power(&self, memory: &mut Snapshot<'_>, expression: u64) -> Option<Power> {
        if !expression.is_multiple_of(8) || !Snapshot::is_kernel(expression) {
            return None;
        }
        let name = self.expression_name(memory, expression)?;
        let data = expression.checked_add(self.expression_data)?;
        let at = |offset: u64| data.checked_add(offset);
        Some(match name.as_str() {
            "immediate" if memory.u8(at(self.immediate_register)?)? == VERDICT => {
                match memory.u32(at(self.immediate_code)?)? as i32 {
                    code::DROP => Power::Always,
                    code::RETURN => Power::Returns,
                    _ => Power::Never,
                }
            }
            REJECT => Power::Always,
            "lookup" => {
                let mut is = |offset: Option<u64>, wanted: u8| match offset {
                    Some(offset) => Some(memory.u8(at(offset)?)? == wanted),
                    None => Some(true),
                };
                let in_map = is(self.lookup_has_register, 1)? && is(self.lookup_register, VERDICT)?;
                if in_map { Power::Sometimes } else { Power::Never }
            }
            name if SOMETIMES.contains(&name) => Power::Sometimes,
            _ => Power::Never,
        })
    }

    /// The rule of an expression, and its chain; `None` if it cannot be confirmed, or there are several.
    fn rule_of(
        &self,
        memory: &mut Snapshot<'_>,
        expression: u64,
        frames: &Frames<'_>,
    ) -> Option<(Rule, Chain)> {
        let mut found: Option<(Rule, Chain)> = None;
        for rule in self.rules_around(memory, expression) {
            let Some(chain) = self.chain_of(memory, rule, frames) else { continue };
            if found.is_some() {
                return None;
            }
            found = Some((rule, chain));
        }
        found
    }

    fn chain_of(&self, memory: &mut Snapshot<'_>, rule: Rule, frames: &Frames<'_>) -> Option<Chain> {
        if let Some(chain) = self.chain_of_marker(memory, rule)
            && self.chain_has(memory, &chain, rule)
        {
            return Some(chain);
        }
        let mut tables = Vec::new();
        for word in frames.all().filter(|word| frames.is_object(*word)) {
            let Some(chain) = self.chain(memory, word) else { continue };
            if self.chain_has(memory, &chain, rule) {
                return Some(chain);
            }
            if !tables.iter().any(|known: &Chain| known.table == chain.table) {
                tables.push(chain);
            }
        }
        tables.iter().find_map(|known| self.chain_beside(memory, known, rule))
    }
}
