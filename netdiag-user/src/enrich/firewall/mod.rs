//! Which rule of the packet filter dropped a packet, in its own words.
//!
//! nftables (and iptables-nft, which nftables runs): the kernel frees a packet that a rule drops inside `nft_do_chain`, whose frame on the stack holds the expression
//! that said so. Probe `drop` sends the frames along; here they are confirmed in the kernel's memory, and the rule is
//! looked up by its handle in the ruleset of the packet's network namespace. Accepted packets cost nothing.
//!
//! Everything that is read from the kernel's memory may be wrong: rules come and go meanwhile. A rule that cannot be
//! confirmed is not named. Then, and for iptables-legacy, the packet is compared with the ruleset, which gives the rules
//! that may have dropped it ([`DropRule::basis`]).

mod chains;
mod command;
mod fallback;
mod frames;
mod generation;
mod layout;
mod listing;
mod matching;
mod rules;
mod rulesets;
mod service;
#[cfg(test)]
mod testing;
mod trace;
mod verdict;
#[cfg(test)]
mod verdict_tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use fallback::{Fallback, Source};
use layout::Layout;
use matching::Subject;
use rulesets::Rulesets;
use trace::Tracers;
use verdict::{Question, Site, Verdict};

use crate::enrich::changes::RuleName;
use crate::enrich::facts::NatRule;
use crate::enrich::reach::Reach;
use crate::kernel::btf::Btf;
use crate::kernel::peek::Pages;
use crate::probes::{Drop, DropRule, Engine, Frames, Packet, Snapshot};
use crate::track::Hook;

/// Pages of the kernel's memory that are read for one drop: a chain of some ten thousand rules.
const MAX_PAGES: usize = 1024;
/// Places in `nft_do_chain` that drop: two, and two more each time that the module is loaded again.
const MAX_SITES: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Firewall {
    /// `None` until the first drop: nftables may be loaded later than netdiag.
    layout: Option<Layout>,
    /// By address.
    sites: HashMap<u64, Site>,
    rulesets: Rulesets,
    fallback: Fallback,
    /// `None` unless the user asked for it.
    tracers: Option<Tracers>,
    /// Whether links join two namespaces; asked for only where packets are traced.
    joined: HashMap<(u64, u64), bool>,
    /// With the time when that was, `CLOCK_MONOTONIC`: in a burst many ask for the same.
    translations: HashMap<Translated, (u64, Vec<NatRule>)>,
}

/// What rules of NAT were asked for: namespace, hook, source and destination.
type Translated = (u64, Hook, IpAddr, SocketAddr);

/// Where the kernel frees what a rule drops: nftables itself, or the caller of every other filter.
pub const BY_NFTABLES: &str = "nft_do_chain";
const BY_OTHERS: &str = "nf_hook_slow";

impl Firewall {
    /// Names the rule of a drop inside `nft_do_chain`; best at once, while everything is still there. `frames`: memory
    /// of the kernel's stack from below `nft_do_chain` on.
    pub fn name(&mut self, drop: &mut Drop, frames: &Frames, hook: Option<Hook>, memory: &mut dyn Pages) {
        let Some(found) = frames::Frames::find(&frames.words, drop.location, &drop.stack) else { return };
        if self.layout.is_none() {
            self.layout = Btf::vmlinux().and_then(|btf| Layout::read(&btf)).ok();
        }
        let Some(layout) = &self.layout else { return };
        let mut snapshot = Snapshot::new(memory, MAX_PAGES);
        if self.sites.len() > MAX_SITES {
            self.sites.clear();
        }
        let site = self.sites.entry(drop.location).or_default();
        let question = Question { layout, frames: &found, hook, site: *site };
        let Some(verdict) = verdict::find(question, &mut snapshot) else { return };
        match verdict {
            Verdict::Rule { .. } => site.rules = true,
            Verdict::Policy { .. } => site.policies = true,
        }
        let fingerprint = match &verdict {
            Verdict::Rule { rule, .. } => layout.fingerprint(&mut snapshot, *rule),
            Verdict::Policy { .. } => None,
        };
        let mut rule = named(&verdict);
        let inode = drop.packet.netns;
        let mut is_current = || {
            let mut now = Snapshot::new(memory, MAX_PAGES);
            let Verdict::Rule { chain, rule, .. } = &verdict else { return None };
            let chain = layout.chain(&mut now, chain.address)?;
            let current = layout.is_current(&mut now, frames.net, inode, &chain, *rule)?;
            Some(current && layout.fingerprint(&mut now, *rule) == fingerprint)
        };
        self.rulesets.describe(inode.into(), &mut rule, fingerprint, &mut is_current);
        service::add_element(inode.into(), &mut rule, &drop.packet.tuple);
        drop.rule = Some(Box::new(rule));
    }

    /// From now on has nftables trace the packets of flows whose rule is not known: that takes tables of netdiag's own.
    pub fn trace(&mut self) {
        self.tracers.get_or_insert_default();
    }

    /// Whether it does.
    pub fn traces(&self) -> bool {
        self.tracers.is_some()
    }

