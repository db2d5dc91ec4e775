//! Which rule of the packet filter dropped a packet: asked while the rule is still there.

use super::{Engine, Prefilter, now_ns};
use crate::probes::Drop;
use crate::track::{Connection, hook_of};

impl Engine {
    /// Asks the kernel which rule dropped a packet, while the rule is still there, and else the ruleset.
    pub(super) fn name_rule(&mut self, drop: &mut Drop) {
        let frames = std::mem::take(&mut drop.frames);
        let by_filter = self.session.reasons.is_drop(drop.reason, "NETFILTER_DROP");
        if !by_filter || self.shed.samples {
            return;
        }
        let Some(symbol) = self.tracker.symbol(drop.location) else { return };
        let by_nftables = symbol == "nft_do_chain";
        // In a flood most come without.
        if by_nftables && frames.words.is_empty() {
            return;
        }
        let stack: Vec<String> = drop.stack.iter().filter_map(|at| self.tracker.symbol(*at)).collect();
        let hook = hook_of(&stack);
        if by_nftables
            && self.peeks
            && let Some(mut memory) = self.session.memory()
        {
            let mut name = || self.firewall.name(drop, &frames, hook, &mut memory);
            // The kernel sends few of these. Where the whole machine is watched, others' drops are named too.
            if self.follows { name() } else { self.namings.within(name).unwrap_or_default() }
        }
        if by_nftables && drop.rule.is_none() && self.firewall.traces() && self.may_trace(drop) {
            self.firewall.follow(drop);
        }
        if drop.rule.is_none() {
            self.comparisons.within(|| self.firewall.compare(drop, &symbol, hook, now_ns()));
        }
    }

    /// Whether the user asked about a flow. `run` knows the remote ends of its command's connections, and that packets
    /// to them stay in namespaces which links join with the command's.
    fn may_trace(&mut self, drop: &Drop) -> bool {
        let Drop { packet, time_ns, .. } = drop;
        let tuple = packet.tuple;
        if !self.follows {
            let of = |tuple| Connection::of_flow(tuple, packet.netns, *time_ns);
            let asks = |filter: &Prefilter| [tuple, tuple.reversed()].into_iter().any(|t| filter.0(&of(t)));
            return self.filter.as_ref().is_none_or(asks);
        }
        let asked = [tuple.destination, tuple.source].into_iter().any(|end| self.session.is_asked_end(end));
        asked && self.wire_since.keys().any(|own| self.firewall.joins(*own, packet.netns))
    }
}
