//! EACCES and EPERM: a policy of this machine.

use std::net::{IpAddr, Ipv4Addr};

use super::super::rule::{self, Allow};
use super::super::words::{errno_name, host_port, in_netns};
use super::super::{Confidence, Evidence, Finding, Stage, Verdict, Where, WhereSide};
use super::own_netns;
use crate::enrich::routes::{RouteAnswer, RouteKind};
use crate::probes::Call;
use crate::track::{End, What};

const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";
/// The send returns the drop's error within the same call: no more than scheduling lies between them.
const SAME_CALL_NS: u64 = 50_000_000;

pub fn not_permitted(evidence: &Evidence) -> Verdict {
    let End::CallFailed { call } = evidence.connection.end else { return Verdict::Healthy };
    let Some(errno @ (libc::EACCES | libc::EPERM)) = evidence.connection.errno else {
        return Verdict::Healthy;
    };
    if refused_by_route(evidence) || told_by_icmp(evidence) {
        return Verdict::Healthy;
    }
    let sends = matches!(call, Call::Sendto | Call::Sendmsg);
    let finding = match errno {
        libc::EPERM if sends => dropped(evidence, call).unwrap_or_else(|| unknown(evidence, call, errno)),
        libc::EACCES if sends && is_broadcast(evidence) => broadcast(evidence, call),
        libc::EACCES if call == Call::Bind => {
            privileged_port(evidence).unwrap_or_else(|| unknown(evidence, call, errno))
        }
        _ => unknown(evidence, call, errno),
    };
    finding.found()
}

/// A prohibit route or rule (EACCES): `unreachable.prohibit-route`.
fn refused_by_route(evidence: &Evidence) -> bool {
    let now = match &evidence.facts.route {
        Some(RouteAnswer::Failed { errno, .. }) => *errno == libc::EACCES,
        Some(RouteAnswer::Route(route)) => route.kind == RouteKind::Prohibit,
        None => false,
    };
    let then = |what: &What| matches!(what, What::RouteFailed { errno, .. } if errno.abs() == libc::EACCES);
    evidence.connection.errno == Some(libc::EACCES)
        && evidence.connection.end != (End::CallFailed { call: Call::Bind })
        && (now || evidence.timeline.iter().any(|moment| then(&moment.what)))
}

/// ICMPv6 "administratively prohibited" gives EACCES too: `unreachable.icmp-prohibited`.
fn told_by_icmp(evidence: &Evidence) -> bool {
    evidence.connection.errno == Some(libc::EACCES)
        && evidence.timeline.iter().any(|moment| matches!(moment.what, What::IcmpReceived { .. }))
}

/// The datagram itself was thrown away on its way out, and the sender got EPERM for it.
fn dropped(evidence: &Evidence, call: Call) -> Option<Finding> {
    let connection = &evidence.connection;
    let (what, reason) = evidence
        .drops()
        .filter(|(time_ns, _)| time_ns.abs_diff(connection.end_ns) <= SAME_CALL_NS)
        .filter_map(|(_, what)| match what {
            What::Dropped { outgoing: true, reason, .. } => Some((what, reason.as_str())),
            _ => None,
        })
        .filter(|(_, reason)| ["NETFILTER_DROP", "BPF_CGROUP_EGRESS"].contains(reason))
        .last()?;
    let What::Dropped { packet, symbol, hook, stack, place, rule, .. } = what else { return None };
    let prefix = in_netns(own_netns(evidence));
    let headline = format!("not permitted ({call}: EPERM)");
    let peer = host_port(connection.peer);
    if reason == "BPF_CGROUP_EGRESS" {
        return Some(
            Finding::new(
                Confidence::Certain,
                Where::new(WhereSide::Local, Stage::CgroupBpf).at(place).symbol(symbol.as_deref()),
                headline,
                format!("a BPF program of the process's cgroup drops the datagram to {peer}"),
            )
            .explain(
                "A program attached to the process's cgroup (by systemd, a container runtime or a security \
                 agent) decides what may leave, and refused this datagram. The sender is told with EPERM.",
            )
            .next("see the programs", "bpftool cgroup tree"),
        );
    }
    let in_stack = |name: &str| {
        symbol.as_deref().into_iter().chain(stack.iter().map(String::as_str)).any(|f| f.starts_with(name))
    };
    let engine = if in_stack("nft_do_chain") {
        Some("nftables")
    } else if in_stack("ipt_do_table") || in_stack("ip6t_do_table") {
        Some("iptables")
    } else {
        None
    };
    let at = hook.map(|hook| format!(" (hook {hook})")).unwrap_or_default();
    let rule = rule.as_deref();
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Netfilter).at(place).symbol(symbol.as_deref()),
        headline,
        format!("a local firewall drops the datagram to {peer}{at}"),
    )
    .explain(
        "The datagram was made and then thrown away by netfilter on its way out of this machine. A UDP \
             sender is told with EPERM, whereas a TCP connection would time out. Nothing was sent."
            .to_owned()
            + &rule.map(|rule| format!(" {}", rule::sentence(rule))).unwrap_or_default(),
    )
    .firewall(rule::fact(engine.map(str::to_owned), *hook, rule));
    Some(match rule {
        Some(rule) => rule::steps(finding, &prefix, rule, Allow::Packet(&packet.tuple)),
        None => finding
            .next(
                "look for the rule in the output and postrouting chains",
                format!("{prefix}nft list ruleset"),
            )
            .next("and where the older iptables is in use", format!("{prefix}iptables-save -c"))
            .advise(format!("let datagrams to {peer} pass, before the rule that drops them")),
    })
}

