//! The event that each step of a timeline is.

use serde_json::{Value, json};

use super::Event;
use crate::diagnoses::words::errno_name;
use crate::output::icmp;
use crate::probes::{Direction, Packet, TcpState, protocol};
use crate::track::{Connection, Place, What};

pub(super) fn event(what: &What, connection: &Connection) -> Event {
    match what {
        What::State { from, to } => {
            Event::new("state", state_text(*from, *to), json!({ "from": from, "to": to }))
        }
        What::Retransmit { state, retransmits } => {
            let (name, text) = match state {
                TcpState::SynSent => ("syn-retransmit", "SYN retransmitted"),
                TcpState::SynRecv | TcpState::NewSynRecv => ("syn-ack-retransmit", "SYN-ACK retransmitted"),
                _ => ("retransmit", "segment retransmitted"),
            };
            Event::new(name, text, json!({ "state": state, "retransmits": retransmits }))
        }
        What::ListenOverflow { accept_queue, backlog, place } => Event::new(
            "listen-overflow",
            format!("SYN dropped: the accept queue is full{}", elsewhere(place, connection)),
            json!({
                "accept_queue": accept_queue,
                "backlog": backlog,
                "netns": place.netns,
                "netns_name": place.netns_name,
            }),
        ),
        What::SynAckRetransmitted { place } => Event::new(
            "syn-ack-retransmit",
            format!("SYN-ACK retransmitted{}", elsewhere(place, connection)),
            json!({ "netns": place.netns, "netns_name": place.netns_name }),
        ),
        What::Error { errno, soft } => error(*errno, *soft),
        What::ResetReceived => Event::new("reset-received", "RST received", Value::Null),
        What::ResetSent { reason } => {
            let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            Event::new("reset-sent", format!("RST sent{why}"), json!({ "reason": reason }))
        }
        What::Dropped { packet, outgoing, reason, symbol, hook, stack, place, suppressed, rule } => {
            let mut why = vec![reason.clone()];
            why.extend(match (hook, symbol) {
                (Some(hook), _) => Some(format!("hook {hook}")),
                (None, symbol) => symbol.as_ref().map(|symbol| format!("in {symbol}")),
            });
            let more =
                if *suppressed > 0 { format!(", and {suppressed} more like it") } else { String::new() };
            let text = format!(
                "{} dropped{} ({}){more}",
                whose(packet, *outgoing),
                elsewhere(place, connection),
                why.join(", ")
            );
            let detail = json!({
                "reason": reason,
                "symbol": symbol,
                "hook": hook,
                "stack": (!stack.is_empty()).then_some(stack),
                "rule": rule.as_ref().map(|rule| rule.label()),
                "suppressed": (*suppressed > 0).then_some(suppressed),
            });
            packet_event("dropped", text, detail, packet, *outgoing, place)
        }
        What::Wire { packet, outgoing, place } => {
            let how = match packet.direction {
                Direction::Egress => "left through",
                Direction::Ingress => "came in on",
                Direction::Unknown => "passed",
            };
            let interface = interface(packet, place).unwrap_or("an interface");
            let text =
                format!("{} {how} {interface}{}", whose(packet, *outgoing), elsewhere(place, connection));
            packet_event("on-wire", text, Value::Null, packet, *outgoing, place)
        }
        What::IcmpReceived { packet, place } => {
            let v6 = packet.tuple.protocol == protocol::ICMPV6;
            let name = icmp::error_name(v6, packet.flags, packet.code);
            let source = packet.tuple.source.ip();
            let label = if v6 { "ICMPv6" } else { "ICMP" };
            let text = format!("{label} {name} from {source}{}", elsewhere(place, connection));
            let detail = json!({
                "source": source,
                "type": packet.flags,
                "code": packet.code,
                "meaning": name,
                "ttl": packet.ttl,
            });
            with_place(Event::new("icmp-received", text, detail), place, interface(packet, place))
        }
        What::IcmpSent { icmp_type, icmp_code, outgoing, place } => {
            let v6 = connection.peer.is_ipv6();
            let name = icmp::error_name(v6, *icmp_type, *icmp_code);
            let label = if v6 { "ICMPv6" } else { "ICMP" };
            let text = format!("this machine sent {label} {name}{}", elsewhere(place, connection));
            let detail = json!({
                "type": icmp_type,
                "code": icmp_code,
                "meaning": name,
                "sender": sender(*outgoing),
            });
            with_place(Event::new("icmp-sent", text, detail), place, None)
        }
        What::ResetAnswered { reason, state, accept_queue, backlog, place } => {
            let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let text = format!("this machine answered with RST{}{why}", elsewhere(place, connection));
            let detail = json!({
                "reason": reason,
                "state": state,
                "accept_queue": accept_queue,
                "backlog": backlog,
            });
            with_place(Event::new("reset-answered", text, detail), place, None)
        }
        What::RouteFailed { tuple, table, errno, forwarded, .. } => {
            let kind = match errno.abs() {
                libc::EACCES => "prohibit route",
                libc::EHOSTUNREACH => "unreachable route",
                libc::EINVAL => "blackhole route",
                _ => "no route",
            };
            let to = tuple.destination.ip();
            let way = if *forwarded { ", while forwarding" } else { "" };
            let text = format!("{kind} to {to} (table {}{way})", table_name(*table));
            let detail = json!({
                "source": tuple.source.ip(),
                "destination": to,
                "table": table,
                "errno": errno_name(errno.abs()),
                "forwarded": forwarded,
            });
            Event::new("route-failed", text, detail)
        }
        What::NeighbourFailed { address, place } => {
            let question = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
            let on = place.interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
            let text = format!("{address} did not answer {question}{on}{}", elsewhere(place, connection));
            let event = Event::new("neighbour-failed", text, json!({ "address": address }));
            with_place(event, place, place.interface.as_deref())
        }
        What::Changed { change, place } => {
            let text = format!("{}{}", change.text(), elsewhere(place, connection));
            let detail = json!({
                "subject": change.subject,
                "by": change.by,
                "rule": change.rule,
            });
            with_place(Event::new(change.kind.as_str(), text, detail), place, change.interface.as_deref())
        }
        What::CallFailed { call, errno } => {
            let name = errno_name(errno.abs());
            let text = format!("{call} failed with {name}");
            Event::new("call-failed", text, json!({ "call": call, "errno": name }))
        }
    }
}

