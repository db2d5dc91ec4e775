use super::super::testing::{self, at, ends, outbound, own_place, packet, place};
use super::*;
use crate::diagnoses::{Finding, Stage, Where, WhereSide};
use crate::output::Style;
use crate::probes::{Call, Direction, Packet, TcpState, Tuple, protocol};
use crate::track::{End, Hook, Side, What};

fn shown(report: &Report) -> String {
    card(report, &Look::default())
}

fn refused() -> Report {
    let mut evidence = outbound();
    ends(&mut evidence, 1, Some(libc::ECONNREFUSED));
    let web = place(4_026_532_999, Some("web"), Some("eth0"));
    evidence.timeline = vec![
        at(0, testing::dropped(true, "NO_SOCKET", Some("tcp_v4_rcv"), None, web.clone())),
        at(0, What::ResetReceived),
        at(0, What::Error { errno: libc::ECONNREFUSED, soft: 0 }),
    ];
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Socket).at(&web).symbol(Some("tcp_v4_rcv")),
        "refused",
        "nothing listens on 10.0.2.2:8080 in network namespace web",
    )
    .next("see what listens there", "ip netns exec web ss -ltnp")
    .advise("start the service, or correct the port");
    testing::report(&evidence, "refused.no-listener", &finding)
}

fn no_route() -> Report {
    let mut evidence = outbound();
    ends(&mut evidence, 0, Some(libc::ENETUNREACH));
    evidence.connection.end = End::CallFailed { call: Call::Connect };
    evidence.connection.local = "0.0.0.0:0".parse().unwrap();
    let tuple = evidence.connection.tuple();
    evidence.timeline = vec![
        at(
            0,
            What::RouteFailed {
                tuple,
                table: 254,
                errno: libc::EAGAIN,
                forwarded: false,
                place: Default::default(),
            },
        ),
        at(0, What::CallFailed { call: Call::Connect, errno: libc::ENETUNREACH }),
    ];
    let place = Where::new(WhereSide::Local, Stage::Route);
    let finding = Finding::new(Confidence::Certain, place, "no route to host", "no route matches 10.0.2.2")
        .next("see the routes", "ip route get 10.0.2.2");
    testing::report(&evidence, "unreachable.no-route", &finding)
}

fn icmp() -> Report {
    let mut evidence = outbound();
    ends(&mut evidence, 3100, Some(libc::EHOSTUNREACH));
    let source = "192.0.2.1:0".parse().unwrap();
    let said = Packet {
        tuple: Tuple { protocol: protocol::ICMP, source, destination: evidence.connection.local },
        code: 1,
        ..packet(3, false, Direction::Ingress)
    };
    let syn =
        What::Wire { packet: packet(0x02, true, Direction::Egress), outgoing: true, place: own_place() };
    evidence.timeline = vec![
        at(0, syn.clone()),
        at(1010, What::Retransmit { state: TcpState::SynSent, retransmits: Some(1) }),
        at(1011, syn),
        at(3099, What::IcmpReceived { packet: said, place: own_place() }),
    ];
    evidence.coverage.lost_events = 3;
    let place = Where::new(WhereSide::Path, Stage::Remote);
    let finding =
        Finding::new(Confidence::Certain, place, "no route to host", "the router 192.0.2.1 cannot reach it")
            .next("see how far packets come", "traceroute -T -p 8080 10.0.2.2");
    testing::report(&evidence, "unreachable.icmp-unreachable", &finding)
}

fn reset() -> Report {
    let mut evidence = outbound();
    evidence.connection.from_start = false;
    evidence.connection.end = End::State { from: TcpState::Established, to: TcpState::Close };
    ends(&mut evidence, 61_000, Some(libc::ECONNRESET));
    evidence.timeline = vec![at(61_000, What::ResetReceived)];
    evidence.coverage.wire = false;
    evidence.coverage.missing = vec!["tcp_send_active_reset".into()];
    let place = Where::new(WhereSide::Peer, Stage::Tcp);
    let finding = Finding::new(Confidence::Possible, place, "reset after 61 s", "the peer sent RST")
        .or(&["reset.middlebox", "reset.idle-expired"])
        .advise("look at the peer's log at that time");
    testing::report(&evidence, "reset.by-peer", &finding)
}

