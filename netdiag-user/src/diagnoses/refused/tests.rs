use super::super::testing::{ACK, CLIENT_NETNS, Case, Drop, PEER_NETNS, RST, SYN, address, here, there};
use super::super::{Confidence, Evidence, Finding, Verdict, WhereSide};
use crate::enrich::facts::NetnsFact;
use crate::enrich::listeners::Listener;
use crate::enrich::process::Process;
use crate::enrich::sockets::Protocol;
use crate::probes::{TcpState, protocol};
use crate::track::{End, What};

fn refused() -> Case {
    Case::connecting().errno(libc::ECONNREFUSED).lasted(1).at(0, What::ResetReceived)
}

/// Refused in namespace `srv` of this machine, where nothing listens.
fn refused_here() -> Case {
    refused().peer_on_this_machine().listeners(&[]).dropped(0, no_socket())
}

fn no_socket() -> Drop {
    Drop::syn("NO_SOCKET", "tcp_v4_rcv").place(there())
}

fn listener(netns: u32, local: &str) -> Listener {
    Listener {
        protocol: Protocol::Tcp,
        netns: netns.into(),
        netns_name: (netns == PEER_NETNS).then(|| "srv".to_owned()),
        local: address(local),
        v6only: None,
        accept_queue: 0,
        backlog: 128,
        interface: 0,
        inode: 1,
        cookie: 2,
        processes: vec![Process { pid: 77, comm: "nginx".into(), ..Process::default() }],
    }
}

trait Listeners: Sized {
    fn listeners(self, listeners: &[Listener]) -> Self;
    fn udp(self) -> Self;
}

impl Listeners for Case {
    fn listeners(self, listeners: &[Listener]) -> Self {
        self.with(|e| e.facts.listeners = Some(listeners.to_vec()))
    }

    fn udp(self) -> Self {
        self.with(|e| {
            e.connection.protocol = protocol::UDP;
            e.connection.end = End::SocketError;
            e.timeline.clear();
        })
    }
}

fn best(case: Case) -> (&'static str, Confidence, Finding) {
    let (code, finding) = case.diagnosed();
    (code, finding.confidence, finding)
}

#[test]
fn nothing_listens_in_another_namespace() {
    let (code, confidence, finding) = best(refused_here());
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Certain));
    assert_eq!(finding.cause, "nothing listens on 10.0.2.2:8080 in network namespace srv");
    assert_eq!(finding.place.netns_name.as_deref(), Some("srv"));
    let command = finding.next_steps[0].command.as_deref();
    assert_eq!(command, Some("ip netns exec srv ss -ltnp 'sport = :8080'"));
}

#[test]
fn a_listener_that_fits_came_later() {
    let finding = refused_here().listeners(&[listener(PEER_NETNS, "0.0.0.0:8080")]).diagnosed();
    assert_eq!(finding.0, "refused.no-listener");
    assert!(finding.1.explanation.contains("listens there now"), "{}", finding.1.explanation);
}

#[test]
fn a_loopback_listener_is_elsewhere() {
    let (code, confidence, finding) =
        best(refused_here().listeners(&[listener(PEER_NETNS, "127.0.0.1:8080")]));
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Certain));
    assert_eq!(
        finding.cause,
        "nothing listens on 10.0.2.2:8080 in network namespace srv, but nginx[77] listens on 127.0.0.1:8080"
    );
    assert!(finding.listener.is_some());
}

#[test]
fn a_listener_of_one_family_is_elsewhere_for_the_other() {
    let v6 = |e: &mut Evidence| {
        e.connection.local = address("[::1]:40000");
        e.connection.peer = address("[::1]:8080");
    };
    let drop = || Drop::syn("NO_SOCKET", "tcp_v6_rcv");
    let finding = refused().with(v6).dropped(0, drop()).listeners(&[listener(CLIENT_NETNS, "0.0.0.0:8080")]);
    let (code, confidence, finding) = best(finding);
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Certain));
    assert!(finding.explanation.contains("IPv4 only"), "{}", finding.explanation);

    let only = |v6only| Listener { v6only, ..listener(PEER_NETNS, "[::]:8080") };
    let code = |v6only| refused_here().listeners(&[only(v6only)]).diagnosed().0;
    assert_eq!(code(Some(false)), "refused.no-listener");
    assert_eq!(code(None), "refused.no-listener");
    let (code, _, finding) = best(refused_here().listeners(&[only(Some(true))]));
    assert_eq!(code, "refused.bound-elsewhere");
    assert!(finding.cause.ends_with("nginx[77] listens on [::]:8080 for IPv6 only"), "{}", finding.cause);
    assert!(finding.explanation.contains("IPV6_V6ONLY"), "{}", finding.explanation);
    let steps = format!("{:?}", finding.next_steps);
    assert!(steps.contains("ipv6only=off") && !steps.contains("connect to [::]"), "{steps}");
}

