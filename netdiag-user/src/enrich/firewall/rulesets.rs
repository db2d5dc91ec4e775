//! Rules in their own words, as the tools list them, kept per network namespace until the ruleset changes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::command::output;
use super::generation::Generation;
use super::listing::{self, Line, Lines};
use crate::enrich::netns;
use crate::probes::{DropRule, Engine};

/// Rulesets that are kept.
const MAX_RULESETS: usize = 64;
/// For so long it is not asked whether a ruleset has changed: a flood of drops must not cost as many questions.
const TRUSTED: Duration = Duration::from_millis(250);

/// By the handles of its table and of itself.
type Key = (u64, u64);

#[derive(Debug)]
struct Ruleset {
    generation: Option<Generation>,
    /// When it was known to be that of the namespace.
    checked: Instant,
    lines: Lines,
    /// Fingerprints of rules in the kernel that these lines are known to be about.
    confirmed: HashMap<Key, u64>,
}

impl Ruleset {
    fn is_fresh(&self) -> bool {
        self.checked.elapsed() < TRUSTED
    }

    fn line(&self, rule: &DropRule) -> Option<&Line> {
        let line = self.lines.get(&(rule.table_handle, rule.handle?))?;
        (line.family == rule.family && line.chain == rule.chain).then_some(line)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Rulesets {
    known: HashMap<u64, Ruleset>,
}

impl Rulesets {
    /// Adds the words of a rule that the kernel has named just now, in this namespace (inode number).
    ///
    /// A handle alone does not tell a rule from the one that replaced it. `fingerprint` is the rule's in the kernel,
    /// and `is_there` says whether it is there still, for the words may have been read too late.
    pub(super) fn describe(
        &mut self,
        inode: u64,
        rule: &mut DropRule,
        fingerprint: Option<u64>,
        is_there: &mut dyn FnMut() -> bool,
    ) {
        let (Some(handle), Some(fingerprint)) = (rule.handle, fingerprint) else {
            return self.describe_policy(inode, rule);
        };
        let key = (rule.table_handle, handle);
        let known = self.known.get(&inode);
        let confirmed =
            known.is_some_and(|known| known.is_fresh() && known.confirmed.get(&key) == Some(&fingerprint));
        if !confirmed {
            match self.refresh(inode) {
                None => return,
                Some(Refreshed::Read) if !is_there() => return,
                Some(_) => {}
            }
        }
        let Some(known) = self.known.get_mut(&inode) else { return };
        let Some(line) = known.line(rule).cloned() else { return };
        known.confirmed.insert(key, fingerprint);
        rule.engine = engine(line.xtables);
        rule.number = line.xtables.then_some(line.number);
        rule.text = Some(line.text);
        rule.comment = line.comment;
    }

    /// Whose a chain is, its rules tell; it may have none.
    fn describe_policy(&mut self, inode: u64, rule: &mut DropRule) {
        if !self.known.get(&inode).is_some_and(Ruleset::is_fresh) && self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let mut of_table = known.lines.iter().filter(|((table, _), _)| *table == rule.table_handle);
        rule.engine = engine(of_table.any(|(_, line)| line.xtables));
    }

    /// Whether the ruleset still has the rule, in the same words and under the same handle.
    pub(super) fn look_again(&mut self, inode: u64, rule: &mut DropRule) {
        let fresh = self.known.get(&inode).is_some_and(Ruleset::is_fresh);
        if rule.is_policy() || !fresh && self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let line = known.line(rule).filter(|line| rule.text.as_ref().is_none_or(|text| *text == line.text));
        rule.gone = line.is_none();
        if let Some(line) = line {
            rule.number = line.xtables.then_some(line.number);
        }
    }

    /// Reads the ruleset again, unless it is still the same. `None` if it cannot be read.
    fn refresh(&mut self, inode: u64) -> Option<Refreshed> {
        let handle = netns::find(inode)?;
        let before = self.known.get(&inode).and_then(|known| known.generation);
        let read = netns::enter(&handle, || {
            let generation = Generation::current();
            let unchanged = generation.is_some() && generation == before;
            (generation, if unchanged { None } else { list() }, unchanged)
        });
        let (generation, lines, unchanged) = read.ok()?;
        if unchanged {
            self.known.get_mut(&inode)?.checked = Instant::now();
            return Some(Refreshed::Unchanged);
        }
        self.known.remove(&inode);
        let lines = lines?;
        let oldest = self.known.iter().min_by_key(|(_, known)| known.checked).map(|(inode, _)| *inode);
        if let Some(oldest) = oldest.filter(|_| self.known.len() >= MAX_RULESETS) {
            self.known.remove(&oldest);
        }
        let confirmed = HashMap::new();
        self.known.insert(inode, Ruleset { generation, checked: Instant::now(), lines, confirmed });
        Some(Refreshed::Read)
    }
}

/// How a ruleset came to be up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refreshed {
    Unchanged,
    Read,
}

fn engine(xtables: bool) -> Engine {
    if xtables { Engine::Iptables } else { Engine::Nftables }
}

/// In the caller's namespace.
fn list() -> Option<Lines> {
    let listing = output(&["nft", "-a", "-s", "-t", "list", "ruleset"])?;
    let mut lines = listing::rules(&listing);
    for (family, command) in [("ip", "iptables-nft-save"), ("ip6", "ip6tables-nft-save")] {
        if lines.values().any(|line| line.xtables && line.family == family)
            && let Some(saved) = output(&[command])
        {
            listing::use_xtables_words(&mut lines, family, &saved);
        }
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::testing::TestNetns;

    fn rule(table_handle: u64, handle: u64) -> DropRule {
        DropRule {
            family: "inet".into(),
            table: "fw".into(),
            table_handle,
            chain: "c".into(),
            handle: Some(handle),
            ..DropRule::default()
        }
    }

    #[test]
    fn words_are_those_of_the_namespace_at_the_time() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        netns.run("nft add table inet fw");
        netns.run("nft add chain inet fw c");
        netns.run("nft add rule inet fw c tcp dport 8080 drop");
        let mut rulesets = Rulesets::default();
        let mut first = rule(1, 2);
        rulesets.describe(inode, &mut first, Some(1), &mut || true);
        assert_eq!((first.text.as_deref(), first.gone), (Some("tcp dport 8080 drop"), false));

        // A rule that is not known is looked for at once.
        netns.run("nft add rule inet fw c tcp dport 9090 drop");
        let mut second = rule(1, 3);
        rulesets.describe(inode, &mut second, Some(2), &mut || true);
        assert_eq!(second.text.as_deref(), Some("tcp dport 9090 drop"));

        // nft keeps the handle of what it replaces.
        netns.run("nft replace rule inet fw c handle 2 tcp dport 7070 drop");
        let mut another = rule(1, 2);
        rulesets.describe(inode, &mut another, Some(3), &mut || true);
        assert_eq!(another.text.as_deref(), Some("tcp dport 7070 drop"));
        rulesets.look_again(inode, &mut first);
        assert!(first.gone && first.text.as_deref() == Some("tcp dport 8080 drop"));
        rulesets.look_again(inode, &mut second);
        assert!(!second.gone);
    }

    #[test]
    fn words_that_were_read_too_late_are_not_used() {
        let netns = TestNetns::new();
        netns.run("nft add table inet fw");
        netns.run("nft add chain inet fw c");
        netns.run("nft add rule inet fw c tcp dport 8080 drop");
        let mut late = rule(1, 2);
        let mut rulesets = Rulesets::default();
        rulesets.describe(netns.handle().inode(), &mut late, Some(1), &mut || false);
        assert_eq!(late.text, None);
        let mut nowhere = rule(1, 2);
        rulesets.describe(1, &mut nowhere, Some(1), &mut || true);
        rulesets.look_again(1, &mut nowhere);
        assert!(!nowhere.gone && nowhere.text.is_none(), "a namespace that is gone says nothing");
        let mut elsewhere = rule(1, 2);
        let other = TestNetns::new();
        rulesets.describe(other.handle().inode(), &mut elsewhere, Some(1), &mut || true);
        assert_eq!(elsewhere.text, None);
    }
}
