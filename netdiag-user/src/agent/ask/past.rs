//! What an agent has counted, in this program's words.

use super::drops::PastDrop;
use crate::drops::reasons::class;
use crate::drops::{By, Dropped, Groups, Who, Whose};
use crate::filter::Filter;

impl PastDrop {
    /// Adds it to groups if it is wanted. Returns how many drops were of flows that are not told apart any more, where
    /// that matters. Times of the groups are nanoseconds since 1970.
    pub fn add_to(self, groups: &mut Groups, by: By, filter: Option<&Filter>, who: &mut Who) -> u64 {
        let Self { count, first_us, last_us, several, reason, symbol, hook, drop } = self;
        if several && (filter.is_some() || matches!(by, By::Flow | By::Interface)) {
            return count;
        }
        let ns = |us: i64| u64::try_from(us).unwrap_or(0).saturating_mul(1_000);
        let (class, meaning) = class(&reason, symbol.as_deref(), &drop.packet);
        let way = who.way(&drop.packet, hook, class, |look| look());
        let dropped = Dropped {
            time_ns: ns(last_us),
            reason: drop.reason,
            reason_name: reason,
            symbol,
            hook,
            class,
            meaning,
            netns_name: who.netns_name(drop.packet.netns),
            packet: drop.packet,
            way,
            whose: Whose::Unknown,
            rule: drop.rule,
            // Whether it was or not: it is what the agent knows.
            rule_looked_up: true,
            suppressed: count.saturating_sub(1),
            limit_key: 0,
        };
        if filter.is_none_or(|filter| filter.matches(&dropped) == Some(true)) {
            groups.add_span(dropped, ns(first_us));
        }
        0
    }
}
