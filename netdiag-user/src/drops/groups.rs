//! Drops, put together by cause and by what the user wants to know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use super::dropped::{Dropped, Way, Whose};
use super::reasons::{Class, of_reason};
use crate::kernel::drops::Total;
use crate::probes::{DropRule, Packet};
use crate::track::Hook;

/// More groups are not kept apart: further drops are counted in one for each reason.
const MAX_GROUPS: usize = 4096;
/// Flows of one group that are told apart.
const MAX_FLOWS: usize = 1024;
/// Rules of one group that are told apart.
const MAX_RULES: usize = 64;
/// Flows whose last drop is remembered, to know whose drops without a record are.
const MAX_KEYS: usize = 16_384;

/// What drops are put together by, besides their cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The firewall's rule, or the function that dropped.
    Rule,
    /// Nothing else.
    Reason,
    /// Protocol, addresses and destination port.
    Flow,
    Process,
    Interface,
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Reason => "reason",
            Self::Flow => "flow",
            Self::Process => "process",
            Self::Interface => "interface",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Dimension {
    Nothing,
    Rule {
        label: String,
        table_handle: u64,
        hook: Option<Hook>,
        netns: u32,
    },
    Place {
        symbol: Option<String>,
        hook: Option<Hook>,
        netns: u32,
    },
    Flow {
        netns: u32,
        protocol: u8,
        source: IpAddr,
        destination: IpAddr,
        port: u16,
    },
    Process {
        pid: u32,
        comm: String,
    },
    NoProcess(Way),
    UnknownProcess,
    Interface {
        netns: u32,
        name: String,
    },
    /// Beyond [`MAX_GROUPS`].
    Rest,
}

/// What a group has in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    reason: u32,
    class: Class,
    dimension: Dimension,
}

/// Drops of one cause.
#[derive(Debug, Clone)]
pub struct Group {
    /// The first that has the most to tell.
    pub sample: Dropped,
    /// As far as records tell.
    pub count: u64,
    /// Those of `count` that were told already.
    pub told: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    flows: HashSet<(u8, IpAddr, IpAddr, u16)>,
    rules: HashSet<(u32, String)>,
}

impl Group {
    fn new(sample: Dropped) -> Self {
        let (first_ns, last_ns) = (sample.time_ns, sample.time_ns);
        Self { sample, count: 0, told: 0, first_ns, last_ns, flows: HashSet::new(), rules: HashSet::new() }
    }

    /// Different flows (protocol, addresses, destination port), of more than 1,024 that many.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Different rules of the firewall, of more than 64 that many.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    fn add(&mut self, drop: Dropped) {
        self.count += drop.count();
        self.first_ns = self.first_ns.min(drop.time_ns);
        self.last_ns = self.last_ns.max(drop.time_ns);
        let tuple = drop.packet.tuple;
        if self.flows.len() < MAX_FLOWS {
            let flow = (tuple.protocol, tuple.source.ip(), tuple.destination.ip(), tuple.destination.port());
            self.flows.insert(flow);
        }
        if self.rules.len() < MAX_RULES
            && let Some(rule) = &drop.rule
        {
            self.rules.insert((drop.packet.netns, identity(rule)));
        }
        if knowledge(&drop) > knowledge(&self.sample) {
            self.sample = drop;
        }
    }
}

/// What tells a rule from others: how it was found does not, unless it is one of several.
fn identity(rule: &DropRule) -> String {
    if rule.others.is_empty() { rule.name() } else { rule.label() }
}

/// How much a drop can tell about its group.
fn knowledge(drop: &Dropped) -> u8 {
    let of_rule = |rule: &DropRule| 1 + u8::from(rule.text.is_some()) + u8::from(rule.basis.is_exact());
    let named = drop.rule.as_deref().map_or(0, of_rule);
    named * 2 + u8::from(drop.whose.owner().is_some())
}

/// All drops of one reason, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonTotal {
    pub reason: u32,
    pub name: String,
    pub class: Class,
    pub meaning: &'static str,
    pub all: u64,
    /// No IP packets: nothing else is known of them.
    pub not_ip: u64,
    /// Those that groups stand for, or a filter left out.
    pub accounted: u64,
}