fn came_in_by(interface: u32, case: Case) -> Case {
    case.with(|e| {
        for moment in &mut e.timeline {
            if let What::Dropped { packet, .. } = &mut moment.what {
                packet.iif = interface;
            }
        }
    })
}

#[test]
fn a_dual_stack_listener_of_another_interface_is_not_called_ipv6_only() {
    let bound = Listener { interface: 9, v6only: Some(false), ..listener(PEER_NETNS, "[::]:8080") };
    let (code, _, finding) = best(came_in_by(3, refused_here().listeners(&[bound])));
    assert_eq!(code, "refused.bound-elsewhere");
    assert!(finding.explanation.contains("another interface"), "{}", finding.explanation);
}

#[test]
fn another_namespace_is_an_inference() {
    let outside = || listener(CLIENT_NETNS, "0.0.0.0:8080");
    let (code, confidence, finding) = best(refused_here().listeners(&[outside()]));
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Likely));
    assert!(
        finding.cause.ends_with("0.0.0.0:8080 in the client's own network namespace"),
        "{}",
        finding.cause
    );

    let third = Listener { netns: 5, ..outside() };
    let (code, confidence, _) = best(refused_here().listeners(&[outside(), third]));
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Certain));
}

#[test]
fn a_listener_of_another_interface_is_elsewhere() {
    let bound = Listener { interface: 9, ..listener(PEER_NETNS, "0.0.0.0:8080") };
    let (code, _, finding) = best(came_in_by(3, refused_here().listeners(&[bound])));
    assert_eq!(code, "refused.bound-elsewhere");
    assert!(finding.cause.ends_with("0.0.0.0:8080 of interface 9"), "{}", finding.cause);
}

#[test]
fn without_the_drop_the_listeners_decide() {
    let case = || refused().peer_on_this_machine();
    let (code, confidence, _) = best(case().listeners(&[]));
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Likely));
    assert_eq!(case().asked("refused.no-listener"), Verdict::Healthy, "one that fits is there");
}

#[test]
fn a_reset_alone_is_possible() {
    let loopback = |e: &mut Evidence| {
        e.connection.peer = address("127.0.0.1:8080");
        e.facts.peer_namespaces = None;
        e.facts.listeners = None;
        e.facts.not_looked_up = vec!["listeners".into()];
    };
    let (code, confidence, finding) = best(refused().with(loopback));
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Possible));
    assert_eq!(finding.alternatives, ["refused.bound-elsewhere", "refused.firewall-reject"]);
    assert!(finding.explanation.contains("so many connections failed at once"), "{}", finding.explanation);
    // The drop of the SYN needs no listeners, but says what is not known.
    let dropped = Drop::syn("NO_SOCKET", "tcp_v4_rcv").place(here());
    let (code, confidence, finding) = best(refused().with(loopback).dropped(0, dropped));
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Certain));
    assert!(finding.explanation.contains("at another address was not looked up"), "{}", finding.explanation);
    let rejected = Drop::syn("NETFILTER_DROP", "nft_do_chain").place(here());
    let (code, confidence, _) = best(refused().with(loopback).dropped(0, rejected));
    assert_eq!((code, confidence), ("refused.firewall-reject", Confidence::Likely));
    // Without the RST it may have been anything.
    let silent = Case::connecting().errno(libc::ECONNREFUSED).with(loopback);
    assert_eq!(silent.asked("refused.no-listener"), Verdict::Healthy);
    let incomplete = refused().peer_on_this_machine().with(|e| e.facts.listeners_incomplete = true);
    assert_eq!(incomplete.found("refused.no-listener").confidence, Confidence::Possible);
}

#[test]
fn a_reset_where_somebody_listens_is_perhaps_a_rules() {
    const REJECT: &str = "refused.firewall-reject";
    let (code, confidence, finding) = best(refused().peer_on_this_machine());
    assert_eq!((code, confidence), (REJECT, Confidence::Possible));
    assert_eq!(finding.alternatives, ["refused.no-listener"]);
    assert!(finding.listener.is_some());
    assert_eq!(refused().peer_on_this_machine().listeners(&[]).asked(REJECT), Verdict::Healthy);
    let unknown = refused().peer_on_this_machine().with(|e| e.facts.listeners = None);
    assert_eq!(unknown.asked(REJECT), Verdict::Healthy);
    assert_eq!(refused().asked(REJECT), Verdict::Healthy, "the peer is another machine");
    let dropped = refused().peer_on_this_machine().dropped(0, no_socket());
    assert_eq!(dropped.asked(REJECT), Verdict::Healthy);
}

