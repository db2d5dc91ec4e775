//! The harness proves itself, without netdiag: each kind of trouble must be the trouble it claims.

mod driven;
mod remote;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, curl, nc, python};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::Output;
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::{hooks, servers};

const TUN: &[Need] = &[Need::Tun];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::harness("topology_carries_traffic", topology_carries_traffic),
    Scenario::harness("topology_is_fast", topology_is_fast),
    Scenario::harness("real_clients_see_the_errno", real_clients_see_the_errno).needs(&[
        Need::Tool("curl"),
        Need::Tool("nc"),
        Need::Python,
        Need::Tun,
    ]),
    Scenario::harness("firewall_drop_and_reject", firewall_drop_and_reject).needs(&[Need::Nftables]),
    Scenario::harness("remote_syn", remote::syn).needs(TUN),
    Scenario::harness("remote_established", remote::established).needs(TUN),
    Scenario::harness("remote_size_and_loss", remote::size_and_loss).needs(TUN),
    Scenario::harness("remote_window_and_silence", remote::window_and_silence).needs(TUN),
    Scenario::harness("remote_icmp", remote::icmp).needs(TUN),
    Scenario::harness("remote_udp", remote::udp).needs(TUN),
    Scenario::harness("remote_ttl_and_record", remote::ttl_and_record).needs(TUN),
    Scenario::harness("remote_on_the_clients_own_link", remote::on_the_clients_own_link).needs(TUN),
    Scenario::harness("servers_misbehave", servers_misbehave),
    Scenario::harness("local_failures", local_failures),
    Scenario::harness("routes_fail", routes_fail),
    Scenario::harness("tc_hooks_are_seen", tc_hooks_are_seen),
    Scenario::harness("netdiag_run_is_driven", driven::run_is_driven),
    Scenario::harness("netdiag_watch_is_driven", driven::watch_is_driven),
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
        client(&net.client, &format!("connect={address} send=9000 recv=9000 close"))?
            .says("received 9000")?;
        client(&net.client, &format!("udp connect={address} timeout=2000 send=9 recv=9"))?
            .says("received 9")?;
        client(&net.client, &format!("churn=50,{address}"))?.exits(0)?;
        let connects = || std::net::TcpStream::connect(address).is_ok();
        ensure!(net.client.enter(connects)? && !elsewhere.enter(connects)?);
    }
    Ok(())
}

fn topology_is_fast() -> Result<()> {
    let start = Instant::now();
    drop(Topology::new()?);
    // Alone it takes 40 ms; emulated machines and other scenarios beside it make it slower.
    ensure!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    Ok(())
}

fn real_clients_see_the_errno() -> Result<()> {
    let net = Topology::new()?;
    let unreachable = Behaviour::Icmp { kind: IcmpKind::HostUnreachable, from: Sender::Router };
    let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n".to_vec();
    let _remote = Remote::start(
        &net.router,
        &[(1, Behaviour::Silent), (2, unreachable), (3, Behaviour::Respond(answer))],
    )?;
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
        let connect =
            |port: u16, ms: u16| client(&net.client, &format!("connect={},{ms}", family.server(port)));
        connect(1, 400)?.exits(3)?.says("gave up after 400 ms")?;
        connect(2, 400)?.says("connect: ECONNREFUSED")?;
        // The first error may come while connect() holds the socket, and then counts for nothing
        // (tcp_v6_err: sk_err_soft); the one for the retransmitted SYN, 1 s later, ends it.
        connect(3, 3000)?.exits(1)?;
        connect(4, 400)?.exits(0)?;
    }
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
        let _exits =
            servers::steps(&net.server, &format!("bind={exits} listen=1 accept await-unread=5 exit=0"))?;
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
