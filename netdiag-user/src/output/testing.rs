//! Evidence and reports of known failures, for tests.

use super::Clock;
use super::report::{FirewallPart, Report};
use crate::diagnoses::{
    Confidence, Coverage, Diagnosis, Evidence, Finding, FirewallFact, Stage, Verdict, Where, WhereSide,
};
use crate::enrich::facts::Facts;
use crate::probes::{Closer, Direction, Owner, Packet, TcpState, Tuple, protocol};
use crate::track::{Connection, End, Hook, Moment, Place, What};

pub(super) const CLOCK: Clock = Clock::new(1_700_000_000_000_000_000);
pub(super) const NETNS: u32 = 4_026_531_840;
const START_NS: u64 = 1_000_000_000;

pub(super) fn owner(comm: &str, pid: u32) -> Owner {
    Owner { pid, tid: pid, uid: 1000, cgroup: 0, comm: comm.into() }
}

pub(super) fn place(netns: u32, name: Option<&str>, interface: Option<&str>) -> Place {
    Place { netns, netns_name: name.map(str::to_owned), interface: interface.map(str::to_owned) }
}

pub(super) fn own_place() -> Place {
    place(NETNS, None, Some("eth0"))
}

/// A SYN of the local end, or its answer.
pub(super) fn packet(flags: u8, outgoing: bool, direction: Direction) -> Packet {
    let tuple = Tuple {
        protocol: protocol::TCP,
        source: "10.0.1.2:40000".parse().unwrap(),
        destination: "10.0.2.2:8080".parse().unwrap(),
    };
    Packet {
        tuple: if outgoing { tuple } else { tuple.reversed() },
        flags,
        code: 0,
        ttl: 64,
        direction,
        seq: 1,
        ifindex: 2,
        iif: 0,
        interface: "eth0".into(),
        netns: NETNS,
    }
}

pub(super) fn dropped(
    outgoing: bool,
    reason: &str,
    symbol: Option<&str>,
    hook: Option<Hook>,
    place: Place,
) -> What {
    What::Dropped {
        packet: packet(if outgoing { 0x02 } else { 0x12 }, outgoing, Direction::Unknown),
        outgoing,
        reason: reason.into(),
        symbol: symbol.map(str::to_owned),
        hook,
        stack: Vec::new(),
        place,
        suppressed: 0,
        rule: None,
    }
}

pub(super) fn at(ms: u64, what: What) -> Moment {
    Moment { time_ns: START_NS + ms * 1_000_000, what }
}

/// curl that connects, and nothing else.
pub(crate) fn outbound() -> Evidence {
    let tuple = Tuple {
        protocol: protocol::TCP,
        source: "10.0.1.2:40000".parse().unwrap(),
        destination: "10.0.2.2:8080".parse().unwrap(),
    };
    Evidence {
        connection: Connection {
            cookie: Some(7),
            owner: Some(owner("curl", 4213)),
            from_start: true,
            asked: true,
            end: End::State { from: TcpState::SynSent, to: TcpState::Close },
            ..Connection::of_flow(tuple, NETNS, START_NS)
        },
        timeline: Vec::new(),
        other_end: None,
        facts: Facts::default(),
        coverage: Coverage { wire: true, ..Coverage::default() },
    }
}

pub(super) fn report(evidence: &Evidence, code: &'static str, finding: &Finding) -> Report {
    let diagnosis =
        Diagnosis { code, title: "", specificity: 0, needs: &[], page: "", check: |_| Verdict::Healthy };
    let mut report = Report::new(evidence, &diagnosis, finding, &CLOCK);
    report.head.host = "web-1".into();
    report
}

pub(super) fn ends(evidence: &mut Evidence, ms: u64, errno: Option<i32>) {
    evidence.connection.end_ns = START_NS + ms * 1_000_000;
    evidence.connection.errno = errno;
}

pub(crate) fn firewall_drop() -> Report {
    let mut evidence = outbound();
    ends(&mut evidence, 5000, None);
    evidence.connection.closer = Some(Closer { pid: 4213, comm: "curl".into(), exiting: false, uid: 0 });
    let drop = || dropped(true, "NETFILTER_DROP", Some("nft_do_chain"), Some(Hook::Output), own_place());
    let again = What::Retransmit { state: TcpState::SynSent, retransmits: Some(1) };
    evidence.timeline = vec![
        at(0, What::State { from: TcpState::Close, to: TcpState::SynSent }),
        at(0, drop()),
        at(1020, drop()),
        at(1020, again.clone()),
        at(3040, drop()),
        at(3040, again),
        at(5000, What::State { from: TcpState::SynSent, to: TcpState::Close }),
    ];
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Netfilter).at(&own_place()).symbol(Some("nft_do_chain")),
        "timed out after 5.0 s",
        "a local firewall rule drops the SYN",
    )
    .explain("A firewall rule of this machine throws the packets away.")
    .next("or put an accept before it", "nft delete rule inet filter output handle 12")
    .firewall(FirewallFact { engine: Some("nftables".into()), hook: Some(Hook::Output), rule: None });
    let mut report = report(&evidence, "timeout.firewall-drop", &finding);
    report.connection.interface = Some("eth0".into());
    report
}

pub(super) fn named_rule(report: &mut Report) {
    report.firewall = Some(FirewallPart {
        family: Some("inet".into()),
        table: Some("filter".into()),
        chain: Some("output".into()),
        handle: Some(12),
        rule: Some("ip daddr 10.0.2.2 tcp dport 8080 drop".into()),
        exact: Some(true),
        ..report.firewall.clone().unwrap_or_default()
    });
}
