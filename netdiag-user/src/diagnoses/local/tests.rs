use std::net::IpAddr;

use super::super::testing::{Case, Drop, SYN, address};
use super::super::{Confidence, Finding, Stage, Verdict};
use crate::enrich::facts::Holder;
use crate::enrich::links::Link;
use crate::enrich::process::Process;
use crate::enrich::routes::RouteAnswer;
use crate::probes::{Call, TcpState, protocol};
use crate::track::{End, Hook, What};

fn failed(call: Call, errno: i32) -> Case {
    Case::connecting().errno(errno).lasted(0).at(0, What::CallFailed { call, errno }).with(move |e| {
        e.connection.end = End::CallFailed { call };
        e.facts.links = Some(vec![link("lo", &["127.0.0.1", "::1"]), link("eth0", &["10.0.1.2", "fe80::1"])]);
        if matches!(call, Call::Bind | Call::Listen) {
            e.connection.peer = address("0.0.0.0:0");
            e.connection.local = address("10.0.1.2:8080");
        } else {
            e.connection.local = address("10.0.1.2:0");
        }
    })
}

fn link(name: &str, addresses: &[&str]) -> Link {
    let prefix = |a: &IpAddr| if a.is_ipv6() { 64 } else { 24 };
    let addresses = addresses.iter().map(|a| a.parse::<IpAddr>().unwrap()).map(|a| (a, prefix(&a))).collect();
    Link {
        ifindex: 1,
        name: name.into(),
        up: true,
        carrier: None,
        operstate: None,
        kind: None,
        mtu: 1500,
        master: None,
        addresses,
    }
}

fn holder(process: Option<u32>, state: &str, local: &str, count: u32) -> Holder {
    let process = process.map(|pid| Process { pid, comm: "nginx".into(), ..Process::default() });
    Holder { process, state: state.into(), local: address(local), count }
}

trait Facts: Sized {
    fn holders(self, holders: Vec<Holder>) -> Self;
    fn sysctl(self, key: &str, value: &str) -> Self;
    fn local(self, local: &str) -> Self;
}

impl Facts for Case {
    fn holders(self, holders: Vec<Holder>) -> Self {
        self.with(|e| e.facts.holders = Some(holders))
    }

    fn sysctl(self, key: &str, value: &str) -> Self {
        self.with(|e| {
            e.facts.sysctls.insert(key.into(), value.into());
        })
    }

    fn local(self, local: &str) -> Self {
        self.with(|e| e.connection.local = address(local))
    }
}

fn best(case: Case) -> (&'static str, Confidence, Finding) {
    let (code, finding) = case.diagnosed();
    (code, finding.confidence, finding)
}

fn no_port() -> Case {
    failed(Call::Connect, libc::EADDRNOTAVAIL).sysctl("net.ipv4.ip_local_port_range", "40000\t40099")
}

#[test]
fn all_ports_are_held() {
    let held =
        vec![holder(None, "time-wait", "10.0.1.2:0", 90), holder(Some(7), "established", "10.0.1.2:0", 10)];
    let (code, confidence, finding) = best(no_port().holders(held.clone()));
    assert_eq!((code, confidence), ("local.ports-exhausted", Confidence::Certain));
    assert_eq!(
        finding.cause,
        "all 100 local ports for 10.0.2.2:8080 are taken: 90 in TIME_WAIT, 10 of nginx[7]"
    );
    let ended = no_port().holders(held).with(|e| {
        e.connection.end = End::State { from: TcpState::SynSent, to: TcpState::Close };
        e.connection.errno = None;
    });
    assert_eq!(ended.diagnosed().0, "local.ports-exhausted", "as the state change tells it");
}

#[test]
fn makers_of_time_wait_that_were_seen() {
    let holders = vec![
        holder(Some(7), "TIME_WAIT", "10.0.1.2:0", 8),
        holder(None, "TIME_WAIT", "10.0.1.2:0", 1),
        holder(Some(9), "LISTEN", "0.0.0.0:40001", 1),
    ];
    let range = no_port().holders(holders).sysctl("net.ipv4.ip_local_port_range", "40000\t40009");
    let (code, confidence, finding) = best(range);
    assert_eq!((code, confidence), ("local.ports-exhausted", Confidence::Certain));
    assert!(finding.cause.contains("8 in TIME_WAIT made by nginx[7]"), "{}", finding.cause);
    let text = &finding.explanation;
    assert!(text.contains("It was seen who made them: 8 of nginx[7]. Of 1 it is not known"), "{text}");
    assert!(!text.contains("likely"), "{text}");
}

