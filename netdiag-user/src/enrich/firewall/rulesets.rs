//! Rules in their own words, as the tools list them, kept per network namespace until the ruleset changes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::command::output;
use super::generation::Generation;
use super::listing::{self, Lines};
use crate::enrich::netns;
use crate::probes::{DropRule, Engine};

/// Rulesets that are kept.
const MAX_RULESETS: usize = 64;
/// For so long it is not asked whether a ruleset has changed: a flood of drops must not cost as many questions.
const TRUSTED: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Ruleset {
    generation: Option<Generation>,
    /// When it was known to be that of the namespace.
    checked: Instant,
    lines: Lines,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Rulesets {
    known: HashMap<u64, Ruleset>,
}

impl Rulesets {
    /// Adds the words of a rule that the kernel named in this namespace (inode number), or notes that it is gone.
    pub(super) fn describe(&mut self, inode: u64, rule: &mut DropRule) {
        if inode == 0 {
            return;
        }
        let Some(handle) = rule.handle else { return self.describe_policy(inode, rule) };
        let key = (rule.table_handle, handle);
        let trusted = self.known.get(&inode).is_some_and(|known| known.checked.elapsed() < TRUSTED);
        if !(trusted && self.known.get(&inode).is_some_and(|known| known.lines.contains_key(&key)))
            && self.refresh(inode).is_none()
        {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let line =
            known.lines.get(&key).filter(|line| line.family == rule.family && line.chain == rule.chain);
        rule.gone = line.is_none();
        let Some(line) = line else { return };
        rule.text = Some(line.text.clone());
        rule.comment = line.comment.clone();
        rule.number = line.xtables.then_some(line.number);
        rule.engine = if line.xtables { Engine::Iptables } else { Engine::Nftables };
    }

    /// Whose a chain is, its rules tell; it may have none.
    fn describe_policy(&mut self, inode: u64, rule: &mut DropRule) {
        let trusted = self.known.get(&inode).is_some_and(|known| known.checked.elapsed() < TRUSTED);
        if !trusted && self.refresh(inode).is_none() {
            return;
        }
        let Some(known) = self.known.get(&inode) else { return };
        let mut of_table = known.lines.iter().filter(|((table, _), _)| *table == rule.table_handle);
        if of_table.any(|(_, line)| line.xtables) {
            rule.engine = Engine::Iptables;
        }
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
        self.known.remove(&inode);
        let lines = lines?;
        if self.known.len() >= MAX_RULESETS
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.checked).map(|(inode, _)| *inode)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(inode, Ruleset { generation, checked: Instant::now(), lines });
        Some(())
    }
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
    fn words_are_those_of_the_namespace_and_a_rule_that_is_gone_has_none() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        netns.run("nft add table inet fw");
        netns.run("nft add chain inet fw c");
        netns.run("nft add rule inet fw c tcp dport 8080 drop");
        let mut rulesets = Rulesets::default();
        let mut first = rule(1, 2);
        rulesets.describe(inode, &mut first);
        assert_eq!((first.text.as_deref(), first.gone), (Some("tcp dport 8080 drop"), false));

        // A handle that is not there is looked for again at once, another namespace's is not there.
        netns.run("nft add rule inet fw c tcp dport 9090 drop");
        let mut second = rule(1, 3);
        rulesets.describe(inode, &mut second);
        assert_eq!(second.text.as_deref(), Some("tcp dport 9090 drop"));
        netns.run("nft flush chain inet fw c");
        std::thread::sleep(TRUSTED);
        rulesets.describe(inode, &mut second);
        assert!(second.gone && second.text.is_some(), "its words are known from before");
        let mut elsewhere = rule(1, 2);
        rulesets.describe(TestNetns::new().handle().inode(), &mut elsewhere);
        assert!(elsewhere.gone && elsewhere.text.is_none());
        let mut nowhere = rule(1, 2);
        rulesets.describe(1, &mut nowhere);
        assert!(!nowhere.gone && nowhere.text.is_none(), "a namespace that is gone says nothing");
    }
}
