//! The harness proves itself, without netdiag: each kind of trouble must be the trouble it claims.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, curl, nc, python};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::Output;
use netdiag_tests::remote::{Behaviour, IcmpKind, REMOTE_TTL, Remote, Sender, Transport};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::{hooks, servers};

const TUN: &[Need] = &[Need::Tun];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::harness("topology_carries_traffic", topology_carries_traffic),
    Scenario::harness("topology_is_fast", topology_is_fast),
    Scenario::harness("real_clients_see_the_errno", real_clients_see_the_errno)
        .needs(&[Need::Tool("curl"), Need::Tool("nc"), Need::Python, Need::Tun]),
    Scenario::harness("firewall_drop_and_reject", firewall_drop_and_reject).needs(&[Need::Nftables]),
    Scenario::harness("remote_syn", remote_syn).needs(TUN),
    Scenario::harness("remote_established", remote_established).needs(TUN),
    Scenario::harness("remote_size_and_loss", remote_size_and_loss).needs(TUN),
    Scenario::harness("remote_window_and_silence", remote_window_and_silence).needs(TUN),
    Scenario::harness("remote_icmp", remote_icmp).needs(TUN),
    Scenario::harness("remote_udp", remote_udp).needs(TUN),
    Scenario::harness("remote_ttl_and_record", remote_ttl_and_record).needs(TUN),
    Scenario::harness("remote_on_the_clients_own_link", remote_on_the_clients_own_link).needs(TUN),
    Scenario::harness("servers_misbehave", servers_misbehave),
    Scenario::harness("local_failures", local_failures),
    Scenario::harness("routes_fail", routes_fail),
    Scenario::harness("tc_hooks_are_seen", tc_hooks_are_seen),
];

/// `nd-client` with these steps, inside.
fn client(namespace: &Namespace, steps: &str) -> Result<Output> {
    namespace.run(&clients::steps(steps)?)
}

fn topology_carries_traffic() -> Result<()> {
    let net = Topology::new()?;
    let elsewhere = Namespace::new("elsewhere")?;
    for family in Family::BOTH {
        let _echo = servers::echo(&net.server, family.server(7))?;
        let _udp = servers::echo_udp(&net.server, family.server(7))?;
        let address = family.server(7);
        client(&net.client, &format!("connect={address} send=9000 recv=9000 close"))?.says("received 9000")?;
        client(&net.client, &format!("udp connect={address} timeout=2000 send=9 recv=9"))?.says("received 9")?;
        client(&net.client, &format!("churn=50,{address}"))?.exits(0)?;
        let connects = || std::net::TcpStream::connect(address).is_ok();
        ensure!(net.client.enter(connects)? && !elsewhere.enter(connects)?);
    }
    Ok(())
}

fn topology_is_fast() -> Result<()> {
    let start = Instant::now();
    drop(Topology::new()?);
    // Generous: other scenarios run beside it. Alone it takes a tenth of this.
    ensure!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    Ok(())
}

fn real_clients_see_the_errno() -> Result<()> {
    let net = Topology::new()?;
    let unreachable = Behaviour::Icmp { kind: IcmpKind::HostUnreachable, from: Sender::Router };
    let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n".to_vec();
    let _remote =
        Remote::start(&net.router, &[(1, Behaviour::Silent), (2, unreachable), (3, Behaviour::Respond(answer))])?;
    for family in Family::BOTH {
        let [silent, unreachable, http, closed] = [1, 2, 3, 4].map(|port| family.remote(port));
        net.client.run(&curl(http, 3.0))?.exits(0)?.says("hi")?;
        net.client.run(&curl(closed, 3.0))?.exits(7)?;
        net.client.run(&curl(silent, 0.4))?.exits(28)?;
        net.client.run(&nc(http, 2))?.exits(0)?.says("succeeded")?;
        net.client.run(&nc(closed, 2))?.exits(1)?.says("refused")?;
        net.client.run(&nc(silent, 1))?.exits(1)?.says("timed out")?;
        net.client.run(&python(closed, None, 0))?.exits(1)?.says("ECONNREFUSED")?;
        net.client.run(&python(unreachable, None, 0))?.exits(1)?.says("EHOSTUNREACH")?;
        net.client.run(&python(silent, Some(0.3), 0))?.exits(1)?.says("timeout")?;
        net.client.run(&python(http, Some(2.0), 5))?.exits(0)?.says("connected")?;
        let grandchild = clients::grandchild(&clients::connect(closed)?);
        net.client.run(&grandchild)?.exits(1)?.says("connect: ECONNREFUSED")?;
    }
    Ok(())
}

