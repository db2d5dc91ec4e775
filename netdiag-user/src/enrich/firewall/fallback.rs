//! Rules that the kernel does not name: the packet is compared with the ruleset, and counters speak for and against.
//!
//! A rule of iptables-legacy always counts, one of nftables where it is told to. What has counted nothing has dropped
//! nothing; and of rules that fit a packet, the one whose counter grew between two readings dropped what was dropped
//! meanwhile. So the ruleset is read right after a drop, and that reading is kept for the next one.

use std::collections::HashMap;

use serde_json::Value;

use super::command::output;
use super::matching::{Chains, Found, Subject, nft, xtables};
use crate::enrich::netns;
use crate::probes::{Basis, DropRule, Engine};

/// The ruleset is not read more often than this in one namespace.
const AT_LEAST_NS: u64 = 50_000_000;
/// A rule is looked for again in a reading no older than this.
const TRUSTED_NS: u64 = 250_000_000;
/// Rulesets that are kept.
const MAX_READINGS: usize = 64;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// `family`: `ip` or `ip6`.
    Legacy {
        v4: bool,
    },
    Nftables,
}

#[derive(Debug)]
enum Ruleset {
    Saved(String),
    Listed(Value),
}

#[derive(Debug)]
struct Reading {
    /// When it was begun, `CLOCK_MONOTONIC`.
    taken_ns: u64,
    ruleset: Ruleset,
}

#[derive(Debug, Default)]
struct Readings {
    now: Option<Reading>,
    before: Option<Reading>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    known: HashMap<(u64, Source), Readings>,
}

impl Fallback {
    /// The rule that may have dropped a packet at `dropped_ns`, with others that may have as well.
    pub(super) fn find(
        &mut self,
        inode: u64,
        source: Source,
        subject: &Subject<'_>,
        dropped_ns: u64,
        now_ns: u64,
    ) -> Option<DropRule> {
        self.read(inode, source, dropped_ns, AT_LEAST_NS, now_ns);
        let Readings { now, before } = self.known.get(&(inode, source))?;
        let now = now.as_ref()?;
        let mut found = now.candidates(source, subject);
        let mut basis = Basis::Matching;
        if now.taken_ns >= dropped_ns {
            // What the rule was, it may no longer be.
            found.retain(|found| found.packets != Some(0));
            if let Some(before) = before.as_ref().filter(|before| before.taken_ns < dropped_ns) {
                let earlier = before.candidates(source, subject);
                found.retain(|found| grew(found, &earlier) != Some(false));
                if let [only] = found.as_slice()
                    && grew(only, &earlier) == Some(true)
                {
                    basis = Basis::Counter;
                }
            }
        }
        let mut rules = found.into_iter().map(|found| rule(found, source, basis));
        let first = rules.next()?;
        Some(DropRule { others: rules.collect(), ..first })
    }

    /// Whether the ruleset of iptables-legacy still has the rule, in the same words.
    pub(super) fn look_again(&mut self, inode: u64, rule: &mut DropRule, now_ns: u64) {
        let source = Source::Legacy { v4: rule.family == "ip" };
        self.read(inode, source, now_ns.saturating_sub(TRUSTED_NS), 0, now_ns);
        let reading = self.known.get(&(inode, source)).and_then(|readings| readings.now.as_ref());
        let (Some(Ruleset::Saved(saved)), Some(text)) = (reading.map(|reading| &reading.ruleset), &rule.text)
        else {
            return;
        };
        let mut table = "";
        rule.gone = !saved.lines().any(|line| {
            table = line.strip_prefix('*').unwrap_or(table);
            table == rule.table && line.ends_with(text.as_str()) && line.contains("-A ")
        });
    }

    /// Reads the ruleset, unless there is a reading from `wanted_ns` on, or one that is not `pause_ns` old.
    fn read(&mut self, inode: u64, source: Source, wanted_ns: u64, pause_ns: u64, now_ns: u64) {
        if let Some(Readings { now: Some(reading), .. }) = self.known.get(&(inode, source))
            && (reading.taken_ns >= wanted_ns || now_ns < reading.taken_ns + pause_ns)
        {
            return;
        }
        let ruleset =
            netns::find(inode).and_then(|handle| netns::enter(&handle, || list(source)).ok().flatten());
        if !self.known.contains_key(&(inode, source)) && self.known.len() >= MAX_READINGS {
            self.known.clear();
        }
        let readings = self.known.entry((inode, source)).or_default();
        readings.before = readings.now.take();
        readings.now = ruleset.map(|ruleset| Reading { taken_ns: now_ns, ruleset });
    }
}

impl Reading {
    fn candidates(&self, source: Source, subject: &Subject<'_>) -> Vec<Found> {
        let chains: Chains = match (&self.ruleset, source) {
            (Ruleset::Saved(saved), Source::Legacy { v4: true }) => xtables::chains(saved, "ip", subject),
            (Ruleset::Saved(saved), _) => xtables::chains(saved, "ip6", subject),
            (Ruleset::Listed(listing), _) => nft::chains(listing, subject),
        };
        chains.candidates()
    }
}

/// `None` where a rule does not count, or was not there before.
fn grew(found: &Found, earlier: &[Found]) -> Option<bool> {
    let before = earlier.iter().find(|earlier| earlier.is(found))?;
    Some(found.packets? > before.packets?)
}

