//! What to look at next, by cause, where no rule is to blame.

use super::super::Finding;
use crate::drops::Dropped;

/// `ns` makes a command run in its namespace.
pub(super) fn steps(finding: Finding, code: &str, ns: &str, drop: &Dropped) -> Finding {
    let tuple = drop.packet.tuple;
    let (from, to) = (tuple.source, tuple.destination);
    let flag = if to.is_ipv4() { "-4" } else { "-6" };
    let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
    let interface = match drop.packet.interface.as_str() {
        "" => "all",
        name => name,
    };
    match code {
        "drop.firewall" => finding
            .next("see the rules and their counters", format!("{ns}nft -a list ruleset"))
            .next("older rules, and the size of the connection table", format!("{ns}iptables-legacy -nvL"))
            .next("is the connection table full?", format!("{ns}sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max")),
        "drop.reverse-path-filter" => finding
            .next("which way would an answer take?", format!("{ns}ip route get {}", from.ip()))
            .next(
                "see the filter's setting; 2 accepts any way back",
                format!("{ns}sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.{interface}.rp_filter"),
            ),
        "drop.no-socket" => finding.next(
            "see what listens here",
            format!("{ns}ss {flag} -lntup 'sport = :{}'", to.port()),
        ),
        "drop.martian" => finding
            .next("see where they come from", format!("{ns}tcpdump -eni {interface} src host {}", from.ip()))
            .next("have the kernel log them", format!("{ns}sysctl net.ipv4.conf.{interface}.log_martians=1")),
        "drop.forwarding-disabled" => finding
            .next("is it meant to be a router?", format!("{ns}sysctl net.{family}.conf.{interface}.forwarding"))
            .advise("if it is not, find out who takes it for one: the sender's route points here"),
        "drop.no-route" => finding
            .next("ask for the route", format!("{ns}ip route get {} from {} iif {interface}", to.ip(), from.ip()))
            .next("see all routes", format!("{ns}ip {flag} route")),
        "drop.too-big" => finding
            .next("see which link is the narrow one", format!("{ns}ip route get {}", to.ip()))
            .advise("let ICMP (fragmentation needed, packet too big) through to the sender, or lower its MTU or MSS"),
        "drop.checksum" => finding
            .next("see the counters of errors", format!("{ns}nstat -az '*Csum*' '*InErrors*'"))
            .next("which checksums are left to the hardware?", format!("{ns}ethtool -k {interface}")),
        "drop.receive-buffer" => finding
            .next("see the receive queues", format!("{ns}ss {flag} -numtap 'sport = :{}'", to.port()))
            .next("see how large a buffer may be", "sysctl net.core.rmem_max net.core.rmem_default"),
        "drop.bpf" => finding
            .next("see the programs", format!("{ns}bpftool net show"))
            .next("see the tc filters", format!("{ns}tc filter show dev {interface} ingress"))
            .next("see those of control groups", "bpftool cgroup tree"),
        "drop.qdisc" => finding
            .next("see the queues and their drops", format!("{ns}tc -s qdisc show"))
            .next("see the processors' input queues", "cat /proc/net/softnet_stat"),
        _ => finding
            .next("see the kernel's counters", format!("{ns}nstat -az"))
            .next("see the interface's", format!("{ns}ip -s -s link show")),
    }
}
