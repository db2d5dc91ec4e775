//! More evidence for the tests of this symptom: failed calls, routes, interfaces.

use crate::diagnoses::testing::{Case, START_NS, address};
use crate::diagnoses::{Confidence, Finding};
use crate::enrich::links::Link;
use crate::enrich::routes::{Route, RouteAnswer, RouteKind};
use crate::probes::{Call, TcpState};
use crate::track::{End, Place, What};

pub const ROUTER: u32 = 4_026_532_001;

/// connect() failed at once.
pub fn call(errno: i32) -> Case {
    Case::connecting().errno(errno).with(|e| {
        e.connection.end = End::CallFailed { call: Call::Connect };
        e.connection.end_ns = START_NS;
    })
}

/// Ended in SYN_SENT with this error after 3.1 s.
pub fn connecting(errno: i32) -> Case {
    Case::connecting().errno(errno).lasted(3100)
}

pub fn established(errno: i32) -> Case {
    Case::ending(TcpState::Established, TcpState::Close).errno(errno).lasted(60_000)
}

/// Closed by the application while unsent data waited for the fourth probe.
pub fn stuck() -> Case {
    Case::ending(TcpState::Established, TcpState::FinWait1)
        .lasted(6000)
        .tcp(|tcp| (tcp.unacked, tcp.probes_out, tcp.retransmits) = (Some(1), Some(4), Some(0)))
}

impl Case {
    pub fn ends(self, local: &str, peer: &str) -> Self {
        self.with(|e| (e.connection.local, e.connection.peer) = (address(local), address(peer)))
    }

    pub fn answer(self, route: RouteAnswer) -> Self {
        self.with(|e| e.facts.route = Some(route))
    }

    pub fn default_route(self, has: bool) -> Self {
        self.with(|e| e.facts.has_default_route = Some(has))
    }

    pub fn link(self, link: Link) -> Self {
        self.with(|e| e.facts.links.get_or_insert_default().push(link))
    }

    pub fn route_failed(self, errno: i32, forwarded: bool) -> Self {
        let tuple = self.packet(0, true).tuple;
        self.at(0, What::RouteFailed { tuple, table: 254, errno, forwarded, place: Default::default() })
    }
}

/// eth1 of namespace `router`.
pub fn in_router() -> Place {
    Place { netns: ROUTER, netns_name: Some("router".into()), interface: Some("eth1".into()) }
}

/// A working route through interface 2.
pub fn via(gateway: Option<&str>) -> RouteAnswer {
    RouteAnswer::Route(route(RouteKind::Unicast, gateway))
}

pub fn failed(errno: i32, kind: Option<RouteKind>) -> RouteAnswer {
    let route = kind.map(|kind| route(kind, None));
    RouteAnswer::Failed { errno, foreign_source: false, route, rule: None }
}

pub fn foreign_source(errno: i32) -> RouteAnswer {
    RouteAnswer::Failed { errno, foreign_source: true, route: None, rule: None }
}

pub fn route(kind: RouteKind, gateway: Option<&str>) -> Route {
    Route {
        kind,
        table: 254,
        destination: ([10, 0, 0, 0].into(), 8),
        source: None,
        oif: (kind == RouteKind::Unicast).then_some(2),
        gateway: gateway.map(|g| g.parse().unwrap()),
        prefsrc: None,
        mtu: None,
        metric: None,
        protocol: 4,
        scope: 0,
        cached: false,
        nexthops: Vec::new(),
    }
}

/// eth0, interface 2.
pub fn eth0(up: bool, carrier: Option<bool>, addresses: &[(&str, u8)]) -> Link {
    Link {
        ifindex: 2,
        name: "eth0".into(),
        up,
        carrier,
        operstate: None,
        kind: None,
        mtu: 1500,
        master: None,
        addresses: addresses.iter().map(|(a, p)| (a.parse().unwrap(), *p)).collect(),
    }
}

/// lo, interface 1.
pub fn lo(up: bool, addresses: &[(&str, u8)]) -> Link {
    Link { ifindex: 1, name: "lo".into(), ..eth0(up, Some(true), addresses) }
}

/// The finding of a code, complete and this sure.
#[track_caller]
pub fn hit(case: Case, code: &str, confidence: Confidence) -> Finding {
    let finding = case.found(code);
    assert_eq!(finding.confidence, confidence, "{finding:#?}");
    assert!(!finding.explanation.is_empty() && !finding.next_steps.is_empty(), "{finding:#?}");
    finding
}

#[track_caller]
pub fn miss(case: Case, code: &str) {
    assert_eq!(case.asked(code), crate::diagnoses::Verdict::Healthy, "{code}");
}
