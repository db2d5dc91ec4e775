//! The drops since the agent began: counted by flow while there is room, and then by cause.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kernel::reasons::Reasons;
use crate::probes::{Drop, DropRule};
use crate::track::{Hook, hook_of};

/// Flows that are kept apart. When there are more, the half that was not dropped for the longest time is put together by
/// cause.
const MAX_FLOWS: usize = 2048;
/// Causes (reason, function, rule) that are kept apart.
const MAX_CAUSES: usize = 512;
/// Rules of one flow that are told apart.
const MAX_RULES: usize = 8;
/// A record that does not say which rule it was comes so soon after one that does.
const SAME_RULE_US: i64 = 2_000_000;
/// Stacks that are remembered.
const MAX_STACKS: usize = 1024;
/// Stands for no rule that is known.
const NO_RULE: u64 = 0;

/// Like drops, and the last of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastDrop {
    pub count: u64,
    /// Microseconds since 1970, UTC.
    pub first_us: i64,
    pub last_us: i64,
    /// Of several flows, of which `drop` is one.
    pub several: bool,
    /// The kernel's name, without its prefix.
    pub reason: String,
    /// Kernel function.
    pub symbol: Option<String>,
    pub hook: Option<Hook>,
    /// Its source port is 0 where they had different ones.
    pub drop: Box<Drop>,
}

/// One thing after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropsPart {
    Drop(PastDrop),
    /// Drops above their rate that no record told of.
    NotRecorded(u64),
}

/// What drops of one flow have in common. Rules are told apart inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    reason: u32,
    location: u64,
    netns: u32,
    interface: u32,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

/// What drops of one cause have in common: the same in all flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cause {
    reason: u32,
    location: u64,
    netns: u32,
    hook: Option<Hook>,
    rule: u64,
}

/// Counts, and tells what it has counted. Shared with those who answer; nobody holds it for long.
#[derive(Debug, Default)]
pub struct DropBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// The rule of a drop is hashed with this.
    hasher: RandomState,
    flows: HashMap<Flow, Vec<(u64, PastDrop)>>,
    causes: HashMap<Cause, PastDrop>,
    /// Drops above their rate that counted with a later record.
    suppressed: u64,
    /// What stacks, by their hash, stand for: in a flood it is the same one thousands of times a second.
    hooks: HashMap<u64, Option<Hook>>,
}

impl DropBook {
    /// One record. `symbol` names the function at an address.
    pub fn add(&self, drop: &Drop, reasons: &Reasons, symbol: impl Fn(u64) -> Option<String>) {
        let now_us = Timestamp::now().as_microsecond();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(drop, now_us, reasons, symbol);
    }

    /// All, in no order. `limited`: drops above their rate, whether a later record told of them or not.
    pub fn all(&self, limited: u64) -> Vec<DropsPart> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let drops = book.flows.values().flatten().map(|(_, drop)| drop).chain(book.causes.values());
        let not_recorded = DropsPart::NotRecorded(limited.saturating_sub(book.suppressed));
        drops.cloned().map(DropsPart::Drop).chain([not_recorded]).collect()
    }
}

impl Book {
    fn add(&mut self, drop: &Drop, now_us: i64, reasons: &Reasons, symbol: impl Fn(u64) -> Option<String>) {
        let tuple = drop.packet.tuple;
        let flow = Flow {
            reason: drop.reason,
            location: drop.location,
            netns: drop.packet.netns,
            interface: drop.packet.ifindex,
            protocol: tuple.protocol,
            source: tuple.source.ip(),
            destination: tuple.destination.ip(),
            port: tuple.destination.port(),
        };
        let rule = drop.rule.as_deref().map(|rule| self.identity(rule));
        let count = 1 + u64::from(drop.suppressed);
        self.suppressed += u64::from(drop.suppressed);
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&flow) {
            self.fold_half();
        }
        let kept = self.flows.entry(flow).or_default();
        // In a flood most records do not say which rule it was: it is that of the last one that did.
        let at = match rule {
            Some(rule) => kept.iter().position(|(known, _)| *known == rule),
            None if kept.last().is_some_and(|(_, last)| now_us - last.last_us < SAME_RULE_US) => {
                Some(kept.len() - 1)
            }
            None => kept.iter().position(|(known, _)| *known == NO_RULE),
        };
        if let Some(at) = at {
            // The last is the latest.
            let mut known = kept.remove(at);
            known.1.count += count;
            known.1.last_us = known.1.last_us.max(now_us);
            let source = &mut known.1.drop.packet.tuple.source;
            if source.port() != tuple.source.port() {
                source.set_port(0);
            }
            kept.push(known);
            return;
        }
        let oldest = (kept.len() >= MAX_RULES).then(|| kept.remove(0));
        let hook = hook(&mut self.hooks, self.hasher.hash_one(&drop.stack), || {
            drop.stack.iter().filter_map(|at| symbol(*at)).collect()
        });
        let past = PastDrop {
            count,
            first_us: now_us,
            last_us: now_us,
            several: false,
            reason: reasons.drop_name(drop.reason),
            symbol: symbol(drop.location),
            hook,
            drop: Box::new(Drop { stack: Vec::new(), suppressed: 0, ..drop.clone() }),
        };
        kept.push((rule.unwrap_or(NO_RULE), past));
        if let Some((rule, drop)) = oldest {
            self.fold(flow, rule, drop);
        }
    }

    /// What makes it this rule.
    fn identity(&self, rule: &DropRule) -> u64 {
        let DropRule { family, table, table_handle, chain, handle, number, others, .. } = rule;
        self.hasher.hash_one((family, table, table_handle, chain, handle, number, others.len()))
    }

    fn fold_half(&mut self) {
        let last = |kept: &[(u64, PastDrop)]| kept.iter().map(|(_, drop)| drop.last_us).max().unwrap_or(0);
        let mut times: Vec<i64> = self.flows.values().map(|kept| last(kept)).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        let old: Vec<Flow> =
            self.flows.iter().filter(|(_, kept)| last(kept) <= median).map(|(flow, _)| *flow).collect();
        for flow in old {
            for (rule, drop) in self.flows.remove(&flow).into_iter().flatten() {
                self.fold(flow, rule, drop);
            }
        }
    }

    fn fold(&mut self, flow: Flow, rule: u64, drop: PastDrop) {
        let Flow { reason, location, netns, .. } = flow;
        let mut cause = Cause { reason, location, netns, hook: drop.hook, rule };
        if self.causes.len() >= MAX_CAUSES && !self.causes.contains_key(&cause) {
            // By reason alone: there are not as many.
            cause = Cause { reason, location: 0, netns: 0, hook: None, rule: NO_RULE };
        }
        let Some(known) = self.causes.get_mut(&cause) else {
            self.causes.insert(cause, PastDrop { several: true, ..drop });
            return;
        };
        let (count, first_us) = (known.count + drop.count, known.first_us.min(drop.first_us));
        if drop.last_us > known.last_us {
            *known = PastDrop { several: true, ..drop };
        }
        (known.count, known.first_us) = (count, first_us);
    }
}

