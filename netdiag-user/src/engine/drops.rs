//! Drops by themselves, without connections: what `netdiag drops` is told.

use super::{BATCH, Engine, now_ns};
use crate::drops::reasons::class;
use crate::drops::{Dropped, Way, Who, Whose};
use crate::kernel::KernelError;
use crate::kernel::drops::Total;
use crate::probes::{Drop, DropRule, Event};
use crate::track::hook_of;

impl Engine {
    /// Takes all records that are there. `wants` is asked twice at most: with what the packet says, and then with its
    /// process; `Some(false)` ends it, and so does anything but `Some(true)` at the end. `tell` gets the drop, and
    /// whether it is wanted. Returns how many there were.
    pub fn poll_drops<E>(
        &mut self,
        who: &mut Who,
        wants: impl Fn(&Dropped) -> Option<bool>,
        mut tell: impl FnMut(Dropped, bool) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut taken = 0;
        for _ in 0..BATCH {
            let Some(event) = self.next_event() else { break };
            taken += 1;
            let Event::Drop(mut drop) = event else { continue };
            let mut dropped = self.dropped(&drop, who);
            let mut wanted = wants(&dropped);
            if wanted != Some(false) && !dropped.class.is_normal() {
                let searches = &mut self.searches;
                dropped.whose = who.whose(&dropped.packet, dropped.way, |look| {
                    searches.within(look);
                });
                wanted = wants(&dropped);
            }
            let wanted = wanted == Some(true);
            if wanted {
                dropped.rule_looked_up = self.name_rule(&mut drop);
                dropped.rule = drop.rule.take();
            }
            tell(dropped, wanted)?;
        }
        Ok(taken)
    }

    fn dropped(&mut self, drop: &Drop, who: &mut Who) -> Dropped {
        let stack: Vec<String> = drop.stack.iter().filter_map(|at| self.tracker.symbol(*at)).collect();
        let hook = hook_of(&stack);
        let reason_name = self.session.reasons.drop_name(drop.reason);
        let symbol = self.tracker.symbol(drop.location);
        let (class, meaning) = class(&reason_name, symbol.as_deref(), &drop.packet);
        let searches = &mut self.searches;
        let way = if class.is_normal() {
            Way::CameIn
        } else {
            who.way(&drop.packet, hook, class, |look| {
                searches.within(look);
            })
        };
        Dropped {
            time_ns: drop.time_ns,
            reason: drop.reason,
            reason_name,
            symbol,
            hook,
            class,
            meaning,
            packet: drop.packet.clone(),
            netns_name: who.netns_name(drop.packet.netns),
            way,
            whose: Whose::Unknown,
            rule: None,
            rule_looked_up: false,
            suppressed: drop.suppressed.into(),
            limit_key: drop.limit_key,
        }
    }

    /// Ends the counting of drops; what was told until now is all.
    pub fn end_drops(&mut self) {
        self.session.end_drops();
    }

    /// Every drop, by its reason.
    pub fn drop_totals(&self) -> Result<Vec<Total>, KernelError> {
        self.session.drops().totals()
    }

    /// Drops of a flow and reason since the last record of them.
    pub fn untold_drops(&self, limit_key: u32) -> u64 {
        self.session.drops().untold(limit_key)
    }

    /// Name of a drop reason of this kernel.
    pub fn drop_reason(&self, reason: u32) -> String {
        self.session.reasons.drop_name(reason)
    }

    /// Whether a rule is still there, in the words that it has now.
    pub fn look_at_rule(&mut self, netns: u32, rule: &mut DropRule) {
        self.firewall.look_again(netns, rule, now_ns());
    }
}
