//! Events and steps as entries of a timeline.

use std::cell::OnceCell;

use super::connection::Connection;
use super::hook::hook_of;
use super::timeline::{Moment, Place, What};
use crate::enrich::netns::Names;
use crate::kernel::reasons::Reasons;
use crate::kernel::symbols::Symbols;
use crate::probes::{Event, Step, StepKind, Tuple};

/// Gives the kernel's numbers their names.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) reasons: Reasons,
    symbols: OnceCell<Option<Symbols>>,
}

impl Teller {
    pub(super) fn new(reasons: Reasons) -> Self {
        Self { reasons, symbols: OnceCell::new() }
    }

    pub(super) fn step(&self, step: &Step) -> Option<Moment> {
        let what = match step.kind {
            StepKind::State { from, to } => What::State { from, to },
            StepKind::Retransmit { state, retransmits } => What::Retransmit { state, retransmits },
            StepKind::Error { errno, soft } => What::Error { errno, soft },
            StepKind::ResetReceived => What::ResetReceived,
            StepKind::ResetSent { reason } => What::ResetSent { reason: self.reset_name(reason) },
            // The drop's own record says more; the step in the kernel marks the socket as in trouble.
            StepKind::Drop { .. } => return None,
        };
        Some(Moment { time_ns: step.time_ns, what })
    }

    pub(super) fn moment(&self, connection: &Connection, event: &Event, names: &Names) -> Option<Moment> {
        let outgoing = |tuple: &Tuple| connection.goes_to(tuple.destination);
        let place = |netns, interface: &str| place(netns, interface, names);
        let what = match event {
            Event::Drop(drop) => {
                let stack: Vec<String> =
                    drop.stack.iter().filter_map(|address| self.symbol(*address)).collect();
                What::Dropped {
                    outgoing: outgoing(&drop.packet.tuple),
                    reason: self.reasons.drop_name(drop.reason),
                    symbol: self.symbol(drop.location),
                    hook: hook_of(&stack),
                    stack,
                    place: place(drop.packet.netns, &drop.packet.interface),
                    suppressed: drop.suppressed,
                    rule: drop.rule.clone(),
                    packet: drop.packet.clone(),
                }
            }
            Event::Wire(wire) => {
                let packet = wire.packet.clone();
                let place = place(packet.netns, &packet.interface);
                if wire.quoted.is_some() {
                    What::IcmpReceived { packet, place }
                } else {
                    What::Wire { outgoing: outgoing(&packet.tuple), packet, place }
                }
            }
            Event::IcmpSent(icmp) => What::IcmpSent {
                icmp_type: icmp.icmp_type,
                icmp_code: icmp.icmp_code,
                outgoing: outgoing(&icmp.packet.tuple),
                place: place(icmp.packet.netns, &icmp.packet.interface),
            },
            Event::ResetSent(reset) => What::ResetAnswered {
                reason: self.reset_name(reset.reason),
                state: reset.state,
                accept_queue: reset.accept_queue,
                backlog: reset.backlog,
                place: place(reset.packet.netns, &reset.packet.interface),
            },
            Event::RouteFailed(route) => What::RouteFailed {
                tuple: route.tuple,
                table: route.table,
                errno: route.errno,
                forwarded: route.iif.is_some(),
                place: place(route.netns.unwrap_or(0), ""),
            },
            Event::SynAckAgain(again) => What::SynAckRetransmitted { place: place(again.netns, "") },
            Event::ListenOverflow(overflow) => What::ListenOverflow {
                accept_queue: overflow.accept_queue,
                backlog: overflow.backlog,
                place: place(overflow.packet.netns, &overflow.packet.interface),
            },
            Event::NeighbourFailed(failed) => What::NeighbourFailed {
                address: failed.address,
                place: place(failed.netns, &failed.interface),
            },
            Event::Connection(_)
            | Event::Suspect(_)
            | Event::CallFailed(_)
            | Event::SocketError(_)
            | Event::Exec(_) => return None,
        };
        Some(Moment { time_ns: event.time_ns(), what })
    }

    fn reset_name(&self, reason: Option<u32>) -> Option<String> {
        reason.and_then(|reason| self.reasons.reset_name(reason)).map(str::to_owned)
    }

    /// Name of the function at an address, without the compiler's suffixes. The table is read at the first
    /// need: it takes 60 ms that most runs never pay.
    pub(super) fn symbol(&self, address: u64) -> Option<String> {
        Some(self.symbols()?.resolve(address)?.base_name().to_owned())
    }

    pub(super) fn code_of(&self, names: &[&str]) -> Vec<[u64; 2]> {
        self.symbols().map(|symbols| symbols.ranges(names)).unwrap_or_default()
    }

    fn symbols(&self) -> Option<&Symbols> {
        self.symbols.get_or_init(|| Symbols::load().ok()).as_ref()
    }
}

fn place(netns: u32, interface: &str, names: &Names) -> Place {
    Place {
        netns,
        netns_name: if netns == 0 { None } else { names.of(netns.into()) },
        interface: (!interface.is_empty()).then(|| interface.to_owned()),
    }
}
