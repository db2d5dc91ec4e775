//! Rules in their own words, as the tools list them, kept per network namespace until the ruleset changes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::command::output;
use super::generation::Generation;
use super::listing::{self, Line, Lines};
use crate::enrich::changes::RuleName;
use crate::enrich::netns;
use crate::probes::{DropRule, Engine};

/// Rules whose words are kept of one ruleset.
const MAX_CONFIRMED: usize = 4096;
/// Rulesets that are kept.
const MAX_RULESETS: usize = 64;
/// For so long it is not asked whether a ruleset has changed: a flood of drops must not cost as many questions.
const TRUSTED: Duration = Duration::from_millis(250);

/// The handles of its table and of itself, and its fingerprint in the kernel.
type Key = (u64, u64, u64);

#[derive(Debug)]
struct Ruleset {
    generation: Option<Generation>,
    /// When it was known to be that of the namespace.
    checked: Instant,
    lines: Lines,
    /// Words of rules of the kernel, also such as are gone.
    confirmed: HashMap<Key, Line>,
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
    /// A handle alone does not tell a rule from the one that replaced it: `fingerprint` is the rule's in the kernel, and
    /// `is_current` says whether packets meet that rule still. Words are used that were listed while they did.
    pub(super) fn describe(
        &mut self,
        inode: u64,
        rule: &mut DropRule,
        fingerprint: Option<u64>,
        is_current: &mut dyn FnMut() -> Option<bool>,
    ) {
        let (Some(handle), Some(fingerprint)) = (rule.handle, fingerprint) else {
            return self.describe_policy(inode, rule);
        };
        let key = (rule.table_handle, handle, fingerprint);
        let known = self.known.get(&inode).and_then(|known| known.confirmed.get(&key));
        let line = match known {
            Some(line) => Some(line.clone()),
            None => {
                let current = is_current();
                let listed = current == Some(true) && self.refresh(inode).is_some();
                let still = if listed { is_current() } else { current };
                rule.gone = still == Some(false);
                (listed && still == Some(true)).then(|| self.confirm(inode, rule, key)).flatten()
            }
        };
        if let Some(line) = line {
            use_line(rule, &line);
        }
    }

    /// Keeps what is listed of this rule as its words.
    fn confirm(&mut self, inode: u64, rule: &DropRule, key: Key) -> Option<Line> {
        let known = self.known.get_mut(&inode)?;
        let line = known.line(rule)?.clone();
        if known.confirmed.len() >= MAX_CONFIRMED {
            known.confirmed.clear();
        }
        known.confirmed.insert(key, line.clone());
        Some(line)
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

    /// Adds the words of a rule that is known by the names of its table and chain and by its handle, just now.
    pub(super) fn add_words_by_name(&mut self, inode: u64, rule: &mut DropRule) {
        if self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let is_it = |((_, handle), line): &(&(u64, u64), &Line)| {
            Some(*handle) == rule.handle
                && (&line.family, &line.table, &line.chain) == (&rule.family, &rule.table, &rule.chain)
        };
        let Some(((table, _), line)) = known.lines.iter().find(is_it) else { return };
        rule.table_handle = *table;
        use_line(rule, line);
    }

    /// Adds the words of rules that were found by their handles in a listing of just now.
    pub(super) fn add_words(&mut self, inode: u64, rules: &mut [&mut DropRule]) {
        if self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        for rule in rules {
            if let Some(line) = known.line(rule) {
                use_line(rule, line);
            }
        }
    }

    /// Whether the ruleset still has the rule, in the same words and under the same handle.
    pub(super) fn look_again(&mut self, inode: u64, rule: &mut DropRule) {
        let fresh = self.known.get(&inode).is_some_and(Ruleset::is_fresh);
        if rule.is_policy() || !fresh && self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let line = known.line(rule);
        // What it said is not known: another may have its handle.
        let Some(text) = &rule.text else {
            rule.gone |= line.is_none();
            return;
        };
        let line = line.filter(|line| line.text == *text);
        rule.gone = line.is_none();
        if let Some(line) = line {
            rule.number = line.xtables.then_some(line.number);
        }
    }

    /// The words of the rule that has this name now.
    pub(super) fn words(&mut self, inode: u64, name: &RuleName) -> Option<String> {
        let handle = name.handle?;
        if !self.known.get(&inode).is_some_and(Ruleset::is_fresh) {
            self.refresh(inode)?;
        }
        let is = |line: &Line| {
            (&line.family, &line.table, &line.chain) == (&name.family, &name.table, &name.chain)
        };
        let lines = &self.known.get(&inode)?.lines;
        let found = lines.iter().find(|((_, other), line)| *other == handle && is(line));
        found.map(|(_, line)| line.text.clone())
    }

    /// Reads the ruleset again, unless it is still the same. `None` if it cannot be read.
    fn refresh(&mut self, inode: u64) -> Option<()> {
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
            return Some(());
        }
        let old = self.known.remove(&inode);
        let lines = lines?;
        let oldest = self.known.iter().min_by_key(|(_, known)| known.checked).map(|(inode, _)| *inode);
        if let Some(oldest) = oldest.filter(|_| self.known.len() >= MAX_RULESETS) {
            self.known.remove(&oldest);
        }
        // Unless it is another namespace with the same number.
        let confirmed = match (old, generation) {
            (Some(old), Some(now)) if old.generation.is_some_and(|old| old.is_same_namespace(now)) => {
                old.confirmed
            }
            _ => HashMap::new(),
        };
        self.known.insert(inode, Ruleset { generation, checked: Instant::now(), lines, confirmed });
        Some(())
    }
}