#[test]
fn reserved_ports_do_not_count() {
    let case = no_port().sysctl("net.ipv4.ip_local_reserved_ports", "80,40050-40200");
    let (_, confidence, finding) = best(case.holders(vec![holder(Some(7), "established", "10.0.1.2:0", 50)]));
    assert_eq!(confidence, Confidence::Certain);
    assert!(finding.cause.starts_with("all 50 local ports"), "{}", finding.cause);
}

#[test]
fn ports_that_were_gone_when_asked() {
    let few = vec![holder(None, "TIME_WAIT", "10.0.1.2:0", 3)];
    assert_eq!(no_port().holders(few).found("local.ports-exhausted").confidence, Confidence::Likely);
    assert_eq!(no_port().found("local.ports-exhausted").confidence, Confidence::Likely);
}

#[test]
fn ipv6_without_a_source_is_another_code() {
    let v6 = || {
        no_port().with(|e| {
            e.connection.local = address("[::]:0");
            e.connection.peer = address("[2001:db8::1]:80");
        })
    };
    v6().healthy("local");
    let global = v6().with(|e| e.facts.links = Some(vec![link("eth0", &["2001:db8::2"])]));
    assert_eq!(global.found("local.ports-exhausted").confidence, Confidence::Possible);
}

#[test]
fn bind_to_any_port_when_none_is_left() {
    let (code, ..) = best(failed(Call::Bind, libc::EADDRINUSE).local("0.0.0.0:0"));
    assert_eq!(code, "local.ports-exhausted");
}

#[test]
fn the_address_is_in_use() {
    let held =
        vec![holder(None, "TIME_WAIT", "10.0.1.2:8080", 2), holder(Some(77), "LISTEN", "0.0.0.0:8080", 1)];
    let (code, confidence, finding) = best(failed(Call::Bind, libc::EADDRINUSE).holders(held));
    assert_eq!((code, confidence), ("local.address-in-use", Confidence::Certain));
    assert_eq!(finding.cause, "nginx[77] holds 0.0.0.0:8080 (LISTEN)");
    assert!(finding.next_steps.iter().any(|step| step.command.as_deref() == Some("ps -fp 77")));
}

#[test]
fn another_socket_listens_there() {
    let held = vec![holder(Some(77), "LISTEN", "10.0.1.2:8080", 1)];
    let (code, confidence, finding) = best(failed(Call::Listen, libc::EADDRINUSE).holders(held));
    assert_eq!((code, confidence), ("local.address-in-use", Confidence::Certain));
    assert!(finding.headline.starts_with("cannot listen on 10.0.1.2:8080"), "{}", finding.headline);
    let (code, confidence, _) = best(failed(Call::Listen, libc::EADDRINUSE));
    assert_eq!((code, confidence), ("local.address-in-use", Confidence::Likely));
}

#[test]
fn only_time_wait_holds_the_address() {
    let held = vec![holder(None, "time-wait", "10.0.1.2:8080", 2)];
    let (_, confidence, finding) = best(failed(Call::Bind, libc::EADDRINUSE).holders(held));
    assert_eq!(confidence, Confidence::Certain);
    assert!(finding.next_steps.iter().any(|step| step.text.contains("SO_REUSEADDR")), "{finding:#?}");
}

#[test]
fn a_holder_that_does_not_conflict_is_not_blamed() {
    let other = vec![holder(Some(77), "LISTEN", "127.0.0.1:8080", 1)];
    let (code, confidence, finding) = best(failed(Call::Bind, libc::EADDRINUSE).holders(other));
    assert_eq!((code, confidence), ("local.address-in-use", Confidence::Likely));
    assert!(!finding.cause.contains("nginx"));
}

#[test]
fn a_fixed_source_port_is_in_use() {
    let held = vec![holder(None, "TIME_WAIT", "10.0.1.2:5000", 1)];
    let case = failed(Call::Connect, libc::EADDRNOTAVAIL).local("10.0.1.2:5000").holders(held);
    let (code, confidence, _) = best(case);
    assert_eq!((code, confidence), ("local.address-in-use", Confidence::Certain));
}