fn firewall_drop_and_reject() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(
        "table inet fw { chain out { type filter hook output priority 0
            tcp dport 1 drop
            tcp dport 2 reject with tcp reset
            tcp dport 3 reject with icmpx admin-prohibited
          }
        }",
    )?;
    for family in Family::BOTH {
        let _echo = servers::echo(&net.server, family.server(4))?;
        let connect = |port: u16| client(&net.client, &format!("connect={},400", family.server(port)));
        connect(1)?.exits(3)?.says("gave up after 400 ms")?;
        connect(2)?.says("connect: ECONNREFUSED")?;
        connect(3)?.exits(1)?;
        connect(4)?.exits(0)?;
    }
    Ok(())
}

fn remote_syn() -> Result<()> {
    let net = Topology::new()?;
    let ports = [
        (1, Behaviour::Silent),
        (2, Behaviour::AnswerLate(Duration::from_millis(500))),
        (3, Behaviour::IgnoreSyns(1)),
        (4, Behaviour::Reset { ttl: 40 }),
        (5, Behaviour::ChallengeAck),
        (6, Behaviour::Accept),
    ];
    let remote = Remote::start(&net.router, &ports)?;
    net.client.syn_retries(1)?;
    for family in Family::BOTH {
        let to = |port: u16| family.remote(port);
        client(&net.client, &format!("connect={}", to(1)))?.says("connect: ETIMEDOUT")?;
        client(&net.client, &format!("connect={},200", to(2)))?.says("gave up")?;
        let late = client(&net.client, &format!("connect={} send=5 recv=5", to(2)))?;
        late.says("received 5")?;
        ensure!(late.elapsed >= Duration::from_millis(500), "{late}");
        client(&net.client, &format!("connect={} send=5 recv=5", to(3)))?.says("received 5")?;
        client(&net.client, &format!("connect={}", to(4)))?.says("connect: ECONNREFUSED")?;
        client(&net.client, &format!("connect={},500", to(5)))?.says("gave up")?;
        client(&net.client, &format!("connect={} send=60000 recv=60000 shutdown recv", to(6)))?
            .says("received 60000")?
            .says("received 0, then end")?;
    }
    ensure!(remote.syns(1).len() == 4, "two SYNs in each family\n{}", remote.dump());
    Ok(())
}

fn remote_established() -> Result<()> {
    let net = Topology::new()?;
    let idle = Duration::from_millis(300);
    let ports = [
        (1, Behaviour::HandshakeThenReset { after_data: 0, ttl: None }),
        (2, Behaviour::HandshakeThenReset { after_data: 10, ttl: Some(33) }),
        (3, Behaviour::HandshakeThenFin { after_data: 0 }),
        (4, Behaviour::HandshakeThenFin { after_data: 10 }),
        (5, Behaviour::ForgetsIdle { after: idle, reset: true }),
        (6, Behaviour::ForgetsIdle { after: idle, reset: false }),
    ];
    let _remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run = |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
        run(1, "recv")?.says("recv: ECONNRESET")?;
        run(2, "send=10 recv")?.says("recv: ECONNRESET")?;
        run(3, "recv")?.says("received 0, then end")?;
        run(3, "recv send=10 sleep=100 send=10")?.says("send: EPIPE")?;
        run(4, "send=10 recv sleep=50 send=10 sleep=100 send=10")?.says("send: EPIPE")?;
        run(5, "send=10 recv=10 sleep=500 send=10 recv=10")?.says("recv: ECONNRESET")?;
        run(5, "send=10 recv=10 sleep=100 send=10 recv=10")?.exits(0)?;
        run(6, "timeout=500 send=10 recv=10 sleep=500 send=10 recv=10")?.says("recv: EAGAIN")?;
    }
    Ok(())
}

fn remote_size_and_loss() -> Result<()> {
    let net = Topology::new()?;
    let ports = [
        (1, Behaviour::MtuBlackhole { mtu: 1300 }),
        (2, Behaviour::PacketTooBig { mtu: 1300 }),
        (3, Behaviour::Lossy { every: 5 }),
    ];
    let remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run = |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
        run(1, "timeout=600 send=1000 recv=1000")?.exits(0)?;
        run(1, "timeout=600 send=5000 recv=5000")?.says("recv: EAGAIN")?;
        run(2, "timeout=3000 send=5000 recv=5000")?.says("received 5000")?;
        run(3, "timeout=3000 send=30000 shutdown recv")?.says("then end")?;
    }
    let lost = remote.seen().iter().filter(|seen| seen.packet.destination_port() == Some(3)).count();
    ensure!(lost > 40, "no retransmissions\n{}", remote.dump());
    Ok(())
}

