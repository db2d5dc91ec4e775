//! What to say of drops of one cause.

use super::super::{Confidence, Diagnosis, Finding, Stage, Where, WhereSide, find, rule, words};
use super::advice;
use crate::drops::{Dropped, Way, Whose};
use crate::track::Place;

/// The entry of the catalogue, and what is to be said; `None` for what is normal. The kernel itself gave the reason,
/// so it is certain, unless a rule is named that was found by comparing.
pub fn finding(drop: &Dropped) -> Option<(&'static Diagnosis, Finding)> {
    let diagnosis = find(drop.class.code()?)?;
    let place = Place {
        netns: drop.packet.netns,
        netns_name: drop.netns_name.clone(),
        interface: Some(drop.packet.interface.to_string()),
    };
    let stage = stage(diagnosis.code, &drop.reason_name, drop.symbol.as_deref());
    let place = Where::new(WhereSide::Local, stage).at(&place).symbol(drop.symbol.as_deref());
    let finding = Finding::new(Confidence::Certain, place, headline(drop), cause(drop));
    let finding = finding.explain(explanation(drop));
    let ns = words::in_netns(drop.netns_name.as_deref());
    let finding = match (&drop.rule, diagnosis.code) {
        (Some(named), _) => rule::steps(finding, &ns, named, rule::Allow::Packet(&drop.packet.tuple)),
        (None, code) => advice::steps(finding, code, &ns, drop),
    };
    Some((diagnosis, if diagnosis.code == "drop.firewall" { with_firewall(finding, drop) } else { finding }))
}

fn with_firewall(finding: Finding, drop: &Dropped) -> Finding {
    let engine = rule::engine_at(drop.symbol.as_deref());
    let fact = rule::fact(engine, drop.hook, drop.rule.as_deref());
    Finding { confidence: rule::confidence(Some(&fact)), ..finding.firewall(fact) }
}

/// "SYN from 10.0.0.9:4711 to 10.1.2.3:22 dropped"
fn headline(drop: &Dropped) -> String {
    let tuple = drop.packet.tuple;
    format!("{} from {} to {} dropped", drop.packet.name(), tuple.source, tuple.destination)
}

fn cause(drop: &Dropped) -> String {
    match (&drop.rule, drop.hook, drop.meaning) {
        (Some(rule), ..) if rule.is_policy() => rule.label(),
        (Some(rule), ..) => format!("rule {}", rule.label()),
        (None, Some(hook), meaning) => format!("{meaning} (hook {hook})"),
        (None, None, "") => format!("the kernel says {}", drop.reason_name),
        (None, None, meaning) => meaning.to_owned(),
    }
}

fn explanation(drop: &Dropped) -> String {
    let way = match drop.way {
        Way::Outbound => "This host made the packet and threw it away before it left.",
        Way::Inbound => "The packet came to this host and was thrown away before any process saw it.",
        Way::Forwarded => "The packet was on its way through this host: no process here asked for it.",
        Way::CameIn => "The packet came in and was thrown away.",
    };
    let whose = match &drop.whose {
        Whose::Process(owner) => format!(" The socket belongs to {}[{}].", owner.comm, owner.pid),
        Whose::Nobody if drop.way != Way::Forwarded => " No process here has a socket for it.".to_owned(),
        Whose::Nobody | Whose::Unknown => String::new(),
    };
    let rule = drop.rule.as_ref().map(|rule| format!(" {}", rule::sentence(rule))).unwrap_or_default();
    let rejects = drop.rule.as_ref().is_some_and(|rule| rule.rejects);
    let answer = if rejects { " It answers the sender, which is refused at once." } else { "" };
    let symbol = drop.symbol.as_ref().map(|symbol| format!(" in {symbol}()")).unwrap_or_default();
    format!("{way}{whose}{rule}{answer} The kernel's reason is {}{symbol}.", drop.reason_name)
}

fn stage(code: &str, reason: &str, symbol: Option<&str>) -> Stage {
    match code {
        "drop.firewall" => Stage::Netfilter,
        "drop.reverse-path-filter"
        | "drop.martian"
        | "drop.forwarding-disabled"
        | "drop.no-route"
        | "drop.too-big" => Stage::Route,
        "drop.no-socket" | "drop.receive-buffer" => Stage::Socket,
        "drop.qdisc" => Stage::Qdisc,
        "drop.bpf" => match reason {
            "XDP" => Stage::Xdp,
            "SOCKET_FILTER" => Stage::Socket,
            "BPF_CGROUP_EGRESS" => Stage::CgroupBpf,
            _ => Stage::Tc,
        },
        _ if reason.starts_with("NEIGH_") => Stage::Neighbour,
        _ if symbol.is_some_and(|name| name.starts_with("neigh_") || name.starts_with("ndisc_")) => {
            Stage::Neighbour
        }
        _ if reason.starts_with("TCP_") => Stage::Tcp,
        _ if reason.starts_with("DEV_") => Stage::Device,
        _ => Stage::Socket,
    }
}
