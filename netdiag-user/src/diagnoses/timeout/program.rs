//! A program or filter of tc, XDP or a control group dropped a packet.

use super::super::words::how_it_ended;
use super::super::{FirewallFact, Stage};
use super::dropped::{Drop, accepted_answer, ended_it, last_drop};
use super::{Confidence, Evidence, Finding, Verdict, Where, WhereSide, enter, where_phrase};
use crate::enrich::droppers::{BpfProgram, Dropper, Spot};
use crate::track::Hook;

/// A packet that mattered, dropped where programs and filters are; `None` for the queues.
fn drop_of<'a>(evidence: &'a Evidence, outgoing: bool) -> Option<(Drop<'a>, Spot)> {
    let spot = |drop: &Drop| Spot::of(drop.reason, drop.symbol).filter(|spot| *spot != Spot::Qdisc);
    let drop = last_drop(evidence, outgoing, |drop| spot(drop).is_some())?;
    spot(&drop).map(|spot| (drop, spot))
}

fn find(evidence: &Evidence) -> Option<(Drop<'_>, Spot)> {
    drop_of(evidence, true).filter(|_| !accepted_answer(evidence)).or_else(|| drop_of(evidence, false))
}

/// What is there.
fn fact<'a>(evidence: &'a Evidence, drop: &Drop, spot: Spot) -> Option<&'a Dropper> {
    let of_group = matches!(spot, Spot::CgroupIngress | Spot::CgroupEgress);
    evidence.facts.droppers.iter().rfind(|there| {
        there.spot == spot
            && there.netns == u64::from(drop.place.netns)
            && (of_group || there.interface == drop.place.interface)
    })
}

/// Whether a program of the control group explains what looks like a filter of the socket.
pub(super) fn explains(evidence: &Evidence, drop: &Drop) -> bool {
    drop.reason == "SOCKET_FILTER"
        && fact(evidence, drop, Spot::CgroupIngress).is_some_and(|there| !there.programs.is_empty())
}

pub(super) fn bpf_drop(evidence: &Evidence) -> Verdict {
    let Some((drop, spot)) = find(evidence) else { return Verdict::Healthy };
    let there = fact(evidence, &drop, spot);
    let programs = there.map_or(&[][..], |there| &there.programs);
    let filters = there.map_or(&[][..], |there| &there.others);
    let sure = match spot {
        // A filter of the socket itself would look the same.
        Spot::CgroupIngress if programs.is_empty() => return Verdict::Healthy,
        Spot::CgroupIngress => Confidence::Likely,
        // The function tells, and frees packets for a few other reasons too.
        Spot::Xdp if !drop.has_reason() => Confidence::Likely,
        _ => Confidence::Certain,
    };
    let whole = ended_it(evidence, &drop);
    let confidence = if whole { sure } else { Confidence::Possible };
    let stage = stage(spot);
    let (on, ns) = (on(&drop, evidence), enter(evidence, drop.place));
    let who = who(spot, programs, filters);
    let bpf = filters.is_empty() && (!programs.is_empty() || stage != Stage::Tc);
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, stage).at(drop.place).symbol(drop.symbol),
        how_it_ended(evidence),
        format!("{who} drops {}{on}", drop.what()),
    )
    .firewall(FirewallFact { engine: bpf.then(|| "bpf".into()), hook: hook(spot), rule: None })
    .programs(programs)
    .explain(format!(
        "On this machine{on} {who} threw {} away, and nobody is told of that, so the application could only \
         wait. {} No rule of a firewall is to blame, and none of nft or iptables shows it.{}",
        drop.what(),
        whose(programs, filters),
        if whole { "" } else { " A later copy was not seen to be dropped, so there may be a second cause." },
    ));
    for program in programs.iter().take(2) {
        finding = finding.next(
            format!("what {} is ({})", program.label(), program.attached),
            format!("bpftool prog show id {}", program.id),
        );
    }
    for (text, command) in list(spot, &drop, &ns, filters) {
        finding = finding.next(text, command);
    }
    let holders: Vec<String> = programs.iter().flat_map(|program| &program.holders).map(holder).collect();
    finding = match holders.first() {
        Some(first) => finding.advise(format!("ask whoever runs {first} why it drops this; its own rules decide")),
        None => finding.advise(
            "find out who sets it up (a CNI plugin, a security agent, a DDoS filter, a shaper): its own rules decide",
        ),
    };
    if whole { finding } else { finding.or(&["timeout.no-reply"]) }.found()
}

fn stage(spot: Spot) -> Stage {
    match spot {
        Spot::Xdp => Stage::Xdp,
        Spot::CgroupIngress | Spot::CgroupEgress => Stage::CgroupBpf,
        Spot::TcIngress | Spot::TcEgress | Spot::Qdisc => Stage::Tc,
    }
}

