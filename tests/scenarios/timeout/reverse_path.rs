//! Routing there and back do not agree, and rp_filter minds.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::curl;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::servers;

use super::{chain, happened_in, run_steps, sure};

/// The client's second address, which the router would look for behind the server.
const LOST_ADDRESS: &str = "10.99.0.2";

fn lost_address(net: &Topology) -> Result<()> {
    net.client.ip(&format!("addr add {LOST_ADDRESS}/32 dev eth0"))?;
    net.router.ip("route add 10.99.0.0/24 via 10.77.2.2")?;
    // The filter minds ARP requests too: have the neighbours known before.
    let gateway = SocketAddr::new(Family::V4.router(), 9);
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    ensure!(net.client.enter(|| TcpStream::connect(gateway).is_err_and(refused))?, "the router is not there");
    net.router.sysctl("net.ipv4.conf.to-client.rp_filter", "1")
}

/// What the server sends to the client takes a second link, `eth1`; the client's own packets take `eth0`.
fn answers_on_eth1(net: &Topology) -> Result<()> {
    net.router.ip(&format!(
        "link add to-client2 index 23 type veth peer name eth1 index 13 netns {}",
        net.client.name()
    ))?;
    net.client.ip_batch(
        "addr add 10.77.3.2/24 dev eth1
         addr add fd77:3::2/64 dev eth1 nodad
         link set eth1 up",
    )?;
    net.router.ip_batch(
        "addr add 10.77.3.1/24 dev to-client2
         addr add fd77:3::1/64 dev to-client2 nodad
         link set to-client2 up
         route add 10.77.1.2/32 via 10.77.3.2
         route add fd77:1::2/128 via fd77:3::2",
    )
}

/// Without a filter the second way carries the answers: the network is sound.
fn works_before(net: &Topology, family: Family) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3);
    let attempt = || TcpStream::connect_timeout(&family.server(8080), Duration::from_millis(300)).is_ok();
    while !net.client.enter(attempt)? {
        ensure!(Instant::now() < deadline, "the second link carries nothing:\n{}", net.client.state());
    }
    Ok(())
}

pub fn syn_at_the_router() -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    lost_address(&net)?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let steps = format!("tcp bind={LOST_ADDRESS}:0 connect={}", Family::V4.server(8080));
    let report = run_steps(&net, &steps)?;
    let diagnosis = report.exits(1)?.the_only("timeout.reverse-path-filter")?.certain()?;
    let diagnosis = happened_in(diagnosis.errno(Some("ETIMEDOUT"))?, &net.router)?;
    diagnosis.has("/where/interface", "to-client")?.has("/where/stage", "route")?.has("/firewall", ())?;
    diagnosis.mentions("/explanation", "The answer would leave by to-server: `10.99.0.0/24 via 10.77.2.2")?;
    Ok(())
}

pub fn answer_at_the_client() -> Result<()> {
    let net = Topology::new()?;
    answers_on_eth1(&net)?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    works_before(&net, Family::V4)?;
    net.client.sysctl("net.ipv4.conf.eth1.rp_filter", "1")?;
    let report = run_steps(&net, &format!("tcp connect={},1400", Family::V4.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.reverse-path-filter")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.client)?.has("/where/interface", "eth1")?;
    Ok(())
}

/// A default route would take the answer: that is enough for loose mode.
pub fn loose() -> Result<()> {
    let net = Topology::new()?;
    answers_on_eth1(&net)?;
    let server = Family::V4.server(8080);
    let _server = servers::echo(&net.server, server)?;
    works_before(&net, Family::V4)?;
    net.client.sysctl("net.ipv4.conf.eth1.rp_filter", "2")?;
    run_steps(&net, &format!("tcp connect={server},2000 send=9 recv=9 close"))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn strict_and_symmetric() -> Result<()> {
    let net = Topology::new()?;
    for namespace in net.namespaces() {
        namespace.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
    }
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 2.0))?.exits(0)?.nothing()?;
    Ok(())
}

/// IPv6 has no rp_filter: there a rule does the same.
pub fn v6_by_a_rule() -> Result<()> {
    let net = Topology::new()?;
    answers_on_eth1(&net)?;
    let _server = servers::echo(&net.server, Family::V6.server(8080))?;
    works_before(&net, Family::V6)?;
    net.client.nft(&chain("ip6", "prerouting", "meta l4proto tcp fib saddr . iif oif missing drop"))?;
    let report = run_steps(&net, &format!("tcp connect={},1400", Family::V6.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.client)?.has("/firewall/hook", "prerouting")?;
    Ok(())
}

/// Another client's packets fail the check; this one's are only not answered.
pub fn another_flow() -> Result<()> {
    let net = Topology::new()?;
    lost_address(&net)?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let address = Family::V4.remote(80);
    let noise = netdiag_tests::clients::steps(&format!("tcp bind={LOST_ADDRESS}:0 connect={address}"))?;
    let _noise = net.client.spawn(&noise)?;
    let report = run_steps(&net, &format!("tcp connect={address},1400"))?;
    sure(report.exits(3)?.the_only("timeout.no-reply")?)?;
    Ok(())
}
