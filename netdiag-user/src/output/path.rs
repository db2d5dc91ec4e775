//! The one-line picture of the path, with a cross where it broke.
//!
//! Nodes stand in the order from this host's process to the peer; a connection that came in is drawn the
//! other way round.

use super::report::{ProcessPart, Report};
use super::style::Tone;
use crate::diagnoses::{Confidence, Stage, WhereSide};
use crate::track::Hook;

/// A piece of the picture; lines may break between pieces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub tone: Tone,
    pub text: String,
}

/// Which way packets went that did not come further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToPeer,
    ToProcess,
}

struct Break {
    node: usize,
    way: Way,
    /// It is not sure that it is here.
    doubt: bool,
}

pub(super) fn picture(report: &Report) -> Vec<Piece> {
    let (mut nodes, mut broken) = route(report);
    if report.connection.is_inbound() {
        nodes.reverse();
        broken.node = nodes.len() - 1 - broken.node;
        broken.way = match broken.way {
            Way::ToPeer => Way::ToProcess,
            Way::ToProcess => Way::ToPeer,
        };
    }
    draw(&nodes, &broken)
}

/// `Way::ToPeer` is to the right here.
fn draw(nodes: &[String], broken: &Break) -> Vec<Piece> {
    let mark = if broken.doubt { "?" } else { "✗" };
    let tone = if broken.doubt { Tone::Doubt } else { Tone::Bad };
    let mut pieces = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        if index > 0 {
            let dead = match broken.way {
                Way::ToPeer => index > broken.node,
                Way::ToProcess => index <= broken.node,
            };
            pieces.push(Piece { tone: Tone::Faint, text: if dead { "┄┄" } else { "──" }.into() });
        }
        if index != broken.node {
            pieces.push(Piece { tone: Tone::Plain, text: node.clone() });
            continue;
        }
        let text = match broken.way {
            Way::ToPeer => format!("{node} {mark}"),
            Way::ToProcess => format!("{mark} {node}"),
        };
        pieces.push(Piece { tone, text });
    }
    pieces
}

/// Nodes that may be on a path, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Process,
    Socket,
    /// Between socket and route.
    Cgroup,
    Route,
    /// Netfilter, tc or qdisc of this end.
    Filter,
    Interface,
    Neighbour,
    /// Filters, routes and interfaces of another namespace of this machine.
    Between,
    Network,
    Peer,
}

fn route(report: &Report) -> (Vec<String>, Break) {
    let spot = spot(report);
    let way = way(report, spot);
    let doubt = report.place.side == WhereSide::Unknown || report.confidence == Confidence::Possible;
    if !report.connection.has_peer() {
        let node = usize::from(spot != Spot::Process);
        return (vec![process(report), "socket".into()], Break { node, way: Way::ToPeer, doubt });
    }
    let on_this_machine = spot == Spot::Between
        || (spot == Spot::Peer && report.place.side == WhereSide::Local)
        || elsewhere(report)
        || report.connection.reached_peer().address.is_loopback();
    let spots = [
        Spot::Process,
        Spot::Socket,
        Spot::Cgroup,
        Spot::Route,
        Spot::Filter,
        Spot::Interface,
        Spot::Neighbour,
        Spot::Between,
        Spot::Network,
        Spot::Peer,
    ];
    let shown: Vec<Spot> = spots
        .into_iter()
        .filter(|candidate| match candidate {
            Spot::Cgroup | Spot::Filter | Spot::Neighbour | Spot::Between => *candidate == spot,
            Spot::Route => !report.connection.is_inbound() || spot == Spot::Route,
            Spot::Network => *candidate == spot || !on_this_machine,
            Spot::Interface => *candidate == spot || interface(report).is_some(),
            Spot::Process | Spot::Socket | Spot::Peer => true,
        })
        .collect();
    let node = shown.iter().position(|candidate| *candidate == spot).unwrap_or(0);
    let names = shown.into_iter().map(|shown| name(report, shown, spot)).collect();
    (names, Break { node, way, doubt })
}

/// Where it broke.
fn spot(report: &Report) -> Spot {
    let place = &report.place;
    match (place.side, place.stage) {
        (WhereSide::Path, _) => Spot::Network,
        (WhereSide::Peer, _) => Spot::Peer,
        (WhereSide::Unknown, Stage::Remote | Stage::Tcp) => Spot::Network,
        (_, Stage::Remote) => Spot::Peer,
        (_, Stage::Socket | Stage::Tcp | Stage::Application) if is_the_peers_socket(report) => Spot::Peer,
        (_, Stage::Application) => Spot::Process,
        (_, Stage::Socket | Stage::Tcp) => Spot::Socket,
        _ if elsewhere(report) || (came_in(report) && !leaves(report)) => Spot::Between,
        (_, Stage::CgroupBpf) => Spot::Cgroup,
        (_, Stage::Route) => Spot::Route,
        (_, Stage::Neighbour) => Spot::Neighbour,
        (_, Stage::Netfilter | Stage::Tc | Stage::Xdp | Stage::Qdisc) => Spot::Filter,
        (_, Stage::Device) => Spot::Interface,
    }
}