fn remote_window_and_silence() -> Result<()> {
    let net = Topology::new()?;
    let ports = [
        (1, Behaviour::ZeroWindow { after_data: 5000 }),
        (2, Behaviour::HandshakeThenVanish { ack_data_bytes: 0 }),
        (3, Behaviour::HandshakeThenVanish { ack_data_bytes: 10 }),
    ];
    let remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run = |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
        run(1, "sndbuf=8192 timeout=500 send=500000")?.says("send: EAGAIN")?;
        run(2, "user-timeout=500 send=10 recv")?.says("recv: ETIMEDOUT")?;
        run(3, "keepalive=1,1,1 send=10 recv")?.says("recv: ETIMEDOUT")?;
    }
    let shut = |seen: &netdiag_tests::remote::Seen| {
        seen.sent && matches!(seen.packet.transport, Transport::Tcp { source: 1, window: 0, .. })
    };
    remote.wait_for(Duration::ZERO, shut)?;
    Ok(())
}

fn remote_icmp() -> Result<()> {
    let expected = [
        (1, IcmpKind::NetUnreachable, "ENETUNREACH", "ENETUNREACH"),
        (2, IcmpKind::HostUnreachable, "EHOSTUNREACH", "EHOSTUNREACH"),
        (3, IcmpKind::PortUnreachable, "ECONNREFUSED", "ECONNREFUSED"),
        (4, IcmpKind::NetProhibited, "ENETUNREACH", "EACCES"),
        (5, IcmpKind::HostProhibited, "EHOSTUNREACH", "EACCES"),
        (6, IcmpKind::AdminProhibited, "EHOSTUNREACH", "EACCES"),
        (7, IcmpKind::TimeExceeded, "EHOSTUNREACH", "EHOSTUNREACH"),
        (8, IcmpKind::PolicyFailed, "EHOSTUNREACH", "EACCES"),
        (9, IcmpKind::ProtocolUnreachable, "ENOPROTOOPT", "EPROTO"),
        (10, IcmpKind::RejectRoute, "ENETUNREACH", "EACCES"),
    ];
    let ports = expected.map(|(port, kind, ..)| {
        let from = if port == 3 { Sender::Peer } else { Sender::Router };
        (port, Behaviour::Icmp { kind, from })
    });
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &ports)?;
    for (port, _, v4, v6) in expected {
        for (family, errno) in Family::BOTH.into_iter().zip([v4, v6]) {
            let output = client(&net.client, &format!("connect={}", family.remote(port)))?;
            output.says(&format!("connect: {errno}"))?;
        }
    }
    let from_router = |seen: &netdiag_tests::remote::Seen| seen.packet.source == Family::V6.remote_router();
    remote.wait_for(Duration::ZERO, from_router)?;
    Ok(())
}

fn remote_udp() -> Result<()> {
    let net = Topology::new()?;
    let reversed: fn(&[u8]) -> Option<Vec<u8>> = |datagram| Some(datagram.iter().rev().copied().collect());
    // A connected UDP socket ignores "host unreachable" (net/ipv4/icmp.c, icmp_err_convert: not fatal).
    let prohibited = Behaviour::Icmp { kind: IcmpKind::AdminProhibited, from: Sender::Router };
    let ports = [(1, Behaviour::Silent), (2, Behaviour::Udp(reversed)), (3, prohibited), (4, Behaviour::Accept)];
    let _remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run = |port: u16| {
            let to = family.remote(port);
            client(&net.client, &format!("udp connect={to} timeout=300 send=9 recv=9"))
        };
        run(1)?.says("recv: EAGAIN")?;
        run(2)?.says("received 9")?;
        run(3)?.says(if family == Family::V4 { "recv: EHOSTUNREACH" } else { "recv: EACCES" })?;
        run(4)?.says("received 9")?;
        run(5)?.says("recv: ECONNREFUSED")?;
    }
    Ok(())
}

