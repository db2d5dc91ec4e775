//! The remote host does what each behaviour says, as a real kernel sees it.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::remote::{Behaviour, IcmpKind, REMOTE_TTL, Remote, Seen, Sender, Transport};

use super::client;

pub fn syn() -> Result<()> {
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

pub fn established() -> Result<()> {
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
        let run =
            |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
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

pub fn size_and_loss() -> Result<()> {
    let net = Topology::new()?;
    let ports = [
        (1, Behaviour::MtuBlackhole { mtu: 1300 }),
        (2, Behaviour::PacketTooBig { mtu: 1300 }),
        (3, Behaviour::Lossy { every: 5 }),
    ];
    let remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run =
            |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
        run(1, "timeout=600 send=1000 recv=1000")?.exits(0)?;
        run(1, "timeout=600 send=5000 recv=5000")?.says("recv: EAGAIN")?;
        run(2, "timeout=3000 send=5000 recv=5000")?.says("received 5000")?;
        run(3, "timeout=3000 send=30000 shutdown recv")?.says("then end")?;
    }
    let lost = remote.seen().iter().filter(|seen| seen.packet.destination_port() == Some(3)).count();
    ensure!(lost > 40, "no retransmissions\n{}", remote.dump());
    Ok(())
}

pub fn window_and_silence() -> Result<()> {
    let net = Topology::new()?;
    let ports = [
        (1, Behaviour::ZeroWindow { after_data: 5000 }),
        (2, Behaviour::HandshakeThenVanish { ack_data_bytes: 0 }),
        (3, Behaviour::HandshakeThenVanish { ack_data_bytes: 10 }),
    ];
    let remote = Remote::start(&net.router, &ports)?;
    for family in Family::BOTH {
        let run =
            |port: u16, rest: &str| client(&net.client, &format!("connect={} {rest}", family.remote(port)));
        run(1, "sndbuf=8192 timeout=500 send=500000")?.says("send: EAGAIN")?;
        run(2, "user-timeout=500 send=10 recv")?.says("recv: ETIMEDOUT")?;
        run(3, "keepalive=1,1,1 send=10 recv")?.says("recv: ETIMEDOUT")?;
    }
    let shut = |seen: &Seen| {
        seen.sent && matches!(seen.packet.transport, Transport::Tcp { source: 1, window: 0, .. })
    };
    remote.wait_for(Duration::ZERO, shut)?;
    Ok(())
}

pub fn icmp() -> Result<()> {
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
    let from_router = |seen: &Seen| seen.packet.source == Family::V6.remote_router();
    remote.wait_for(Duration::ZERO, from_router)?;
    Ok(())
}

pub fn udp() -> Result<()> {
    let net = Topology::new()?;
    let reversed: fn(&[u8]) -> Option<Vec<u8>> = |datagram| Some(datagram.iter().rev().copied().collect());
    // A connected UDP socket ignores "host unreachable" (net/ipv4/icmp.c, icmp_err_convert: not fatal).
    let prohibited = Behaviour::Icmp { kind: IcmpKind::AdminProhibited, from: Sender::Router };
    let ports =
        [(1, Behaviour::Silent), (2, Behaviour::Udp(reversed)), (3, prohibited), (4, Behaviour::Accept)];
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

pub fn ttl_and_record() -> Result<()> {
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
        let reset = remote.wait_for(limit, |seen| {
            !seen.sent && seen.packet.destination == address && seen.packet.flags().rst
        })?;
        ensure!(reset.packet.ttl == 63, "through one router: {}", reset.packet);
    }
    ensure!(remote.seen().iter().any(|seen| seen.sent && seen.packet.ttl == 200), "{}", remote.dump());
    Ok(())
}

pub fn on_the_clients_own_link() -> Result<()> {
    let host = Namespace::new("alone")?;
    let remote = Remote::start(&host, &[(1, Behaviour::Accept)])?;
    for family in Family::BOTH {
        client(&host, &format!("connect={} send=5 recv=5", family.remote(1)))?.says("received 5")?;
    }
    drop(remote);
    host.run(&["ip", "link", "show", Remote::DEVICE])?.exits(1)?;
    Ok(())
}