    /// Whether packets of one namespace can come to another, as far as links decide.
    pub fn joins(&mut self, one: u64, other: u32) -> bool {
        let other = other.into();
        let joined = || Reach::from(one).includes(other);
        one == other || *self.joined.entry((one, other)).or_insert_with(joined)
    }

    /// Takes the rule from the trace of the packet; without one, packets of that flow are traced from now on.
    pub fn follow(&mut self, drop: &mut Drop) {
        let Some(tracers) = &mut self.tracers else { return };
        let inode = drop.packet.netns.into();
        let Some(mut rule) = tracers.take(inode, &drop.packet.tuple) else {
            return tracers.want(inode, &drop.packet.tuple);
        };
        self.rulesets.add_words_by_name(inode, &mut rule);
        // In nft's own words that is what a rule says which rejects.
        rule.rejects |= rule.text.as_ref().is_some_and(|text| text.split(' ').any(|word| word == "reject"));
        service::add_element(inode, &mut rule, &drop.packet.tuple);
        drop.rule = Some(Box::new(rule));
    }

    /// Finds the rule of a drop that the kernel does not name, by comparing. `symbol`: the function that freed the packet;
    /// `now_ns`: `CLOCK_MONOTONIC`.
    pub fn compare(&mut self, drop: &mut Drop, symbol: &str, hook: Option<Hook>, now_ns: u64) {
        let Some(hook) = hook else { return };
        let source = match symbol {
            BY_NFTABLES => Source::Nftables,
            BY_OTHERS => Source::Legacy { v4: drop.packet.tuple.destination.is_ipv4() },
            _ => return,
        };
        let inode = drop.packet.netns.into();
        let subject = Subject { packet: &drop.packet, hook };
        let Some(mut rule) = self.fallback.find(inode, source, &subject, drop.time_ns, now_ns) else {
            return;
        };
        if source == Source::Nftables {
            let mut others = std::mem::take(&mut rule.others);
            let mut all: Vec<&mut DropRule> = std::iter::once(&mut rule).chain(&mut others).collect();
            self.rulesets.add_words(inode, &mut all);
            rule.others = others;
            if rule.others.is_empty() {
                service::add_element(inode, &mut rule, &drop.packet.tuple);
            }
        }
        drop.rule = Some(Box::new(rule));
    }

    /// The rules of this network namespace (inode number) that may give a packet another destination in this hook.
    /// `now_ns`: `CLOCK_MONOTONIC`.
    pub fn translations(&mut self, netns: u64, hook: Hook, packet: &Packet, now_ns: u64) -> Vec<NatRule> {
        const OLD_NS: u64 = 1_000_000_000;
        const MAX_KNOWN: usize = 256;
        let key = (netns, hook, packet.tuple.source.ip(), packet.tuple.destination);
        if let Some((at_ns, known)) = self.translations.get(&key)
            && now_ns.saturating_sub(*at_ns) < OLD_NS
        {
            return known.clone();
        }
        let found = self.fallback.translations(netns, &Subject { packet, hook }, now_ns);
        let rule = |found: matching::Found| NatRule {
            netns,
            family: found.family,
            table: found.table,
            chain: found.chain,
            handle: found.rule.and_then(|rule| rule.handle),
            to: found.to,
        };
        let rules: Vec<NatRule> = found.into_iter().map(rule).collect();
        if self.translations.len() >= MAX_KNOWN {
            self.translations.clear();
        }
        self.translations.insert(key, (now_ns, rules.clone()));
        rules
    }

    /// Reads the counters by which the rules of iptables-legacy are told apart in this network namespace (inode
    /// number), before anything is dropped. `now_ns`: `CLOCK_MONOTONIC`.
    pub fn read_counters(&mut self, inode: u64, now_ns: u64) {
        self.fallback.read_counters(inode, now_ns);
    }

    /// The words of the rule that has this name in this network namespace now.
    pub fn words(&mut self, netns: u32, name: &RuleName) -> Option<String> {
        self.rulesets.words(netns.into(), name)
    }

    /// Looks whether a rule of this network namespace is still there. `now_ns`: `CLOCK_MONOTONIC`.
    pub fn look_again(&mut self, netns: u32, rule: &mut DropRule, now_ns: u64) {
        match rule.engine {
            Engine::IptablesLegacy => self.fallback.look_again(netns.into(), rule, now_ns),
            Engine::Nftables | Engine::Iptables => self.rulesets.look_again(netns.into(), rule),
        }
    }
}

fn named(verdict: &Verdict) -> DropRule {
    let (chain, handle, rejects) = match verdict {
        Verdict::Rule { chain, rule, rejects } => (chain, Some(rule.handle), *rejects),
        Verdict::Policy { chain } => (chain, None, false),
    };
    DropRule {
        family: chain.table.family.to_owned(),
        table: chain.table.name.clone(),
        table_handle: chain.table.handle,
        chain: chain.name.clone(),
        handle,
        rejects,
        ..DropRule::default()
    }
}
