//! Which rule of the packet filter dropped a packet: asked while the rule is still there.

use super::{Engine, now_ns};
use crate::enrich::firewall::BY_NFTABLES;
use crate::probes::{Drop, Tuple, protocol};
use crate::track::{Connection, hook_of};

impl Engine {
    /// Asks the kernel which rule dropped a packet, while the rule is still there, and else the ruleset. Returns
    /// whether either was asked: then a drop without a rule is one whose rule is not known.
    pub(super) fn name_rule(&mut self, drop: &mut Drop) -> bool {
        let frames = std::mem::take(&mut drop.frames);
        let by_filter = self.session.reasons.is_drop(drop.reason, "NETFILTER_DROP");
        if !by_filter || self.shed.samples {
            return false;
        }
        // Reading the rulesets of others takes time in which the ring buffer fills.
        if self.follows && !self.may_be_asked(drop) {
            return false;
        }
        let Some(symbol) = self.tracker.symbol(drop.location) else { return false };
        let by_nftables = symbol == BY_NFTABLES;
        // In a flood most come without.
        if by_nftables && frames.words.is_empty() {
            return false;
        }
        let stack: Vec<String> = drop.stack.iter().filter_map(|at| self.tracker.symbol(*at)).collect();
        let hook = hook_of(&stack);
        let mut asked = false;
        if by_nftables
            && self.peeks
            && let Some(mut memory) = self.session.memory()
        {
            let mut name = || self.firewall.name(drop, &frames, hook, &mut memory);
            // Where the whole machine is watched, others' drops are named too.
            if self.follows {
                name();
            } else if self.namings.within(name).is_none() {
                // There was no time for the kernel's own word, which another packet of the flow may get.
                return false;
            }
            asked = true;
        }
        if by_nftables && drop.rule.is_none() && self.firewall.traces() && self.may_trace(drop) {
            self.firewall.follow(drop);
        }
        if drop.rule.is_none() {
            let is_waited_for = self.follows && drop.packet.tuple.protocol == protocol::TCP;
            let mut compare = || self.firewall.compare(drop, &symbol, hook, now_ns());
            // As above: the packets of the command do not wait for the time that those of others took.
            if is_waited_for {
                compare();
                asked = true;
            } else {
                asked |= self.comparisons.within(compare).is_some();
            }
        }
        asked || drop.rule.is_some()
    }

    /// Whether a packet may be one of the command's that `run` started. Where tc watches nothing, its namespaces are not
    /// known.
    fn may_be_asked(&mut self, drop: &Drop) -> bool {
        let tuple = drop.packet.tuple;
        tuple.protocol != protocol::TCP
            || self.is_asked(drop)
            || self.may_be_translated(drop)
            || self.wire_since.is_empty() && self.has_asked_end(&tuple)
    }

    /// Whether a socket sent a SYN in a namespace of the command's: NAT may have made another end of the one that was
    /// asked for.
    fn may_be_translated(&self, drop: &Drop) -> bool {
        let Drop { sock, packet, .. } = drop;
        *sock != 0 && packet.iif == 0 && packet.is_syn() && self.wire_since.contains_key(&packet.netns.into())
    }

    /// Whether the user asked about a flow.
    fn may_trace(&mut self, drop: &Drop) -> bool {
        if self.follows {
            return self.is_asked(drop);
        }
        let Drop { packet, time_ns, .. } = drop;
        let of = |tuple| Connection::of_flow(tuple, packet.netns, *time_ns);
        let both = [packet.tuple, packet.tuple.reversed()];
        self.filter.as_ref().is_none_or(|filter| both.into_iter().any(|tuple| filter.0(&of(tuple))))
    }

    /// `run` knows the remote ends of its command's TCP connections, and that packets to them stay in namespaces which
    /// links join with the command's.
    fn is_asked(&mut self, drop: &Drop) -> bool {
        let Drop { packet, .. } = drop;
        self.has_asked_end(&packet.tuple)
            && self.wire_since.keys().any(|own| self.firewall.joins(*own, packet.netns))
    }

    fn has_asked_end(&self, tuple: &Tuple) -> bool {
        [tuple.destination, tuple.source].into_iter().any(|end| self.session.is_asked_end(end))
    }
}