/// In another network namespace of this machine.
fn elsewhere(report: &Report) -> bool {
    report.place.netns.is_some_and(|netns| netns != report.connection.netns)
}

/// Whether the socket in question is the peer's although it is on this machine.
fn is_the_peers_socket(report: &Report) -> bool {
    let about_a_listener = report.symptom == "refused" || report.listener.is_some();
    elsewhere(report) || (about_a_listener && !report.connection.is_inbound())
}

/// Whether a packet of this end came in again on this machine: the peer is in the same namespace.
fn came_in(report: &Report) -> bool {
    let again = |event: &super::Event| {
        event.detail_str("sender") == Some("local") && event.detail_str("direction") == Some("ingress")
    };
    !report.connection.is_inbound() && report.evidence.iter().any(again)
}

/// Whether the firewall's hook is one of packets that leave.
fn leaves(report: &Report) -> bool {
    matches!(hook(report), Some(Hook::Output | Hook::Postrouting | Hook::Egress))
}

/// Packets of this end stop on their way to the peer, unless it is an answer that did not come in. Of a
/// connection that came in, it is the peer's packets that count.
fn way(report: &Report, spot: Spot) -> Way {
    let dropped: Vec<&str> = report
        .evidence
        .iter()
        .filter(|event| event.event.ends_with("-dropped"))
        .filter_map(|event| event.detail_str("sender"))
        .collect();
    let inbound = report.connection.is_inbound();
    let passes = matches!(
        spot,
        Spot::Cgroup | Spot::Route | Spot::Filter | Spot::Interface | Spot::Neighbour | Spot::Between
    );
    let incoming = match (dropped.contains(&"local"), dropped.contains(&"peer")) {
        (false, true) if passes || spot == Spot::Socket => true,
        (true, false) if passes => false,
        _ if spot == Spot::Filter && report.place.stage == Stage::Netfilter => {
            matches!(hook(report), Some(Hook::Input | Hook::Prerouting | Hook::Ingress))
        }
        _ if matches!(spot, Spot::Route | Spot::Neighbour) => false,
        _ => inbound,
    };
    if incoming { Way::ToProcess } else { Way::ToPeer }
}

fn hook(report: &Report) -> Option<Hook> {
    report.firewall.as_ref().and_then(|firewall| firewall.hook)
}

fn process(report: &Report) -> String {
    report.process.as_ref().map_or_else(|| ProcessPart::label(None), |process| process.comm.clone())
}

fn name(report: &Report, shown: Spot, spot: Spot) -> String {
    let connection = &report.connection;
    let here = shown == spot;
    match shown {
        Spot::Process => process(report),
        Spot::Socket if here && report.place.stage == Stage::Tcp => "tcp".into(),
        Spot::Socket => "socket".into(),
        Spot::Cgroup => "cgroup bpf".into(),
        Spot::Route => "route".into(),
        Spot::Filter => filter(report),
        Spot::Interface => interface(report).unwrap_or("interface").to_owned(),
        Spot::Neighbour => neighbour(report),
        Spot::Between => format!("{}{}", filter(report), namespace(report)),
        Spot::Network => match router(report) {
            Some(router) if here => format!("router {router}"),
            _ => "network".into(),
        },
        Spot::Peer => {
            let namespace = if here && elsewhere(report) { namespace(report) } else { String::new() };
            format!("{}{namespace}", connection.end_text(connection.reached_peer()))
        }
    }
}

/// Where packets leave this end.
fn interface(report: &Report) -> Option<&str> {
    let place = report.place.interface.as_deref().filter(|_| !elsewhere(report));
    let loopback = report.connection.reached_peer().address.is_loopback().then_some("lo");
    report.connection.interface.as_deref().or(place).or(loopback)
}

fn neighbour(report: &Report) -> String {
    match address_of(report, "neighbour-failed", "address") {
        Some(address) => format!("neighbour {address}"),
        None => "neighbour".into(),
    }
}

/// " (netns web)"
fn namespace(report: &Report) -> String {
    match (&report.place.netns_name, report.place.netns) {
        _ if !elsewhere(report) => String::new(),
        (Some(name), _) => format!(" (netns {name})"),
        (None, Some(inode)) => format!(" (netns {inode})"),
        (None, None) => String::new(),
    }
}

fn filter(report: &Report) -> String {
    let at = report.place.interface.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    match report.place.stage {
        Stage::Netfilter => {
            let engine = match report.firewall.as_ref().and_then(|firewall| firewall.engine.as_deref()) {
                Some("nftables") => "nft",
                Some(other) => other,
                None => "netfilter",
            };
            hook(report).map_or_else(|| engine.to_owned(), |hook| format!("{engine} {hook}"))
        }
        Stage::Neighbour => neighbour(report),
        Stage::Route => "route".into(),
        Stage::Device => report.place.interface.clone().unwrap_or_else(|| "interface".into()),
        stage => format!("{}{at}", stage.as_str()),
    }
}