fn hook(
    known: &mut HashMap<u64, Option<Hook>>,
    stack: u64,
    names: impl FnOnce() -> Vec<String>,
) -> Option<Hook> {
    if known.len() >= MAX_STACKS {
        known.clear();
    }
    *known.entry(stack).or_insert_with(|| hook_of(&names()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::testing;

    fn drop(handle: Option<u64>, source: u32, suppressed: u32) -> Drop {
        let dropped = testing::by_rule(handle.unwrap_or(0));
        let mut packet = dropped.packet;
        packet.tuple.source = std::net::SocketAddr::new(IpAddr::from(source.to_be_bytes()), 40_000);
        Drop {
            time_ns: 1,
            sock: 0,
            reason: 12,
            location: 1000,
            suppressed,
            limit_key: 0,
            packet,
            stack: vec![1000, 2000],
            frames: crate::probes::Frames::default(),
            rule: handle.and(dropped.rule),
        }
    }

    fn add(book: &mut Book, drop: &Drop, now_us: i64) {
        let reasons = Reasons::of_drops([(12, "NETFILTER_DROP")]);
        let symbol = |at| Some(if at == 1000 { "nft_do_chain" } else { "ip_forward" }.to_owned());
        book.add(drop, now_us, &reasons, symbol);
    }

    fn all(book: &Book) -> Vec<&PastDrop> {
        let mut all: Vec<&PastDrop> =
            book.flows.values().flatten().map(|(_, drop)| drop).chain(book.causes.values()).collect();
        all.sort_by_key(|drop| drop.first_us);
        all
    }

    #[test]
    fn drops_of_a_flow_are_counted_by_rule() {
        let mut book = Book::default();
        add(&mut book, &drop(Some(7), 1, 0), 10);
        // Without a rule: the last one's.
        add(&mut book, &drop(None, 1, 4), 20);
        add(&mut book, &drop(Some(8), 1, 0), 30);
        add(&mut book, &drop(Some(7), 1, 0), 40);
        add(&mut book, &drop(None, 1, 0), 50);
        // Much later it may have been another rule.
        add(&mut book, &drop(None, 1, 0), 50 + SAME_RULE_US);
        let all = all(&book);
        let counts: Vec<(u64, i64, i64)> =
            all.iter().map(|drop| (drop.count, drop.first_us, drop.last_us)).collect();
        let late = 50 + SAME_RULE_US;
        assert_eq!(counts, [(8, 10, 50), (1, 30, 30), (1, late, late)]);
        assert_eq!(all[2].drop.rule, None);
        let first = all[0];
        assert_eq!(book.suppressed, 4);
        assert_eq!((first.reason.as_str(), first.hook), ("NETFILTER_DROP", Some(Hook::Forward)));
        assert_eq!(first.symbol.as_deref(), Some("nft_do_chain"));
        assert_eq!(first.drop.rule.as_ref().unwrap().handle, Some(7));
        let json = serde_json::to_string(first).unwrap();
        assert_eq!(&serde_json::from_str::<PastDrop>(&json).unwrap(), first);
    }

    #[test]
    fn many_flows_take_no_more_room_and_none_is_lost() {
        let mut book = Book::default();
        let number = 5 * MAX_FLOWS as u32;
        for source in 0..number {
            add(&mut book, &drop(Some(7 + u64::from(source % 2)), source, 1), i64::from(source));
        }
        assert!(book.flows.len() <= MAX_FLOWS && book.causes.len() == 2, "{}", book.causes.len());
        let all = all(&book);
        assert_eq!(all.iter().map(|drop| drop.count).sum::<u64>(), 2 * u64::from(number));
        assert!(all[0].several && all[0].first_us == 0);
        let (flow, past) = (*book.flows.keys().next().unwrap(), PastDrop { count: 1, ..all[0].clone() });
        let mut causes = Book::default();
        for rule in 0..2 * MAX_CAUSES as u64 {
            causes.fold(flow, rule, past.clone());
        }
        assert_eq!(causes.causes.len(), MAX_CAUSES + 1);
        assert_eq!(causes.causes.values().map(|drop| drop.count).sum::<u64>(), 2 * MAX_CAUSES as u64);
    }
}