/// A reply that this machine dropped, over IPv6.
fn reply_dropped() -> Report {
    let mut evidence = outbound();
    evidence.connection.local = "[2001:db8::1]:40000".parse().unwrap();
    evidence.connection.peer = "[2001:db8:ffff::2]:443".parse().unwrap();
    ends(&mut evidence, 130_000, Some(libc::ETIMEDOUT));
    let drop = testing::dropped(false, "NETFILTER_DROP", None, Some(Hook::Input), own_place());
    evidence.timeline = vec![at(1, drop.clone()), at(1030, drop)];
    let finding = Finding::new(
        Confidence::Certain,
        Where::new(WhereSide::Local, Stage::Netfilter).at(&own_place()),
        "timed out after 2 min 10 s",
        "the answer came back, and a local firewall drops it",
    )
    .firewall(crate::diagnoses::FirewallFact { engine: None, hook: Some(Hook::Input), rule: None });
    testing::report(&evidence, "timeout.reply-dropped", &finding)
}

fn inbound_unknown() -> Report {
    let mut evidence = outbound();
    evidence.connection.side = Side::Inbound;
    evidence.connection.owner = None;
    evidence.connection.local = "10.0.1.2:443".parse().unwrap();
    evidence.connection.peer = "10.0.9.9:51234".parse().unwrap();
    evidence.connection.end = End::State { from: TcpState::SynRecv, to: TcpState::Close };
    ends(&mut evidence, 500, None);
    let place = Where::new(WhereSide::Local, Stage::Socket);
    let finding = Finding::new(Confidence::Likely, place, "dropped", "the accept queue is full");
    testing::report(&evidence, "timeout.accept-queue-full", &finding)
}

fn bind() -> Report {
    let mut evidence = outbound();
    evidence.connection.owner = Some(testing::owner("nginx", 99));
    evidence.connection.local = "0.0.0.0:80".parse().unwrap();
    evidence.connection.peer = "0.0.0.0:0".parse().unwrap();
    evidence.connection.end = End::CallFailed { call: Call::Bind };
    ends(&mut evidence, 0, Some(libc::EADDRINUSE));
    let place = Where::new(WhereSide::Local, Stage::Socket);
    let finding =
        Finding::new(Confidence::Certain, place, "address already in use", "apache2[17] listens there");
    testing::report(&evidence, "local.address-in-use", &finding)
}