/// "the tc program deny[42]", "a tc filter", "a tc program or filter".
fn who(spot: Spot, programs: &[BpfProgram], filters: &[String]) -> String {
    let kind = match stage(spot) {
        Stage::Xdp => "XDP program",
        Stage::CgroupBpf => "BPF program of the control group",
        _ => "tc program",
    };
    match (programs, filters) {
        ([only], []) => format!("the {kind} {}", only.label()),
        ([], [only]) => format!("the tc filter {only}"),
        ([], [_, ..]) => "a tc filter".to_owned(),
        ([], []) if stage(spot) == Stage::Tc => "a tc program or filter".to_owned(),
        ([_, ..], [_, ..]) => "a tc program or filter".to_owned(),
        (_, []) => format!("a{} {kind}", if kind.starts_with('X') { "n" } else { "" }),
    }
}

fn hook(spot: Spot) -> Option<Hook> {
    match spot {
        Spot::Xdp | Spot::TcIngress | Spot::CgroupIngress => Some(Hook::Ingress),
        Spot::TcEgress | Spot::CgroupEgress => Some(Hook::Egress),
        Spot::Qdisc => None,
    }
}

/// " on eth0 in network namespace web"
fn on(drop: &Drop, evidence: &Evidence) -> String {
    let interface = drop.place.interface.as_deref().filter(|name| !name.is_empty());
    let on = interface.map_or_else(String::new, |name| format!(" on {name}"));
    format!("{on}{}", where_phrase(evidence, drop.place))
}

fn holder(holder: &crate::enrich::droppers::ProgramHolder) -> String {
    format!("{}[{}]", holder.comm, holder.pid)
}

/// Which programs are there, and who loaded them, as far as that is known.
fn whose(programs: &[BpfProgram], filters: &[String]) -> String {
    let one = |program: &BpfProgram| {
        let by = match (program.uid, &program.holders[..]) {
            (uid, [first, rest @ ..]) => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                let uid = uid.map_or_else(String::new, |uid| format!(", loaded by user {uid}"));
                format!("held by {}{more}{uid}", holder(first))
            }
            (Some(uid), []) => format!("loaded by user {uid}, held by no process"),
            (None, []) => "loaded by nobody that is known".to_owned(),
        };
        format!("{} ({}; {by})", program.label(), program.attached)
    };
    let list: Vec<String> = programs.iter().map(one).collect();
    let filters = filters.join(", ");
    match (&list[..], filters.is_empty()) {
        ([], true) => "Which one it was is not known: none was found there afterwards.".to_owned(),
        ([], false) => format!("Filters there: {filters}."),
        ([only], true) => format!("It is {only}."),
        (_, true) => format!("It is one of {}.", list.join(", ")),
        (_, false) => format!("It is one of {}, or one of the filters {filters}.", list.join(", ")),
    }
}