impl ReasonTotal {
    /// IP packets that no record tells of.
    pub fn not_sampled(&self) -> u64 {
        self.all.saturating_sub(self.not_ip).saturating_sub(self.accounted)
    }
}

/// What is remembered of the last drop with a limiting key.
#[derive(Debug, Clone)]
struct Last {
    reason: u32,
    /// `None`: the filter left it out.
    group: Option<Key>,
    /// The last whose rule was looked for.
    named: Option<Named>,
}

/// What a rule was found for.
#[derive(Debug, Clone)]
struct Named {
    rule: Box<DropRule>,
    packet: Packet,
    symbol: Option<String>,
    hook: Option<Hook>,
}

impl Named {
    /// Whether the same rule drops this packet as well, as far as a packet shows what rules ask for. A limiting key is
    /// not enough: it says nothing of namespace and hook, and two flows may have the same.
    fn is_of(&self, drop: &Dropped) -> bool {
        let seen = |packet: &Packet| {
            let tuple = packet.tuple;
            let port = tuple.destination.port();
            let (source, destination) = (tuple.source.ip(), tuple.destination.ip());
            let flow = (tuple.protocol, source, destination, port);
            // Of ICMP's types with the bit of PSH none is an error or an echo.
            (flow, packet.flags & !Packet::PSH, packet.code, packet.netns, packet.ifindex)
        };
        seen(&self.packet) == seen(&drop.packet) && (&self.symbol, self.hook) == (&drop.symbol, drop.hook)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Groups {
    by: By,
    groups: HashMap<Key, Group>,
    keys: HashMap<u32, Last>,
    /// By reason.
    accounted: BTreeMap<u32, u64>,
}

impl Groups {
    pub fn new(by: By) -> Self {
        Self { by, groups: HashMap::new(), keys: HashMap::new(), accounted: BTreeMap::new() }
    }

    /// A drop that the user did not ask for.
    pub fn leave_out(&mut self, drop: &Dropped) {
        self.remember(drop, None);
    }

    /// Adds a drop; `Some` if it is the first of its group.
    pub fn add(&mut self, drop: Dropped) -> Option<&mut Group> {
        let (group, is_new) = self.put(drop);
        is_new.then_some(group)
    }

    /// Adds drops of a span of time, which began before the last one.
    pub fn add_span(&mut self, last: Dropped, first_ns: u64) {
        let (group, _) = self.put(last);
        group.first_ns = group.first_ns.min(first_ns);
    }

    fn put(&mut self, mut drop: Dropped) -> (&mut Group, bool) {
        // There is no time to look for the rule of each; one like it had this.
        if drop.rule.is_none()
            && !drop.rule_looked_up
            && let Some(named) = self.keys.get(&drop.limit_key).and_then(|last| last.named.as_ref())
            && named.is_of(&drop)
        {
            drop.rule = Some(named.rule.clone());
        }
        let mut key = Key { reason: drop.reason, class: drop.class, dimension: self.dimension(&drop) };
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            key.dimension = Dimension::Rest;
        }
        self.remember(&drop, Some(key.clone()));
        let is_new = !self.groups.contains_key(&key);
        let group = self.groups.entry(key).or_insert_with(|| Group::new(drop.clone()));
        group.add(drop);
        (group, is_new)
    }

    fn remember(&mut self, drop: &Dropped, group: Option<Key>) {
        *self.accounted.entry(drop.reason).or_default() += drop.count();
        if self.keys.len() >= MAX_KEYS {
            // What they still have to tell is not lost: it counts as not sampled.
            self.keys.clear();
        }
        let named = match &drop.rule {
            Some(rule) => Some(Named {
                rule: rule.clone(),
                packet: drop.packet.clone(),
                symbol: drop.symbol.clone(),
                hook: drop.hook,
            }),
            None if drop.rule_looked_up => None,
            None => self.keys.remove(&drop.limit_key).and_then(|last| last.named),
        };
        self.keys.insert(drop.limit_key, Last { reason: drop.reason, group, named });
    }

    fn dimension(&self, drop: &Dropped) -> Dimension {
        let netns = drop.packet.netns;
        if drop.class.is_normal() {
            return Dimension::Place { symbol: drop.symbol.clone(), hook: None, netns: 0 };
        }
        match self.by {
            By::Reason => Dimension::Nothing,
            By::Rule => match &drop.rule {
                Some(rule) => Dimension::Rule {
                    label: identity(rule),
                    table_handle: rule.table_handle,
                    hook: drop.hook,
                    netns,
                },
                None => Dimension::Place { symbol: drop.symbol.clone(), hook: drop.hook, netns },
            },
            By::Flow => {
                let tuple = drop.packet.tuple;
                Dimension::Flow {
                    netns,
                    protocol: tuple.protocol,
                    source: tuple.source.ip(),
                    destination: tuple.destination.ip(),
                    port: tuple.destination.port(),
                }
            }
            By::Process => match &drop.whose {
                Whose::Process(owner) => Dimension::Process { pid: owner.pid, comm: owner.comm.to_string() },
                Whose::Nobody => Dimension::NoProcess(drop.way),
                Whose::Unknown => Dimension::UnknownProcess,
            },
            By::Interface => Dimension::Interface { netns, name: drop.packet.interface.to_string() },
        }
    }

    /// Adds what the kernel side has left out since the last record of each flow. Only at the end: nothing may be told
    /// twice.
    pub fn settle(&mut self, untold: impl Fn(u32) -> u64) {
        for (limit_key, last) in std::mem::take(&mut self.keys) {
            let count = untold(limit_key);
            if count == 0 {
                continue;
            }
            *self.accounted.entry(last.reason).or_default() += count;
            if let Some(group) = last.group.and_then(|key| self.groups.get_mut(&key)) {
                group.count += count;
            }
        }
    }

    /// Groups, the largest first.
    pub fn all(&mut self) -> Vec<&mut Group> {
        let mut all: Vec<&mut Group> = self.groups.values_mut().collect();
        all.sort_by_key(|group| (std::cmp::Reverse(group.count), group.first_ns));
        all
    }

    /// Where drops are put together by nothing but their reason, the exact count is that of the group.
    pub fn complete(&mut self, totals: &mut [ReasonTotal]) {
        if self.by != By::Reason {
            return;
        }
        for total in totals {
            let key = Key { reason: total.reason, class: total.class, dimension: Dimension::Nothing };
            if let Some(group) = self.groups.get_mut(&key) {
                group.count += total.not_sampled();
                total.accounted += total.not_sampled();
            }
        }
    }

    /// Drops that are a loss, though their reason is normal; and those that are normal, though it is not.
    pub fn reclassified(&self) -> (u64, u64) {
        let of = |is_normal: bool| {
            let others = self.groups.iter().filter(move |(key, group)| {
                let by_reason = of_reason(&group.sample.reason_name).0.is_normal();
                key.class.is_normal() == is_normal && by_reason != is_normal
            });
            others.map(|(_, group)| group.count).sum()
        };
        (of(false), of(true))
    }

    /// Exact counts, the largest first. `name`: of a reason, by number.
    pub fn totals(&self, totals: &[Total], name: impl Fn(u32) -> String) -> Vec<ReasonTotal> {
        let subsystems = netdiag_ebpf::config::DROP_REASONS as u32;
        let accounted = |reason: u32| match reason {
            beyond if beyond >= subsystems => self.accounted.range(beyond..).map(|(_, count)| count).sum(),
            reason => self.accounted.get(&reason).copied().unwrap_or(0),
        };
        let mut all: Vec<ReasonTotal> = totals
            .iter()
            .map(|total| {
                let name =
                    if total.reason >= subsystems { "SUBSYSTEMS".to_owned() } else { name(total.reason) };
                let (class, meaning) = of_reason(&name);
                ReasonTotal {
                    reason: total.reason,
                    class,
                    meaning,
                    all: total.all,
                    not_ip: total.unparsed,
                    accounted: accounted(total.reason),
                    name,
                }
            })
            .collect();
        all.sort_by_key(|total| (std::cmp::Reverse(total.all), total.reason));
        all
    }
}
