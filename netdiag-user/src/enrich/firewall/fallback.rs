//! Rules that the kernel does not name: the packet is compared with the ruleset, and counters speak for and against.
//!
//! A rule of iptables-legacy always counts, one of nftables where it is told to. What has counted nothing has dropped
//! nothing; and of rules that fit a packet, the one whose counter grew between two readings dropped what was dropped
//! meanwhile. So the ruleset is read right after a drop, and that reading is kept for the next one; where it is known
//! beforehand whose packets will matter, it is read before anything is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use super::command::output;
use super::generation::Generation;
use super::matching::{Chains, Found, Subject, nft, xtables};
use crate::enrich::netns;
use crate::probes::{Basis, DropRule, Engine};

/// The ruleset is not read more often than this in one namespace.
const AT_LEAST_NS: u64 = 50_000_000;
/// A rule is looked for again in a reading no older than this.
const TRUSTED_NS: u64 = 250_000_000;
/// Rulesets that are kept.
const MAX_READINGS: usize = 64;
/// Bytes of listings whose rulesets are kept, all together; one that is larger is kept alone. In memory a ruleset takes
/// several times as much.
const MAX_TEXT: usize = 4 << 20;

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
struct Ruleset {
    chains: Chains,
    /// Bytes of the listing.
    text: usize,
    /// `None` where the kernel tells of none, and of iptables-legacy.
    generation: Option<Generation>,
}

