//! Which rule of nftables (or of iptables-nft, which nftables runs) dropped a packet, in its own words.
//!
//! The kernel frees a packet that a rule drops inside `nft_do_chain`, whose frame on the stack holds the expression
//! that said so. Probe `drop` sends the frames along; here they are confirmed in the kernel's memory, and the rule is
//! looked up by its handle in the ruleset of the packet's network namespace. Accepted packets cost nothing.
//!
//! Everything that is read from the kernel's memory may be wrong: rules come and go meanwhile. A rule that cannot be
//! confirmed is not named.

mod chains;
mod command;
mod frames;
mod generation;
mod layout;
mod listing;
mod rules;
mod rulesets;
#[cfg(test)]
mod testing;
mod verdict;
#[cfg(test)]
mod verdict_tests;

use std::collections::HashMap;

use layout::Layout;
use rulesets::Rulesets;
use verdict::{Question, Site, Verdict};

use crate::enrich::changes::RuleName;
use crate::kernel::btf::Btf;
use crate::kernel::peek::Pages;
use crate::probes::{Drop, DropRule, Frames, Snapshot};
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
}

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
        drop.rule = Some(Box::new(rule));
    }

    /// The words of the rule that has this name in this network namespace now.
    pub fn words(&mut self, netns: u32, name: &RuleName) -> Option<String> {
        self.rulesets.words(netns.into(), name)
    }

    /// Looks whether a rule of this network namespace is still there.
    pub fn look_again(&mut self, netns: u32, rule: &mut DropRule) {
        self.rulesets.look_again(netns.into(), rule);
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