#[test]
fn of_several_namespaces_with_the_address_none_is_blamed_for_sure() {
    const OTHER: u32 = 7;
    let ambiguous = |listeners: &[Listener]| {
        refused().peer_on_this_machine().listeners(listeners).with(|e| {
            e.facts.peer_namespaces.as_mut().unwrap().push(NetnsFact { inode: OTHER.into(), name: None });
            e.facts.peer_ambiguous = true;
        })
    };
    // Without the drop it is not known which of the two was asked.
    let near = listener(OTHER, "127.0.0.1:8080");
    let finding = ambiguous(std::slice::from_ref(&near)).found("refused.bound-elsewhere");
    assert_eq!(
        (finding.confidence, finding.alternatives),
        (Confidence::Possible, vec!["refused.no-listener"])
    );
    let finding = ambiguous(&[listener(5, "0.0.0.0:8080")]).found("refused.bound-elsewhere");
    assert_eq!(finding.confidence, Confidence::Possible);
    let finding = ambiguous(&[listener(OTHER, "0.0.0.0:8080")]).found("refused.no-listener");
    assert_eq!(
        (finding.confidence, finding.alternatives),
        (Confidence::Possible, vec!["refused.bound-elsewhere"])
    );
    assert!(finding.explanation.contains("something does listen"), "{}", finding.explanation);
    let both = [listener(OTHER, "0.0.0.0:8080"), listener(PEER_NETNS, "0.0.0.0:8080")];
    assert_eq!(ambiguous(&both).asked("refused.no-listener"), Verdict::Healthy);
    assert_eq!(ambiguous(&[]).found("refused.no-listener").confidence, Confidence::Likely);

    // The drop says which.
    let (code, confidence, _) = best(ambiguous(&[near]).dropped(0, no_socket()));
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Likely));
    let near = listener(PEER_NETNS, "127.0.0.1:8080");
    let (code, confidence, _) = best(ambiguous(&[near]).dropped(0, no_socket()));
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Certain));
}

#[test]
fn a_datagram_without_a_socket() {
    let case = refused_here().udp().dropped(0, Drop { symbol: Some("__udp4_lib_rcv"), ..no_socket() });
    let (code, confidence, finding) = best(case);
    assert_eq!((code, confidence), ("refused.no-listener", Confidence::Certain));
    assert!(finding.explanation.contains("ICMP"), "{}", finding.explanation);
    assert_eq!(finding.next_steps[0].command.as_deref(), Some("ip netns exec srv ss -lunp 'sport = :8080'"));
}

#[test]
fn a_local_rule_is_a_firewalls() {
    let rejected = Drop::syn("NETFILTER_DROP", "nft_do_chain");
    let cases = [
        refused().dropped(0, rejected.clone()),
        refused_here().dropped(1, rejected.clone().place(there())),
        refused().udp().dropped(0, rejected.clone()),
    ];
    for case in cases {
        let others = ["refused.no-listener", "refused.bound-elsewhere", "refused.peer-no-listener"];
        assert!(others.iter().all(|code| case.clone().asked(code) == Verdict::Healthy));
        let (code, confidence, _) = best(case);
        assert_eq!((code, confidence), ("refused.firewall-reject", Confidence::Likely));
    }
    let (code, ..) =
        best(refused().peer_on_this_machine().listeners(&[]).dropped(0, rejected).dropped(1, no_socket()));
    assert_eq!(code, "refused.no-listener", "the rule was gone at the second try");
}

#[test]
fn a_remote_reset() {
    let (code, confidence, finding) = best(refused().wire(&[0]).came(1, RST | ACK));
    assert_eq!((code, confidence), ("refused.peer-no-listener", Confidence::Likely));
    assert!(finding.explanation.contains("TTL 64: no router"), "{}", finding.explanation);
    assert_eq!(finding.place.side, WhereSide::Peer);

    let (_, confidence, finding) = best(refused());
    assert_eq!(confidence, Confidence::Likely);
    assert!(!finding.explanation.contains("TTL"));
}

#[test]
fn a_remote_answer_that_was_not_seen_is_possible() {
    let nothing = Case::connecting().errno(libc::ECONNREFUSED);
    assert_eq!(nothing.found("refused.peer-no-listener").confidence, Confidence::Possible);
    let unknown = refused().with(|e| e.facts.peer_namespaces = None).found("refused.peer-no-listener");
    assert_eq!(
        (unknown.confidence, unknown.alternatives),
        (Confidence::Possible, vec!["refused.no-listener", "refused.firewall-reject"])
    );
    assert!(!unknown.explanation.contains("left this machine"), "{}", unknown.explanation);
}