/// Who said by ICMP that it goes no further, if that is not the peer.
fn router(report: &Report) -> Option<&str> {
    let peer = report.connection.reached_peer().address.to_string();
    address_of(report, "icmp-received", "source").filter(|source| *source != peer)
}

fn address_of<'a>(report: &'a Report, event: &str, field: &str) -> Option<&'a str> {
    report.evidence.iter().filter(|e| e.event == event).find_map(|e| e.detail_str(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    fn text(report: &Report) -> String {
        picture(report).into_iter().map(|piece| piece.text).collect::<Vec<_>>().join(" ")
    }

    fn at(stage: Stage, side: WhereSide) -> Report {
        let mut report = testing::firewall_drop();
        report.symptom = "other".into();
        report.evidence.clear();
        report.place.stage = stage;
        report.place.side = side;
        report
    }

    #[test]
    fn the_cross_is_where_it_broke() {
        let local = |stage| text(&at(stage, WhereSide::Local));
        assert_eq!(
            local(Stage::Application),
            "curl ✗ ┄┄ socket ┄┄ route ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080"
        );
        assert_eq!(local(Stage::Tcp), "curl ── tcp ✗ ┄┄ route ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080");
        assert_eq!(
            local(Stage::CgroupBpf),
            "curl ── socket ── cgroup bpf ✗ ┄┄ route ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080"
        );
        assert_eq!(
            local(Stage::Qdisc),
            "curl ── socket ── route ── qdisc eth0 ✗ ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080"
        );
        assert_eq!(local(Stage::Device), "curl ── socket ── route ── eth0 ✗ ┄┄ network ┄┄ 10.0.2.2:8080");
        assert_eq!(
            local(Stage::Neighbour),
            "curl ── socket ── route ── eth0 ── neighbour ✗ ┄┄ network ┄┄ 10.0.2.2:8080"
        );
    }

    #[test]
    fn it_may_not_be_known() {
        let unknown = at(Stage::Remote, WhereSide::Unknown);
        assert_eq!(text(&unknown), "curl ── socket ── route ── eth0 ── network ? ┄┄ 10.0.2.2:8080");
    }

    #[test]
    fn another_namespace_is_on_the_way() {
        let mut report = testing::firewall_drop();
        report.place.netns = Some(4_026_532_100);
        report.place.netns_name = Some("router".into());
        report.firewall.as_mut().unwrap().hook = Some(Hook::Forward);
        assert_eq!(
            text(&report),
            "curl ── socket ── route ── eth0 ── nft forward (netns router) ✗ ┄┄ 10.0.2.2:8080"
        );
    }

    #[test]
    fn a_peer_on_this_host_needs_no_network() {
        let mut report = at(Stage::Socket, WhereSide::Local);
        report.symptom = "refused".into();
        report.connection.interface = None;
        report.connection.peer.address = "127.0.0.1".parse().unwrap();
        report.place.interface = None;
        assert_eq!(text(&report), "curl ── socket ── route ── lo ── 127.0.0.1:8080 ✗");
        report.symptom = "local".into();
        assert_eq!(text(&report), "curl ── socket ✗ ┄┄ route ┄┄ lo ┄┄ 127.0.0.1:8080");
    }

    #[test]
    fn a_reject_on_the_way_out_is_not_the_peers() {
        let mut report = testing::firewall_drop();
        report.symptom = "refused".into();
        assert_eq!(
            text(&report),
            "curl ── socket ── route ── nft output ✗ ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080"
        );
    }

    #[test]
    fn answers_stop_on_the_way_back() {
        let mut report = testing::firewall_drop();
        for event in report.evidence.iter_mut().filter(|event| event.event == "syn-dropped") {
            event.detail.insert("sender".into(), "peer".into());
        }
        report.place.stage = Stage::Route;
        assert_eq!(text(&report), "curl ┄┄ socket ┄┄ ✗ route ── eth0 ── network ── 10.0.2.2:8080");
        report.place.stage = Stage::Tcp;
        assert_eq!(text(&report), "curl ┄┄ ✗ tcp ── route ── eth0 ── network ── 10.0.2.2:8080");
    }

    #[test]
    fn inbound_is_drawn_from_the_peer() {
        let mut report = at(Stage::Application, WhereSide::Local);
        report.connection.direction = "inbound".into();
        assert_eq!(text(&report), "10.0.2.2:8080 ── network ── eth0 ── socket ── curl ✗");
        report.place.side = WhereSide::Peer;
        assert_eq!(text(&report), "10.0.2.2:8080 ✗ ┄┄ network ┄┄ eth0 ┄┄ socket ┄┄ curl");
        report.place.side = WhereSide::Local;
        report.place.stage = Stage::Netfilter;
        report.firewall.as_mut().unwrap().hook = Some(Hook::Input);
        assert_eq!(text(&report), "10.0.2.2:8080 ── network ── eth0 ── nft input ✗ ┄┄ socket ┄┄ curl");
    }
}