fn state_text(from: TcpState, to: TcpState) -> String {
    match (from, to) {
        (_, TcpState::Established) => "connection established".into(),
        (TcpState::Established, TcpState::FinWait1) => "closed on this side (FIN sent)".into(),
        (_, TcpState::CloseWait) => "closed by the peer (FIN received)".into(),
        (TcpState::CloseWait, TcpState::LastAck) => "closed on this side too (FIN sent)".into(),
        (from, to) => format!("{from} → {to}"),
    }
}

fn error(errno: i32, soft: i32) -> Event {
    let name = |errno: i32| (errno != 0).then(|| errno_name(errno.abs()));
    let text = match (name(errno), name(soft)) {
        (Some(hard), _) => format!("socket error {hard}"),
        (None, Some(soft)) => format!("{soft} noted by the socket, not fatal"),
        (None, None) => "socket error".to_owned(),
    };
    Event::new("error", text, json!({ "errno": name(errno), "soft_errno": name(soft) }))
}

fn packet_event(
    verb: &str,
    text: String,
    detail: Value,
    packet: &Packet,
    outgoing: bool,
    place: &Place,
) -> Event {
    let mut event = Event::new(format!("{}-{verb}", slug(packet)), text, detail);
    let about = json!({
        "sender": sender(outgoing),
        "direction": (packet.direction != Direction::Unknown).then_some(packet.direction),
        "ttl": packet.ttl,
    });
    if let Value::Object(about) = about {
        event.detail.extend(about.into_iter().filter(|(_, value)| !value.is_null()));
    }
    with_place(event, place, interface(packet, place))
}

fn with_place(mut event: Event, place: &Place, interface: Option<&str>) -> Event {
    if let Some(interface) = interface {
        event.detail.insert("interface".into(), interface.into());
    }
    if place.netns != 0 {
        event.detail.insert("netns".into(), place.netns.into());
    }
    if let Some(name) = &place.netns_name {
        event.detail.insert("netns_name".into(), name.as_str().into());
    }
    event
}

fn interface<'a>(packet: &'a Packet, place: &'a Place) -> Option<&'a str> {
    place.interface.as_deref().or(Some(&packet.interface)).filter(|name| !name.is_empty())
}

/// Who sent the packet: an end of the connection.
fn sender(outgoing: bool) -> &'static str {
    if outgoing { "local" } else { "peer" }
}

fn whose(packet: &Packet, outgoing: bool) -> String {
    if outgoing { packet.name() } else { format!("{} of the peer", packet.name()) }
}

fn slug(packet: &Packet) -> &'static str {
    match packet.tuple.protocol {
        protocol::TCP if packet.is_syn() => "syn",
        protocol::TCP if packet.is_syn_ack() => "syn-ack",
        protocol::TCP if packet.is_rst() => "rst",
        protocol::TCP if packet.is_fin() => "fin",
        protocol::TCP => "segment",
        protocol::UDP => "datagram",
        protocol::ICMP | protocol::ICMPV6 => "icmp",
        _ => "packet",
    }
}

/// " in namespace web", where that is not the connection's own.
fn elsewhere(place: &Place, connection: &Connection) -> String {
    match &place.netns_name {
        _ if place.netns == connection.netns || place.netns == 0 => String::new(),
        Some(name) => format!(" in namespace {name}"),
        None => format!(" in namespace {}", place.netns),
    }
}

/// include/uapi/linux/rtnetlink.h, `rt_class_t`.
fn table_name(table: u32) -> String {
    match table {
        253 => "default".into(),
        254 => "main".into(),
        255 => "local".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    fn text(what: What) -> (String, String) {
        let Event { event, text, .. } = event(&what, &testing::outbound().connection);
        (event, text)
    }

    #[test]
    fn each_says_what_and_where() {
        let place = testing::place(4026532999, Some("web"), Some("eth1"));
        let dropped = testing::dropped(true, "NO_SOCKET", Some("tcp_v4_rcv"), None, place.clone());
        assert_eq!(
            text(dropped),
            ("syn-dropped".into(), "SYN dropped in namespace web (NO_SOCKET, in tcp_v4_rcv)".into())
        );
        let tuple = testing::outbound().connection.tuple();
        let route = What::RouteFailed {
            tuple,
            table: 254,
            errno: libc::EAGAIN,
            forwarded: false,
            place: Place::default(),
        };
        assert_eq!(text(route), ("route-failed".into(), "no route to 10.0.2.2 (table main)".into()));
        let address = "10.0.1.1".parse().unwrap();
        let neighbour = What::NeighbourFailed { address, place };
        assert_eq!(text(neighbour).1, "10.0.1.1 did not answer ARP on eth1 in namespace web");
        assert_eq!(
            text(What::Error { errno: 0, soft: 113 }).1,
            "EHOSTUNREACH noted by the socket, not fatal"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let event = event(&What::ResetSent { reason: None }, &testing::outbound().connection);
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            json!({"offset_us": 0, "event": "reset-sent", "text": "RST sent"})
        );
    }
}