#[test]
fn an_icmp_error_for_tcp_is_a_filter() {
    let case = || Case::connecting().errno(libc::ECONNREFUSED).icmp(1, 3, 3);
    assert_eq!(case().diagnosed().0, "refused.remote-firewall-reject");
    assert_eq!(case().asked("refused.peer-no-listener"), Verdict::Healthy);
}

#[test]
fn a_datagram_refused_by_the_peer_itself() {
    let from = |source: &'static str| {
        refused().udp().icmp(1, 3, 3).with(move |e| {
            for moment in &mut e.timeline {
                if let What::IcmpReceived { packet, .. } = &mut moment.what {
                    packet.tuple.source = address(source);
                }
            }
        })
    };
    let (code, confidence, _) = best(from("10.0.2.2:0"));
    assert_eq!((code, confidence), ("refused.peer-no-listener", Confidence::Likely));
    assert_eq!(from("10.0.1.1:0").asked("refused.peer-no-listener"), Verdict::Healthy);
    assert_eq!(refused().udp().found("refused.peer-no-listener").confidence, Confidence::Possible);
}

fn overflowed(setting: &str, queue: u32) -> Case {
    let place = there();
    Case::ending(TcpState::Established, TcpState::Close)
        .errno(libc::ECONNRESET)
        .lasted(1)
        .peer_on_this_machine()
        .at(
            0,
            What::ResetAnswered {
                reason: Some("INVALID_SYN".into()),
                state: Some(TcpState::Listen),
                accept_queue: queue,
                backlog: 5,
                place,
            },
        )
        .at(0, What::ResetReceived)
        .with(|e| {
            e.facts.peer_sysctls.insert("net.ipv4.tcp_abort_on_overflow".into(), setting.into());
        })
}

#[test]
fn the_queue_overflowed() {
    let (code, confidence, finding) = best(overflowed("1", 6));
    assert_eq!((code, confidence), ("refused.backlog-overflow", Confidence::Certain));
    assert_eq!(
        finding.cause,
        "the accept queue of 10.0.2.2:8080 in network namespace srv is full (6 wait, 5 may)"
    );
    assert!(finding.listener.is_some());
    let sampled = overflowed("1", 0).queues(1, 6, 0, &[]).found("refused.backlog-overflow");
    assert_eq!(sampled.confidence, Confidence::Likely);
    let guess = overflowed("1", 0)
        .with(|e| {
            e.timeline.retain(|moment| !matches!(moment.what, What::ResetAnswered { .. }));
            e.facts.peer_ambiguous = true;
        })
        .queues(1, 6, 0, &[])
        .found("refused.backlog-overflow");
    assert_eq!((guess.confidence, guess.alternatives), (Confidence::Possible, vec!["reset.by-peer"]));
}

#[test]
fn a_reset_for_another_reason_is_no_overflow() {
    let code = "refused.backlog-overflow";
    assert_eq!(overflowed("0", 6).asked(code), Verdict::Healthy);
    assert_eq!(overflowed("1", 5).asked(code), Verdict::Healthy);
    assert_eq!(overflowed("1", 6).tcp(|tcp| tcp.bytes_received = Some(9)).asked(code), Verdict::Healthy);
    let unknown = overflowed("1", 6).with(|e| e.facts.peer_sysctls.clear());
    assert!(matches!(unknown.asked(code), Verdict::NotEnough(_)));
}

#[test]
fn a_connection_that_worked_is_healthy() {
    for (from, to) in [(TcpState::FinWait2, TcpState::Close), (TcpState::LastAck, TcpState::Close)] {
        Case::ending(from, to).peer_on_this_machine().queues(1, 6, 0, &[]).healthy("refused");
    }
    Case::connecting().sent(0, SYN).healthy("refused");
}

#[test]
fn loopback_is_the_clients_own_namespace() {
    let case = refused()
        .with(|e| {
            e.connection.peer = address("127.0.0.1:8080");
            e.facts.netns = Some(NetnsFact { inode: CLIENT_NETNS.into(), name: None });
        })
        .dropped(0, Drop::syn("NO_SOCKET", "tcp_v4_rcv").place(here()))
        .listeners(&[listener(PEER_NETNS, "0.0.0.0:8080")]);
    let (code, confidence, finding) = best(case);
    assert_eq!((code, confidence), ("refused.bound-elsewhere", Confidence::Likely));
    let commands: Vec<_> = finding.next_steps.iter().filter_map(|step| step.command.as_deref()).collect();
    assert_eq!(commands, ["ss -ltnp 'sport = :8080'", "ip netns exec srv ss -ltnp 'sport = :8080'"]);
}