#[test]
fn firewall_drop() {
    let mut report = testing::firewall_drop();
    testing::named_rule(&mut report);
    insta::assert_snapshot!(shown(&report), @r"
    ✗ curl[4213] → 10.0.2.2:8080   timed out after 5.0 s
      a local firewall rule drops the SYN          timeout.firewall-drop · certain

      curl ── socket ── route ── nft output ✗ ┄┄ eth0 ┄┄ network ┄┄ 10.0.2.2:8080

      rule   inet filter output handle 12:  ip daddr 10.0.2.2 tcp dport 8080 drop
      when   +0.000 s  connect()
             +0.000 s  SYN dropped (NETFILTER_DROP, hook output)
             +1.02 s, +3.04 s  SYN retransmitted, dropped
             +5.000 s  curl closed the socket: it never got an error from the kernel
      next   nft delete rule inet filter output handle 12     or put an accept before it
    ");
}

#[test]
fn refused_in_another_namespace() {
    insta::assert_snapshot!(shown(&refused()), @r"
    ✗ curl[4213] → 10.0.2.2:8080   refused
      nothing listens on 10.0.2.2:8080 in network namespace web   refused.no-listener · certain

      curl ── socket ── route ── 10.0.2.2:8080 (netns web) ✗

      when   +0.000 s  connect()
             +0.000 s  SYN dropped in namespace web (NO_SOCKET, in tcp_v4_rcv)
             +0.000 s  RST received
             +0.001 s  curl got ECONNREFUSED
      next   ip netns exec web ss -ltnp     see what listens there
             start the service, or correct the port
    ");
}

#[test]
fn every_rule_that_fits_is_shown() {
    let mut report = testing::firewall_drop();
    testing::named_rule(&mut report);
    let one = |number: u64, rule: &str| FirewallPart {
        engine: Some("iptables".into()),
        family: Some("ip".into()),
        table: Some("filter".into()),
        chain: Some("OUTPUT".into()),
        rule_number: Some(number),
        rule: Some(rule.into()),
        ..FirewallPart::default()
    };
    let candidates = vec![one(1, "-A OUTPUT -m mark --mark 0x1 -j DROP"), one(4, "-A OUTPUT -j DROP")];
    let found = FirewallPart { exact: Some(false), basis: Some("matching".into()), ..candidates[0].clone() };
    report.firewall = Some(found.clone());
    let text = shown(&report);
    let rule = "iptables ip filter OUTPUT rule 1:  -A OUTPUT -m mark --mark 0x1 -j DROP (found by matching)";
    assert!(text.contains(rule), "{text}");
    report.firewall = Some(FirewallPart { candidates, ..found });
    let text = shown(&report);
    assert!(text.contains("one of 2 that fit the packet; the kernel does not say which:"), "{text}");
    assert!(text.contains("iptables ip filter OUTPUT rule 4:  -A OUTPUT -j DROP\n"), "{text}");
}

#[test]
fn no_route_at_all() {
    insta::assert_snapshot!(shown(&no_route()), @r"
    ✗ curl[4213] → 10.0.2.2:8080   no route to host
      no route matches 10.0.2.2                    unreachable.no-route · certain

      curl ── socket ── route ✗ ┄┄ network ┄┄ 10.0.2.2:8080

      when   +0.000 s  no route to 10.0.2.2 (table main)
             +0.000 s  connect() failed with ENETUNREACH
      next   ip route get 10.0.2.2     see the routes
    ");
}

#[test]
fn icmp_from_a_router() {
    insta::assert_snapshot!(shown(&icmp()), @r"
    ✗ curl[4213] → 10.0.2.2:8080   no route to host
      the router 192.0.2.1 cannot reach it         unreachable.icmp-unreachable · certain

      curl ── socket ── route ── eth0 ── router 192.0.2.1 ✗ ┄┄ 10.0.2.2:8080

      when   +0.000 s  connect()
             +0.000 s  SYN left through eth0
             +1.010 s  SYN retransmitted, left through eth0
             +3.099 s  ICMP host unreachable from 192.0.2.1
             +3.100 s  curl got EHOSTUNREACH
      next   traceroute -T -p 8080 10.0.2.2     see how far packets come
      note   3 records were lost meanwhile: something may be missing
    ");
}

#[test]
fn reset_seen_late() {
    insta::assert_snapshot!(shown(&reset()), @r"
    ✗ curl[4213] → 10.0.2.2:8080   reset after 61 s
      the peer sent RST                            reset.by-peer · possible

      curl ── socket ── route ── network ── 10.0.2.2:8080 ?

      when   +61.000 s  RST received
             +61.000 s  curl got ECONNRESET
      next   look at the peer's log at that time
      also   possible: reset.middlebox, reset.idle-expired
      note   not possible on this kernel, and could have told more: tcp_send_active_reset
             seen only from the first sign of trouble on, not from its start
             packets on the wire were not watched
    ");
}

#[test]
fn reply_dropped_over_ipv6() {
    insta::assert_snapshot!(shown(&reply_dropped()), @r"
    ✗ curl[4213] → [2001:db8:ffff::2]:443   timed out after 2 min 10 s
      the answer came back, and a local firewall drops it   timeout.reply-dropped · certain

      curl ┄┄ socket ┄┄ route ┄┄ ✗ netfilter input ── eth0 ── network ── [2001:db8:ffff::2]:443

      when   +0.000 s  connect()
             +0.001 s, +1.03 s  SYN-ACK of the peer dropped (NETFILTER_DROP, hook input)
             +130.000 s  curl got ETIMEDOUT
    ");
}

#[test]
fn inbound_turns_the_arrow() {
    insta::assert_snapshot!(shown(&inbound_unknown()), @r"
    ✗ unknown process at 10.0.1.2:443 ← 10.0.9.9:51234   dropped
      the accept queue is full                     timeout.accept-queue-full · likely

      10.0.9.9:51234 ── network ── socket ✗ ┄┄ unknown process

      when   +0.500 s  the socket was closed
      note   it was not seen which process opened or accepted it
    ");
}

#[test]
fn bind_has_no_peer() {
    insta::assert_snapshot!(shown(&bind()), @r"
    ✗ nginx[99] on 0.0.0.0:80   address already in use
      apache2[17] listens there                    local.address-in-use · certain

      nginx ── socket ✗

      when   +0.000 s  bind() failed with EADDRINUSE
    ");
}

#[test]
fn narrow_ascii() {
    let mut report = refused();
    report.count = 3;
    report.explanation = "The SYN reached TCP, which found no listening socket and answered with RST.".into();
    let look = Look { width: 60, utf8: false, verbose: true, ..Look::default() };
    let text = card(&report, &look);
    assert!(text.is_ascii());
    insta::assert_snapshot!(text, @r"
    x curl[4213] -> 10.0.2.2:8080   refused
      nothing listens on 10.0.2.2:8080 in network namespace web
      refused.no-listener - certain

      curl -- socket -- route -- 10.0.2.2:8080 (netns web) x

      why    The SYN reached TCP, which found no listening
               socket and answered with RST.
      when   +0.000 s  connect()
             +0.000 s  SYN dropped in namespace web (NO_SOCKET,
               in tcp_v4_rcv)
             +0.000 s  RST received
             +0.001 s  curl got ECONNREFUSED
      count  3 times since 22:13:21 UTC
      next   see what listens there:
               ip netns exec web ss -ltnp
             start the service, or correct the port
    ");
}

#[test]
fn repeats() {
    let mut report = refused();
    report.count = 3;
    report.last = report.first + jiff::SignedDuration::from_secs(28);
    insta::assert_snapshot!(repeat_line(&report, &Look::default()), @r"
    ✗ curl[4213] → 10.0.2.2:8080 refused: 3 times more, between 22:13:21 and 22:13:49 UTC
      (refused.no-listener)
    ");
}

#[test]
fn no_line_but_a_command_is_too_long() {
    for report in [refused(), no_route(), icmp(), reset(), reply_dropped(), inbound_unknown(), bind()] {
        for width in [40, 60, 80, 100] {
            let text = card(&report, &Look { width, verbose: true, ..Look::default() });
            let commands: Vec<&str> =
                report.next_steps.iter().filter_map(|step| step.command.as_deref()).collect();
            for line in text.lines() {
                let tag = line.contains(&report.code);
                let free = tag || commands.iter().any(|command| line.contains(command));
                assert!(free || columns(line) <= width, "{width}: {line}");
            }
        }
    }
}

#[test]
fn colour_changes_no_word() {
    let mut report = testing::firewall_drop();
    report.process.as_mut().unwrap().comm = "a\u{1b}[2Jb".into();
    let text = card(&report, &Look { style: Style::Color, ..Look::default() });
    assert!(text.contains("\u{1b}[1m\u{1b}[31m✗"), "{text:?}");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, shown(&report));
    assert!(plain.contains("a?[2Jb[4213]"));
}

#[test]
fn json_of_the_firewall_drop() {
    let mut report = testing::firewall_drop();
    testing::named_rule(&mut report);
    report.evidence.truncate(3);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "schema": "netdiag/1",
      "kind": "diagnosis",
      "time": "2023-11-14T22:13:26.000000Z",
      "host": "web-1",
      "code": "timeout.firewall-drop",
      "symptom": "timeout",
      "errno": null,
      "confidence": "certain",
      "summary": "curl[4213] → 10.0.2.2:8080 timed out after 5.0 s: a local firewall rule drops the SYN",
      "headline": "timed out after 5.0 s",
      "cause": "a local firewall rule drops the SYN",
      "explanation": "A firewall rule of this machine throws the packets away.",
      "next_steps": [
        {
          "text": "or put an accept before it",
          "command": "nft delete rule inet filter output handle 12"
        }
      ],
      "connection": {
        "protocol": "tcp",
        "direction": "outbound",
        "local": {
          "address": "10.0.1.2",
          "port": 40000
        },
        "peer": {
          "address": "10.0.2.2",
          "port": 8080
        },
        "interface": "eth0",
        "netns": 4026531840,
        "cookie": 7
      },
      "process": {
        "pid": 4213,
        "comm": "curl",
        "uid": 1000
      },
      "where": {
        "side": "local",
        "stage": "netfilter",
        "interface": "eth0",
        "netns": 4026531840,
        "symbol": "nft_do_chain"
      },
      "firewall": {
        "engine": "nftables",
        "hook": "output",
        "family": "inet",
        "table": "filter",
        "chain": "output",
        "handle": 12,
        "rule": "ip daddr 10.0.2.2 tcp dport 8080 drop",
        "exact": true
      },
      "duration_us": 5000000,
      "evidence": [
        {
          "offset_us": 0,
          "event": "connect",
          "text": "connect()"
        },
        {
          "offset_us": 0,
          "event": "state",
          "text": "CLOSE → SYN_SENT",
          "from": "CLOSE",
          "to": "SYN_SENT"
        },
        {
          "offset_us": 0,
          "event": "syn-dropped",
          "text": "SYN dropped (NETFILTER_DROP, hook output)",
          "hook": "output",
          "interface": "eth0",
          "netns": 4026531840,
          "reason": "NETFILTER_DROP",
          "sender": "local",
          "symbol": "nft_do_chain",
          "ttl": 64
        }
      ],
      "count": 1,
      "first": "2023-11-14T22:13:26.000000Z",
      "last": "2023-11-14T22:13:26.000000Z",
      "coverage": {
        "lost_events": 0,
        "missing": [],
        "since": true,
        "lost_steps": 0,
        "wire": true,
        "wire_since_suspect": false
      }
    }
    "#);
}
