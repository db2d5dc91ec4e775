//! The queue of an interface dropped what was to leave.

use super::super::words::how_it_ended;
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide, enter, where_phrase};
use crate::enrich::droppers::Spot;
use crate::track::What;

/// Reasons of the device below the queue (include/net/dropreason-core.h): it is not ready, or it has no room.
const OF_DEVICE: &[&str] = &["DEV_READY", "DEV_HDR", "FULL_RING", "NO_TX_TARGET"];

fn is_of_device(drop: &Drop) -> bool {
    OF_DEVICE.contains(&drop.reason)
}

pub(super) fn qdisc_drop(evidence: &Evidence) -> Verdict {
    let pick = |drop: &Drop| Spot::of(drop.reason, drop.symbol) == Some(Spot::Qdisc) || is_of_device(drop);
    let sent = last_drop(evidence, true, pick).filter(|_| !accepted_answer(evidence));
    let Some(drop) = sent.or_else(|| last_drop(evidence, false, pick)) else { return Verdict::Healthy };
    // Without a carrier the queue is one that drops all: `unreachable.interface-down` says so.
    if is_down(evidence, &drop) {
        return Verdict::Healthy;
    }
    let interface = drop.place.interface.as_deref().filter(|name| !name.is_empty());
    let on = interface.map_or_else(String::new, |name| format!(" of {name}"));
    let there = where_phrase(evidence, drop.place);
    let whole = ended_it(evidence, &drop);
    let queues = evidence.facts.droppers.iter().rfind(|there| {
        there.spot == Spot::Qdisc
            && there.netns == u64::from(drop.place.netns)
            && there.interface == drop.place.interface
    });
    let queues = queues.map_or(&[][..], |there| &there.others);
    let (stage, what) = if is_of_device(&drop) {
        (Stage::Device, "the device".to_owned())
    } else {
        let kind = match queues {
            [only] => only.split(' ').next().map(|kind| format!(" ({kind})")).unwrap_or_default(),
            _ => String::new(),
        };
        (Stage::Qdisc, format!("the queue{kind}"))
    };
    let ns = enter(evidence, drop.place);
    let name = interface.unwrap_or("IFACE");
    let listed = match queues {
        [] => String::new(),
        queues => format!(" Queues there: {}.", queues.join(", ")),
    };
    let netem = queues.iter().any(|queue| queue.starts_with("netem"));
    let mut finding = Finding::new(
        if whole { Confidence::Certain } else { Confidence::Possible },
        Where::new(WhereSide::Local, stage).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("{what}{on}{there} drops {} ({})", drop.what(), drop.reason),
    )
    .explain(format!(
        "{} never left this machine{there}: on its way out {what}{on} threw it away. A queue drops when it is full, \
         when its rate is exceeded, or because it is told to (netem). Sockets are not told, so the application could \
         only wait.{listed}{}",
        capital(drop.what()),
        if whole { "" } else { " A later copy was not seen to be dropped, so there may be a second cause." },
    ))
    .next("does `dropped` grow, and is there a backlog?", format!("{ns}tc -s qdisc show dev {name}"))
    .next("what the device itself drops", format!("{ns}ip -s -s link show dev {name}"));
    if netem {
        finding = finding.next(
            "netem loses packets on purpose, for tests: take it away",
            format!("{ns}tc qdisc del dev {name} root"),
        );
    } else {
        finding = finding.advise(
            "raise the limit or the rate of the queue, or find out what fills it; see `tc -s class show` for classes",
        );
    }
    if whole { finding } else { finding.or(&["timeout.no-reply"]) }.found()
}

/// Whether the interface of this drop is known to be down or without a carrier; that is known of the connection's own.
fn is_down(evidence: &Evidence, drop: &Drop) -> bool {
    drop.place.netns == evidence.connection.netns
        && evidence.facts.links.iter().flatten().any(|link| {
            Some(&link.name) == drop.place.interface.as_ref() && (!link.up || link.carrier == Some(false))
        })
        && evidence.find(|what| matches!(what, What::Dropped { .. }).then_some(())).next().is_some()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, CLIENT_NETNS, Case, SYN};
    use super::*;
    use crate::enrich::droppers::Dropper;
    use crate::enrich::links::Link;

    const CODE: &str = "timeout.qdisc-drop";

    fn case(reason: &'static str) -> Case {
        let drop = testing::Drop::syn(reason, "kfree_skb_list_reason");
        Case::connecting().syn_again(&[1000]).dropped(0, drop.clone()).dropped(1000, drop).with(|e| {
            e.facts.droppers.push(Dropper {
                spot: Spot::Qdisc,
                netns: CLIENT_NETNS.into(),
                interface: Some("eth0".into()),
                programs: Vec::new(),
                others: vec!["netem 8001: root".into()],
            });
        })
    }

    #[test]
    fn the_queue_is_named() {
        let (code, finding) = case("QDISC_DROP").diagnosed();
        assert_eq!((code, finding.confidence), (CODE, Confidence::Certain));
        assert_eq!(finding.cause, "the queue (netem) of eth0 drops the SYN (QDISC_DROP)");
        assert!(finding.next_steps.iter().any(|step| step.text.contains("netem")));
    }

    #[test]
    fn so_is_the_device() {
        let (code, finding) = case("FULL_RING").diagnosed();
        assert_eq!((code, finding.place.stage), (CODE, Stage::Device));
    }

    #[test]
    fn without_a_carrier_it_is_the_interface() {
        let down = Link {
            ifindex: 2,
            name: "eth0".into(),
            up: true,
            carrier: Some(false),
            operstate: None,
            kind: None,
            mtu: 1500,
            master: None,
            addresses: Vec::new(),
        };
        assert_eq!(
            case("QDISC_DROP").with(|e| e.facts.links = Some(vec![down])).asked(CODE),
            Verdict::Healthy
        );
    }

    #[test]
    fn a_later_copy_that_got_through_leaves_doubt() {
        let drop = testing::Drop::syn("QDISC_OVERLIMIT", "fq_codel_enqueue");
        let case = Case::connecting().syn_again(&[1000, 3000]).dropped(0, drop);
        let finding = case.clone().found(CODE);
        assert_eq!(
            (finding.confidence, &finding.alternatives[..]),
            (Confidence::Possible, &["timeout.no-reply"][..])
        );
        assert_eq!(case.came(3001, SYN | ACK).asked(CODE), Verdict::Healthy);
    }
}