fn use_line(rule: &mut DropRule, line: &Line) {
    rule.engine = engine(line.xtables);
    rule.number = line.xtables.then_some(line.number);
    // To nftables it is one of many targets; only iptables knows which.
    rule.rejects |= line.xtables && line.text.contains(" -j REJECT");
    rule.text = Some(line.text.clone());
    rule.comment = line.comment.clone();
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
        rulesets.describe(inode, &mut first, Some(1), &mut || Some(true));
        assert_eq!((first.text.as_deref(), first.gone), (Some("tcp dport 8080 drop"), false));

        // A rule that is not known is looked for at once.
        netns.run("nft add rule inet fw c tcp dport 9090 drop");
        let mut second = rule(1, 3);
        rulesets.describe(inode, &mut second, Some(2), &mut || Some(true));
        assert_eq!(second.text.as_deref(), Some("tcp dport 9090 drop"));

        let named = |handle| RuleName {
            family: "inet".into(),
            table: "fw".into(),
            chain: "c".into(),
            handle: Some(handle),
        };
        assert_eq!(rulesets.words(inode, &named(3)).as_deref(), Some("tcp dport 9090 drop"));
        assert_eq!(rulesets.words(inode, &named(99)), None);

        // nft keeps the handle of what it replaces.
        netns.run("nft replace rule inet fw c handle 2 tcp dport 7070 drop");
        let mut another = rule(1, 2);
        rulesets.describe(inode, &mut another, Some(3), &mut || Some(true));
        assert_eq!(another.text.as_deref(), Some("tcp dport 7070 drop"));
        rulesets.look_again(inode, &mut first);
        assert!(first.gone && first.text.as_deref() == Some("tcp dport 8080 drop"));
        rulesets.look_again(inode, &mut second);
        assert!(!second.gone);
        // A record that comes late.
        let mut late = rule(1, 2);
        rulesets.describe(inode, &mut late, Some(1), &mut || Some(false));
        assert_eq!(late.text.as_deref(), Some("tcp dport 8080 drop"));
    }

    #[test]
    fn words_that_were_read_too_late_are_not_used() {
        let netns = TestNetns::new();
        netns.run("nft add table inet fw");
        netns.run("nft add chain inet fw c");
        netns.run("nft add rule inet fw c tcp dport 8080 drop");
        let mut late = rule(1, 2);
        let mut rulesets = Rulesets::default();
        rulesets.describe(netns.handle().inode(), &mut late, Some(1), &mut || Some(false));
        assert!(late.text.is_none() && late.gone);
        rulesets.look_again(netns.handle().inode(), &mut late);
        assert!(late.gone, "another rule has its handle");
        let mut nowhere = rule(1, 2);
        rulesets.describe(1, &mut nowhere, Some(1), &mut || Some(true));
        rulesets.look_again(1, &mut nowhere);
        assert!(!nowhere.gone && nowhere.text.is_none(), "a namespace that is gone says nothing");
        let mut elsewhere = rule(1, 2);
        let other = TestNetns::new();
        rulesets.describe(other.handle().inode(), &mut elsewhere, Some(1), &mut || Some(true));
        assert_eq!(elsewhere.text, None);
    }
}