#[derive(Debug)]
struct Reading {
    /// When it was begun, `CLOCK_MONOTONIC`.
    taken_ns: u64,
    /// Nothing was dropped yet: the next one need not wait.
    is_first: bool,
    /// `None`: there is none, or it cannot be read. Shared where two readings had to find the same.
    ruleset: Option<Arc<Ruleset>>,
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
        let mut found = now.candidates(subject);
        let mut basis = Basis::Matching;
        if now.taken_ns >= dropped_ns {
            // What the rule was, it may no longer be.
            found.retain(|found| found.packets != Some(0));
            if let Some(before) = before.as_ref().filter(|before| before.taken_ns < dropped_ns) {
                let earlier = before.candidates(subject);
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

    /// The rules that may give packets of this namespace (inode number) another destination, by a ruleset that may be a
    /// little older.
    pub(super) fn translations(&mut self, inode: u64, subject: &Subject<'_>, now_ns: u64) -> Vec<Found> {
        const OLD_NS: u64 = 10_000_000_000;
        let is_v4 = subject.packet.tuple.destination.is_ipv4();
        let mut found = Vec::new();
        for source in [Source::Nftables, Source::Legacy { v4: is_v4 }] {
            self.read(inode, source, now_ns.saturating_sub(OLD_NS), OLD_NS, now_ns);
            let reading = self.known.get(&(inode, source)).and_then(|readings| readings.now.as_ref());
            let ruleset = reading.and_then(|reading| reading.ruleset.as_ref());
            found.extend(ruleset.iter().flat_map(|ruleset| ruleset.chains.translations(subject)));
        }
        found
    }

    /// Reads what iptables-legacy has counted until now, to have it when the first packet is dropped.
    pub(super) fn read_counters(&mut self, inode: u64, now_ns: u64) {
        for source in [true, false].map(|v4| Source::Legacy { v4 }) {
            self.read(inode, source, now_ns, AT_LEAST_NS, now_ns);
            let readings = self.known.get_mut(&(inode, source));
            if let Some(Readings { now: Some(reading), before: None }) = readings {
                reading.is_first = true;
            }
        }
    }

    /// Whether the ruleset of iptables-legacy still has the rule, in the same words.
    pub(super) fn look_again(&mut self, inode: u64, rule: &mut DropRule, now_ns: u64) {
        let source = Source::Legacy { v4: rule.family == "ip" };
        self.read(inode, source, now_ns.saturating_sub(TRUSTED_NS), 0, now_ns);
        let reading = self.known.get(&(inode, source)).and_then(|readings| readings.now.as_ref());
        let ruleset = reading.and_then(|reading| reading.ruleset.as_ref());
        let (Some(ruleset), Some(text)) = (ruleset, &rule.text) else { return };
        let tables = ruleset.chains.tables.iter().filter(|table| table.name == rule.table);
        let mut chains = tables.flat_map(|table| table.chains.values());
        rule.gone = !chains.any(|chain| chain.rules.iter().any(|other| other.named.text == *text));
    }

    /// Reads the ruleset, unless there is a reading from `wanted_ns` on, or one that is not `pause_ns` old.
    fn read(&mut self, inode: u64, source: Source, wanted_ns: u64, pause_ns: u64, now_ns: u64) {
        if let Some(Readings { now: Some(reading), .. }) = self.known.get(&(inode, source))
            && (reading.taken_ns >= wanted_ns || !reading.is_first && now_ns < reading.taken_ns + pause_ns)
        {
            return;
        }
        let last = self.known.get(&(inode, source)).and_then(|readings| readings.now.as_ref());
        let last = last.and_then(|reading| reading.ruleset.clone());
        let ruleset =
            netns::find(inode).and_then(|handle| netns::enter(&handle, || list(source, last)).ok().flatten());
        if !self.known.contains_key(&(inode, source)) && self.known.len() >= MAX_READINGS {
            self.known.clear();
        }
        let readings = self.known.entry((inode, source)).or_default();
        readings.before = readings.now.take();
        readings.now = Some(Reading { taken_ns: now_ns, is_first: false, ruleset });
        self.shrink((inode, source));
    }

    /// Forgets the oldest until what is left is small enough; what was read just now stays.
    fn shrink(&mut self, newest: (u64, Source)) {
        while self.text() > MAX_TEXT {
            let others = self.known.iter().filter(|(place, _)| **place != newest);
            let taken = |readings: &Readings| readings.now.as_ref().map_or(0, |reading| reading.taken_ns);
            let oldest = others.min_by_key(|(_, readings)| taken(readings)).map(|(place, _)| *place);
            match oldest {
                Some(oldest) => self.known.remove(&oldest),
                None => {
                    if let Some(readings) = self.known.get_mut(&newest) {
                        readings.before = None;
                    }
                    return;
                }
            };
        }
    }

    /// Bytes of all listings; one that two readings share counts once.
    fn text(&self) -> usize {
        let of = |reading: &Option<Reading>| reading.as_ref().and_then(|reading| reading.ruleset.clone());
        let both = |readings: &Readings| {
            let (now, before) = (of(&readings.now), of(&readings.before));
            let shared =
                now.as_ref().zip(before.as_ref()).is_some_and(|(now, before)| Arc::ptr_eq(now, before));
            let before = before.filter(|_| !shared);
            now.map_or(0, |now| now.text) + before.map_or(0, |before| before.text)
        };
        self.known.values().map(both).sum()
    }
}

impl Reading {
    fn candidates(&self, subject: &Subject<'_>) -> Vec<Found> {
        self.ruleset.as_ref().map(|ruleset| ruleset.chains.candidates(subject)).unwrap_or_default()
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
/// that are there. `last` is what was read there before: of one generation, only counters change.
fn list(source: Source, last: Option<Arc<Ruleset>>) -> Option<Arc<Ruleset>> {
    let of = |text: &str, chains, generation| Arc::new(Ruleset { chains, text: text.len(), generation });
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
            let saved = output(&[command, "-c"])?;
            Some(of(&saved, xtables::parse(&saved, if v4 { "ip" } else { "ip6" }), None))
        }
        Source::Nftables => {
            let generation = Generation::current();
            let same = last.filter(|last| generation.is_some() && last.generation == generation);
            if let Some(same) = same.filter(|same| !same.chains.counts()) {
                return Some(same);
            }
            let listing = output(&["nft", "-j", "-a", "list", "ruleset"])?;
            Some(of(&listing, nft::parse(serde_json::from_str(&listing).ok()?), generation))
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

    fn ruleset(text: &str) -> Ruleset {
        Ruleset { chains: xtables::parse(text, "ip"), text: text.len(), generation: None }
    }

    fn saved(first: u64, second: u64) -> Ruleset {
        ruleset(&format!(
            "*filter\n:OUTPUT ACCEPT [0:0]\n[{first}:60] -A OUTPUT -m mark --mark 0x1 -j DROP\n\
             [{second}:60] -A OUTPUT -p tcp -j DROP\nCOMMIT\n"
        ))
    }

    /// What is found at 100 ns in these readings, by their time.
    fn found(before: Option<(u64, Ruleset)>, now: (u64, Ruleset)) -> Option<(Vec<u64>, Basis)> {
        let source = Source::Legacy { v4: true };
        let reading =
            |(taken_ns, ruleset)| Reading { taken_ns, is_first: false, ruleset: Some(Arc::new(ruleset)) };
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
        let other = ruleset("*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n");
        assert_eq!(found(Some((50, other)), (100, saved(3, 5))), Some((vec![1, 2], Basis::Matching)));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_stays() {
        let large = || Some(Arc::new(Ruleset { text: MAX_TEXT / 3, ..saved(0, 0) }));
        let mut fallback = Fallback::default();
        for inode in 0..10 {
            let reading = |taken_ns| Some(Reading { taken_ns, is_first: false, ruleset: large() });
            let place = (inode, Source::Nftables);
            fallback.known.insert(place, Readings { now: reading(inode), before: reading(0) });
            fallback.shrink(place);
            assert!(fallback.text() <= MAX_TEXT && fallback.known[&place].now.is_some());
        }
        assert_eq!(fallback.known.keys().map(|(inode, _)| *inode).collect::<Vec<_>>(), [9]);
        // Two readings of one ruleset take no more than one.
        let shared = large();
        let reading = |taken_ns| Some(Reading { taken_ns, is_first: false, ruleset: shared.clone() });
        let place = (9, Source::Nftables);
        fallback.known.insert(place, Readings { now: reading(11), before: reading(10) });
        assert_eq!(fallback.text(), MAX_TEXT / 3);
        let huge = Some(Arc::new(Ruleset { text: MAX_TEXT * 2, ..saved(0, 0) }));
        let readings = Readings {
            now: Some(Reading { taken_ns: 12, is_first: false, ruleset: huge }),
            before: reading(11),
        };
        fallback.known.insert(place, readings);
        fallback.shrink(place);
        let kept = &fallback.known[&place];
        assert!(kept.now.is_some() && kept.before.is_none(), "it is kept alone");
    }

    #[test]
    fn a_ruleset_of_one_generation_is_read_once_unless_it_counts() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        netns.run("nft add table inet fw");
        netns.run("nft add chain inet fw c { type filter hook output priority 0; }");
        netns.run("nft add rule inet fw c tcp dport 8080 drop");
        let mut fallback = Fallback::default();
        let mut read = |now_ns: u64| {
            fallback.read(inode, Source::Nftables, now_ns, 0, now_ns);
            fallback.known[&(inode, Source::Nftables)].now.as_ref().unwrap().ruleset.clone().unwrap()
        };
        let first = read(1);
        if first.generation.is_none() {
            println!("SKIP: a kernel without cookies");
            return;
        }
        assert!(Arc::ptr_eq(&first, &read(2)));
        netns.run("nft add rule inet fw c tcp dport 9090 counter drop");
        let counting = read(3);
        assert_eq!(counting.chains.tables[0].chains["c"].rules.len(), 2);
        assert!(!Arc::ptr_eq(&counting, &read(4)), "counters grow without a change");
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
        // The counters that are read first hold back nothing.
        let mut fallback = Fallback::default();
        fallback.read_counters(inode, 2000);
        assert!(fallback.find(inode, source, &subject, 2001, 2002).is_none(), "nothing was counted since");
        assert!(!rule.gone);
        assert!(enter("iptables-legacy -R OUTPUT 1 -p tcp -m tcp --dport 80 -j DROP"));
        fallback.look_again(inode, &mut rule, 1000 + TRUSTED_NS * 2);
        assert!(rule.gone);
        assert!(fallback.find(1, source, &subject, 0, 0).is_none(), "no such namespace");
        assert!(fallback.find(inode, Source::Legacy { v4: false }, &subject, 0, 0).is_none(), "no rules");
    }
}