/// How to see what is there.
fn list(spot: Spot, drop: &Drop, ns: &str, filters: &[String]) -> Vec<(&'static str, String)> {
    let interface = drop.place.interface.as_deref().unwrap_or("IFACE");
    let programs = match spot {
        Spot::CgroupIngress | Spot::CgroupEgress => "bpftool cgroup tree".to_owned(),
        _ => format!("{ns}bpftool net show dev {interface}"),
    };
    let mut steps = vec![("all programs that see packets there", programs)];
    let way = if spot == Spot::TcIngress { "ingress" } else { "egress" };
    if !filters.is_empty() {
        let command = format!("{ns}tc -s filter show dev {interface} {way}");
        steps.insert(0, ("the filters, and how many packets each action dropped", command));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{self, ACK, CLIENT_NETNS, Case, PEER_NETNS, SYN, there};
    use super::*;
    use crate::enrich::droppers::ProgramHolder;

    const BPF: &str = "timeout.bpf-drop";

    fn program(id: u32) -> BpfProgram {
        BpfProgram {
            id,
            name: Some("deny".into()),
            attached: "tcx egress".into(),
            uid: Some(0),
            holders: vec![ProgramHolder { pid: 77, comm: "agent".into() }],
        }
    }

    fn at(spot: Spot, netns: u32, programs: &[BpfProgram], others: &[&str]) -> Dropper {
        Dropper {
            spot,
            netns: netns.into(),
            interface: Some("eth0".into()),
            programs: programs.to_vec(),
            others: others.iter().map(|other| (*other).to_owned()).collect(),
        }
    }

    fn case(drop: testing::Drop, dropper: Dropper) -> Case {
        Case::connecting()
            .syn_again(&[1000])
            .dropped(0, drop.clone())
            .dropped(1000, drop)
            .with(|e| e.facts.droppers.push(dropper))
    }

    fn egress() -> testing::Drop {
        testing::Drop::syn("TC_EGRESS", "__dev_queue_xmit")
    }

    #[test]
    fn the_only_program_is_named() {
        let (code, finding) =
            case(egress(), at(Spot::TcEgress, CLIENT_NETNS, &[program(42)], &[])).diagnosed();
        assert_eq!((code, finding.confidence), (BPF, Confidence::Certain));
        assert_eq!(finding.cause, "the tc program deny[42] drops the SYN on eth0");
        assert!(
            finding.explanation.contains("held by agent[77], loaded by user 0"),
            "{}",
            finding.explanation
        );
        assert_eq!((finding.programs.len(), finding.place.stage), (1, Stage::Tc));
    }

    #[test]
    fn of_several_none_is_picked() {
        let dropper = at(Spot::TcEgress, CLIENT_NETNS, &[program(1), program(2)], &[]);
        let (code, finding) = case(egress(), dropper).diagnosed();
        assert_eq!((code, finding.confidence), (BPF, Confidence::Certain));
        assert_eq!(finding.cause, "a tc program drops the SYN on eth0");
    }

    #[test]
    fn filters_that_are_no_programs_are_told_as_such() {
        let cause = |programs: &[BpfProgram], filters: &[&str]| {
            let finding = case(egress(), at(Spot::TcEgress, CLIENT_NETNS, programs, filters)).found(BPF);
            let engine = finding.firewall.and_then(|firewall| firewall.engine);
            (finding.cause, engine, finding.next_steps[0].command.clone().unwrap_or_default())
        };
        let (text, engine, command) = cause(&[], &["flower pref 7"]);
        assert_eq!((text.as_str(), engine), ("the tc filter flower pref 7 drops the SYN on eth0", None));
        assert_eq!(command, "tc -s filter show dev eth0 egress");
        let (text, engine, _) = cause(&[program(1)], &["flower pref 7"]);
        assert_eq!((text.as_str(), engine), ("a tc program or filter drops the SYN on eth0", None));
        let elsewhere = at(Spot::TcEgress, PEER_NETNS, &[program(1)], &[]);
        let finding = case(egress(), elsewhere).found(BPF);
        assert_eq!(finding.cause, "a tc program or filter drops the SYN on eth0");
        assert!(finding.programs.is_empty() && finding.explanation.contains("not known"));
    }

    #[test]
    fn what_came_to_an_interface() {
        let xdp = testing::Drop::syn("XDP", "do_xdp_generic").place(there());
        let (code, finding) = case(xdp, at(Spot::Xdp, PEER_NETNS, &[program(9)], &[])).diagnosed();
        assert_eq!((code, finding.confidence, finding.place.stage), (BPF, Confidence::Certain, Stage::Xdp));
        let generic = testing::Drop::syn("NOT_SPECIFIED", "do_xdp_generic").place(there());
        let (code, finding) = case(generic, at(Spot::Xdp, PEER_NETNS, &[program(9)], &[])).diagnosed();
        assert_eq!((code, finding.confidence, finding.place.stage), (BPF, Confidence::Likely, Stage::Xdp));
        let other = testing::Drop::syn("NOT_SPECIFIED", "icmp_rcv").place(there());
        assert_eq!(case(other, at(Spot::Xdp, PEER_NETNS, &[program(9)], &[])).asked(BPF), Verdict::Healthy);
        let answer = testing::Drop::syn_ack("TC_INGRESS", "__netif_receive_skb_core");
        let (code, finding) = case(answer, at(Spot::TcIngress, CLIENT_NETNS, &[program(9)], &[])).diagnosed();
        assert_eq!((code, finding.confidence), (BPF, Confidence::Certain));
        assert_eq!(finding.cause, "the tc program deny[9] drops the answer (SYN-ACK) on eth0");
    }

    #[test]
    fn a_filter_of_the_socket_is_no_program_of_its_group() {
        let filter = || testing::Drop::syn_ack("SOCKET_FILTER", "tcp_v4_rcv");
        let none = at(Spot::CgroupIngress, CLIENT_NETNS, &[], &[]);
        assert_eq!(case(filter(), none).diagnosed().0, "timeout.reply-dropped");
        let some = Dropper { interface: None, ..at(Spot::CgroupIngress, CLIENT_NETNS, &[program(3)], &[]) };
        let (code, finding) = case(filter(), some).diagnosed();
        assert_eq!((code, finding.confidence), (BPF, Confidence::Likely));
    }

    #[test]
    fn accepted_and_other_drops_are_healthy() {
        let accepted =
            case(egress(), at(Spot::TcEgress, CLIENT_NETNS, &[program(1)], &[])).came(1001, SYN | ACK);
        assert_eq!(accepted.asked(BPF), Verdict::Healthy);
        let queue = testing::Drop::syn("QDISC_DROP", "__dev_queue_xmit");
        let other = case(queue, at(Spot::TcEgress, CLIENT_NETNS, &[program(1)], &["flower pref 7"]));
        assert_eq!(other.asked(BPF), Verdict::Healthy);
    }
}