fn is_broadcast(evidence: &Evidence) -> bool {
    let IpAddr::V4(address) = evidence.connection.peer.ip().to_canonical() else { return false };
    let route = evidence.facts.route.as_ref().and_then(RouteAnswer::route);
    let by_route = route.is_some_and(|route| route.kind == RouteKind::Broadcast);
    let mut own = evidence.facts.links.iter().flatten().flat_map(|link| &link.addresses);
    let by_prefix = own.any(|(own, prefix)| match own {
        IpAddr::V4(own) if *prefix < 31 => {
            let hosts = u32::MAX.checked_shr((*prefix).into()).unwrap_or(0);
            !own.is_loopback() && Ipv4Addr::from_bits(own.to_bits() | hosts) == address
        }
        _ => false,
    });
    address.is_broadcast() || by_route || by_prefix
}

/// net/ipv4/udp.c, udp_sendmsg: a broadcast route needs SO_BROADCAST.
fn broadcast(evidence: &Evidence, call: Call) -> Finding {
    Finding::new(
        Confidence::Likely,
        Where::new(WhereSide::Local, Stage::Socket),
        format!("not permitted ({call}: EACCES)"),
        format!(
            "{} is a broadcast address, and the socket has not set SO_BROADCAST",
            evidence.connection.peer.ip()
        ),
    )
    .explain(
        "The kernel sends to a broadcast address only if the program has asked for it with the socket option \
         SO_BROADCAST, to guard against sending to a whole network by mistake.",
    )
    .advise("set SO_BROADCAST in the program, or correct the destination if no broadcast was meant")
}

/// net/ipv4/af_inet.c, __inet_bind: EACCES below the limit without CAP_NET_BIND_SERVICE.
fn privileged_port(evidence: &Evidence) -> Option<Finding> {
    let port = evidence.connection.local.port();
    let setting = evidence.facts.sysctls.get(UNPRIVILEGED).and_then(|value| value.trim().parse::<u32>().ok());
    let limit = setting.unwrap_or(1024);
    if port == 0 || u32::from(port) >= limit {
        return None;
    }
    let owner = evidence.connection.owner.as_ref();
    let root = owner.is_none_or(|owner| owner.uid == 0);
    let confidence = if root { Confidence::Possible } else { Confidence::Likely };
    let prefix = in_netns(own_netns(evidence));
    let process =
        owner.map_or_else(|| "the process".to_owned(), |o| format!("{}[{}] (uid {})", o.comm, o.pid, o.uid));
    let mut explanation = format!(
        "Ports below {limit} are reserved for processes with CAP_NET_BIND_SERVICE. Root has it, unless it \
                 was taken away or the process is root only in its own user namespace."
    );
    if confidence == Confidence::Possible {
        explanation +=
            " Since this may well be root, SELinux, AppArmor or Landlock may have refused just as well.";
    }
    let mut finding = Finding::new(
        confidence,
        Where::new(WhereSide::Local, Stage::Socket),
        format!("cannot bind {}: not permitted (EACCES)", host_port(evidence.connection.local)),
        format!(
            "port {port} is privileged (below {limit}), and {process} seems to lack CAP_NET_BIND_SERVICE"
        ),
    )
    .explain(explanation);
    if let Some(owner) = owner {
        finding = finding.next("see its capabilities", format!("grep Cap /proc/{}/status", owner.pid));
    }
    let exe = evidence.facts.process.as_ref().and_then(|process| process.exe.clone());
    finding =
        match exe {
            Some(exe) => finding
                .next("give the program the capability", format!("setcap cap_net_bind_service=+ep {exe}")),
            None => finding
                .advise("give the service AmbientCapabilities=CAP_NET_BIND_SERVICE, or use a higher port"),
        };
    Some(
        finding.next(
            "or lower the limit for this namespace",
            format!("{prefix}sysctl -w {UNPRIVILEGED}={port}"),
        ),
    )
}

fn unknown(evidence: &Evidence, call: Call, errno: i32) -> Finding {
    let (stage, cause, explanation) = match errno {
        libc::EPERM => (
            Stage::CgroupBpf,
            format!(
                "a local policy refused {call}: most often a BPF program of the process's cgroup, or seccomp"
            ),
            "The call was refused before any packet was made. EPERM comes from programs that systemd, a \
             container runtime or a security agent attach to a cgroup, or from a seccomp filter.",
        ),
        _ => (
            Stage::Socket,
            format!("a local policy refused {call}: most often SELinux, AppArmor or Landlock"),
            "The call was refused before any packet was made. EACCES comes from a security module, or from \
             a seccomp filter. The kernel's audit log names the rule.",
        ),
    };
    let target = match call {
        Call::Bind | Call::Listen => host_port(evidence.connection.local),
        _ => host_port(evidence.connection.peer),
    };
    let mut finding = Finding::new(
        Confidence::Possible,
        Where::new(WhereSide::Local, stage),
        format!("not permitted ({call} {target}: {})", errno_name(errno)),
        cause,
    )
    .explain(explanation);
    if errno == libc::EACCES && !matches!(call, Call::Bind | Call::Listen) && evidence.facts.route.is_none() {
        finding = finding.or(&["unreachable.prohibit-route"]);
    }
    let audit = ("see what was denied", "journalctl -k --since -5min | grep -iE 'denied|audit|seccomp'");
    let programs = ("see the programs on cgroups", "bpftool cgroup tree");
    let [first, second] = if errno == libc::EPERM { [programs, audit] } else { [audit, programs] };
    finding = finding.next(first.0, first.1).next(second.0, second.1);
    if let Some(owner) = &evidence.connection.owner {
        let command = format!("grep -E 'Cap|NoNewPrivs|Seccomp' /proc/{}/status", owner.pid);
        finding = finding.next("see the process's own limits", command);
    }
    finding
}