#[test]
fn the_address_is_not_local() {
    let bind = |local: &str| failed(Call::Bind, libc::EADDRNOTAVAIL).local(local);
    let (code, confidence, finding) = best(bind("10.9.9.9:80").sysctl("net.ipv4.ip_nonlocal_bind", "0"));
    assert_eq!((code, confidence), ("local.address-not-local", Confidence::Certain));
    assert!(finding.explanation.contains("ip_nonlocal_bind is 0"), "{}", finding.explanation);
    assert_eq!(best(bind("10.0.1.2:80")).1, Confidence::Likely);
    assert_eq!(best(bind("127.0.0.2:80")).1, Confidence::Likely, "loopback has the whole prefix");
    let tentative = best(bind("[fe80::1]:80")).2;
    assert!(tentative.cause.contains("tentative"), "{}", tentative.cause);
    assert_eq!(failed(Call::Connect, libc::EADDRNOTAVAIL).asked("local.address-not-local"), Verdict::Healthy);
}

#[test]
fn a_privileged_port() {
    let bind = || failed(Call::Bind, libc::EACCES).local("0.0.0.0:80");
    let (code, confidence, finding) = best(bind());
    assert_eq!((code, confidence), ("local.not-permitted", Confidence::Likely));
    assert!(finding.cause.contains("privileged (below 1024)"), "{}", finding.cause);
    let root = bind().with(|e| e.connection.owner.as_mut().unwrap().uid = 0);
    assert_eq!(best(root).1, Confidence::Possible);
    let lowered = best(bind().sysctl("net.ipv4.ip_unprivileged_port_start", "80")).2;
    assert!(!lowered.cause.contains("privileged"), "{}", lowered.cause);
}

fn datagram(errno: i32) -> Case {
    failed(Call::Sendto, errno).with(|e| e.connection.protocol = protocol::UDP)
}

#[test]
fn a_firewall_drops_the_datagram() {
    let drop = || Drop::syn("NETFILTER_DROP", "nft_do_chain").flags(0).hook(Hook::Output);
    let (code, confidence, finding) = best(datagram(libc::EPERM).dropped(0, drop()));
    assert_eq!((code, confidence), ("local.not-permitted", Confidence::Certain));
    assert_eq!(finding.place.stage, Stage::Netfilter);
    assert_eq!(finding.firewall.and_then(|firewall| firewall.engine).as_deref(), Some("nftables"));
    let earlier = datagram(libc::EPERM).lasted(3000).dropped(0, drop());
    assert_eq!(earlier.found("local.not-permitted").confidence, Confidence::Possible);
}

#[test]
fn a_cgroup_program_drops_the_datagram() {
    let drop = Drop::syn("BPF_CGROUP_EGRESS", "ip_finish_output").flags(0);
    let (_, confidence, finding) = best(datagram(libc::EPERM).dropped(0, drop));
    assert_eq!((confidence, finding.place.stage), (Confidence::Certain, Stage::CgroupBpf));
}

#[test]
fn broadcast_needs_permission() {
    for peer in ["255.255.255.255:67", "10.0.1.255:67"] {
        let (_, confidence, finding) =
            best(datagram(libc::EACCES).with(|e| e.connection.peer = address(peer)));
        assert_eq!(confidence, Confidence::Likely);
        assert!(finding.cause.contains("SO_BROADCAST"), "{}", finding.cause);
    }
}

#[test]
fn a_policy_refuses_connect() {
    let (code, confidence, _) = best(failed(Call::Connect, libc::EPERM));
    assert_eq!((code, confidence), ("local.not-permitted", Confidence::Possible));
}

#[test]
fn a_prohibit_route_is_another_code() {
    let prohibited =
        RouteAnswer::Failed { errno: libc::EACCES, foreign_source: false, route: None, rule: None };
    failed(Call::Connect, libc::EACCES).with(|e| e.facts.route = Some(prohibited)).healthy("local");
    let case = failed(Call::Connect, libc::EACCES);
    let tuple = case.packet(SYN, true).tuple;
    case.at(
        0,
        What::RouteFailed {
            tuple,
            table: 254,
            errno: -libc::EACCES,
            forwarded: false,
            place: Default::default(),
        },
    )
    .healthy("local");
}

#[test]
fn other_ends_are_healthy() {
    Case::connecting().healthy("local");
    Case::connecting().errno(libc::ECONNREFUSED).healthy("local");
    Case::ending(TcpState::FinWait2, TcpState::Close).healthy("local");
    failed(Call::Connect, libc::ENETUNREACH).healthy("local");
    let late = Case::ending(TcpState::LastAck, TcpState::Close);
    late.at(0, What::CallFailed { call: Call::Connect, errno: libc::EADDRNOTAVAIL }).healthy("local");
}