fn remote_ttl_and_record() -> Result<()> {
    let net = Topology::new()?;
    let ports = [(1, Behaviour::Accept), (2, Behaviour::Reset { ttl: 200 })];
    let remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        client(&net.client, &format!("connect={} linger0 close", family.remote(1)))?.exits(0)?;
        client(&net.client, &format!("connect={}", family.remote(2)))?.exits(1)?;
        let address = family.remote(1).ip();
        let limit = Duration::from_secs(2);
        let answer = remote.wait_for(limit, |seen| seen.sent && seen.packet.source == address)?;
        ensure!(answer.packet.ttl == REMOTE_TTL && answer.packet.flags().syn, "{}", answer.packet);
        let reset = remote.wait_for(limit, |seen| !seen.sent && seen.packet.destination == address && seen.packet.flags().rst)?;
        ensure!(reset.packet.ttl == 63, "through one router: {}", reset.packet);
    }
    ensure!(remote.seen().iter().any(|seen| seen.sent && seen.packet.ttl == 200), "{}", remote.dump());
    Ok(())
}

fn remote_on_the_clients_own_link() -> Result<()> {
    let host = Namespace::new("alone")?;
    let remote = Remote::start(&host, &[(1, Behaviour::Accept)])?;
    for family in Family::BOTH {
        client(&host, &format!("connect={} send=5 recv=5", family.remote(1)))?.says("received 5")?;
    }
    drop(remote);
    host.run(&["ip", "link", "show", Remote::DEVICE])?.exits(1)?;
    Ok(())
}

fn servers_misbehave() -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    for family in Family::BOTH {
        let full = family.server(1);
        let _full = servers::never_accepts(&net.server, full, 1)?;
        let queue = client(&net.client, &format!("timeout=100 many=3,{full}"))?;
        queue.says("after 2")?;

        let unread = family.server(2);
        let _unread = servers::closes_unread(&net.server, unread, 10)?;
        client(&net.client, &format!("connect={unread} send=10 recv"))?.says("recv: ECONNRESET")?;

        let elsewhere = family.loopback(3);
        let _elsewhere = servers::echo(&net.server, elsewhere)?;
        client(&net.client, &format!("connect={}", family.server(3)))?.says("connect: ECONNREFUSED")?;
        client(&net.server, &format!("connect={elsewhere}"))?.exits(0)?;

        let exits = family.server(4);
        let _exits = servers::steps(&net.server, &format!("bind={exits} listen=1 accept await-unread=5 exit=0"))?;
        client(&net.client, &format!("connect={exits} send=5 recv"))?.says("recv: ECONNRESET")?;
    }
    Ok(())
}

fn local_failures() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let to = family.server(1);
        let _server = servers::echo(&net.server, to)?;
        let foreign = family.nobody(0);
        client(&net.client, &format!("bind={foreign}"))?.says("bind: EADDRNOTAVAIL")?;
        let taken = std::net::SocketAddr::new(family.client(), 5000);
        let _holder = servers::never_accepts(&net.client, taken, 1)?;
        client(&net.client, &format!("bind={taken}"))?.says("bind: EADDRINUSE")?;
        client(&net.client, &format!("uid=65534 bind={}", family.any(80)))?.says("bind: EACCES")?;
        client(&net.client, &format!("nofile=5 many=5,{to}"))?.says("many: EMFILE")?;
        net.client.sysctl("net.ipv4.ip_local_port_range", "40000 40003")?;
        client(&net.client, &format!("many=5,{to}"))?.says("many: EADDRNOTAVAIL after 4")?;
        net.client.sysctl("net.ipv4.ip_local_port_range", "32768 60999")?;
    }
    Ok(())
}

fn routes_fail() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip_batch(
        "route add blackhole 203.0.113.0/26
         route add unreachable 203.0.113.64/26
         route add prohibit 203.0.113.128/26",
    )?;
    let connect = |to: &str| client(&net.client, &format!("connect={to}"));
    connect("203.0.113.1:1")?.says("connect: EINVAL")?;
    connect("203.0.113.65:1")?.says("connect: EHOSTUNREACH")?;
    connect("203.0.113.129:1")?.says("connect: EACCES")?;
    net.client.sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "100")?;
    net.client.sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "100")?;
    for family in Family::BOTH {
        connect(&family.absent_neighbour(1).to_string())?.says("connect: EHOSTUNREACH")?;
    }
    net.client.ip("route del default")?;
    net.client.ip("-6 route del default")?;
    connect("203.0.113.200:1")?.says("connect: ENETUNREACH")?;
    connect(&Family::V6.server(1).to_string())?.says("connect: ENETUNREACH")?;
    Ok(())
}

fn tc_hooks_are_seen() -> Result<()> {
    let namespace = Namespace::new("hooks")?;
    ensure!(hooks::present(Some(&namespace))?.is_empty());
    namespace.tc("qdisc add dev lo clsact")?;
    ensure!(hooks::present(Some(&namespace))?.len() == 1);
    Ok(())
}