fn rule(found: Found, source: Source, basis: Basis) -> DropRule {
    let Found { family, table, table_handle, chain, rule, rejects, .. } = found;
    let legacy = matches!(source, Source::Legacy { .. });
    let engine = if legacy { Engine::IptablesLegacy } else { Engine::Nftables };
    let named =
        DropRule { engine, family, table, table_handle, chain, rejects, basis, ..DropRule::default() };
    let Some(rule) = rule else { return named };
    DropRule {
        handle: rule.handle,
        number: legacy.then_some(rule.number),
        text: Some(rule.text).filter(|text| !text.is_empty()),
        comment: rule.comment,
        ..named
    }
}

/// In the caller's namespace. Tables that nobody uses are not made by asking: without a name the tools list those
/// that are there.
fn list(source: Source) -> Option<Ruleset> {
    match source {
        Source::Legacy { v4 } => {
            let (names, command) = match v4 {
                true => ("/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"),
                false => ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"),
            };
            let tables = std::fs::read_to_string(names).ok()?;
            if tables.trim().is_empty() {
                return None;
            }
            output(&[command, "-c"]).map(Ruleset::Saved)
        }
        Source::Nftables => {
            let listing = output(&["nft", "-j", "-a", "list", "ruleset"])?;
            serde_json::from_str(&listing).ok().map(Ruleset::Listed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::testing::TestNetns;
    use crate::probes::{Direction, Packet, Tuple, protocol};
    use crate::track::Hook;

    fn packet() -> Packet {
        Packet {
            tuple: Tuple {
                protocol: protocol::TCP,
                source: "127.0.0.1:40000".parse().unwrap(),
                destination: "127.0.0.2:8080".parse().unwrap(),
            },
            flags: 0x02,
            code: 0,
            ttl: 64,
            direction: Direction::Egress,
            seq: 1,
            ifindex: 1,
            iif: 0,
            interface: "lo".into(),
            netns: 1,
        }
    }

    fn saved(first: u64, second: u64) -> Ruleset {
        Ruleset::Saved(format!(
            "*filter\n:OUTPUT ACCEPT [0:0]\n[{first}:60] -A OUTPUT -m mark --mark 0x1 -j DROP\n\
             [{second}:60] -A OUTPUT -p tcp -j DROP\nCOMMIT\n"
        ))
    }

    /// What is found at 100 ns in these readings, by their time.
    fn found(before: Option<(u64, Ruleset)>, now: (u64, Ruleset)) -> Option<(Vec<u64>, Basis)> {
        let source = Source::Legacy { v4: true };
        let reading = |(taken_ns, ruleset)| Reading { taken_ns, ruleset };
        let readings = Readings { now: Some(reading(now)), before: before.map(reading) };
        let mut fallback = Fallback { known: HashMap::from([((1, source), readings)]) };
        let packet = packet();
        let rule = fallback.find(1, source, &Subject { packet: &packet, hook: Hook::Output }, 100, 101)?;
        let numbers = rule.candidates().filter_map(|rule| rule.number).collect();
        Some((numbers, rule.basis))
    }

    #[test]
    fn counters_speak_for_and_against() {
        assert_eq!(found(None, (100, saved(3, 4))), Some((vec![1, 2], Basis::Matching)));
        assert_eq!(found(None, (100, saved(0, 4))), Some((vec![2], Basis::Matching)));
        assert_eq!(found(None, (100, saved(0, 0))), None, "what counted nothing dropped nothing");
        assert_eq!(found(None, (99, saved(0, 0))).unwrap().0, [1, 2], "it was read before the drop");
        let before = || Some((50, saved(3, 4)));
        assert_eq!(found(before(), (100, saved(3, 5))), Some((vec![2], Basis::Counter)));
        assert_eq!(found(before(), (100, saved(4, 5))), Some((vec![1, 2], Basis::Matching)));
        assert_eq!(found(before(), (100, saved(3, 4))), None, "something else dropped it");
        let late = Some((100, saved(3, 4)));
        assert_eq!(found(late, (101, saved(3, 4))).unwrap().0, [1, 2], "both were read after the drop");
        let other = Ruleset::Saved("*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n".into());
        assert_eq!(found(Some((50, other)), (100, saved(3, 5))), Some((vec![1, 2], Basis::Matching)));
    }

    #[test]
    fn rules_are_read_in_their_namespace_and_may_go() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        let enter = |command: &str| {
            let words = ["netns", "exec", netns.name.as_str(), "sh", "-c", command];
            std::process::Command::new("ip").args(words).status().is_ok_and(|status| status.success())
        };
        if !enter("iptables-legacy -A OUTPUT -p tcp -m tcp --dport 8080 -j DROP") {
            println!("SKIP: no iptables-legacy");
            return;
        }
        let mut fallback = Fallback::default();
        let source = Source::Legacy { v4: true };
        let packet = packet();
        let subject = Subject { packet: &packet, hook: Hook::Output };
        // Read before the drop: what counted nothing may have dropped it since.
        let mut rule = fallback.find(inode, source, &subject, 1001, 1000).unwrap();
        assert_eq!((rule.number, rule.handle, rule.engine), (Some(1), None, Engine::IptablesLegacy));
        assert_eq!(rule.text.as_deref(), Some("-A OUTPUT -p tcp -m tcp --dport 8080 -j DROP"));
        fallback.look_again(inode, &mut rule, 1000);
        assert!(!rule.gone);
        assert!(enter("iptables-legacy -R OUTPUT 1 -p tcp -m tcp --dport 80 -j DROP"));
        fallback.look_again(inode, &mut rule, 1000 + TRUSTED_NS * 2);
        assert!(rule.gone);
        assert!(fallback.find(1, source, &subject, 0, 0).is_none(), "no such namespace");
        assert!(fallback.find(inode, Source::Legacy { v4: false }, &subject, 0, 0).is_none(), "no rules");
    }
}
