//! Somebody on the way says no.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Watch};
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};
use netdiag_tests::{clients, servers};

use super::{broke_in, other_network, says};

const UNREACHABLE: &str = "unreachable.icmp-unreachable";
const PROHIBITED: &str = "unreachable.icmp-prohibited";

/// Port 80 of the remote host answers with this error.
fn remote(kind: IcmpKind, from: Sender) -> Result<(Topology, Remote)> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, Behaviour::Icmp { kind, from })])?;
    Ok((net, remote))
}

/// Certain, from the router near the remote host.
fn from_remote_router<'a>(diagnosis: Diagnosis<'a>, family: Family, errno: &str) -> Result<Diagnosis<'a>> {
    let diagnosis = diagnosis.certain()?.errno(Some(errno))?.has("/where/side", "path")?;
    says(diagnosis, &family.remote_router().to_string())
}

pub fn host(family: Family) -> Result<()> {
    let (net, _remote) = remote(IcmpKind::HostUnreachable, Sender::Router)?;
    let report = net.netdiag_run(&clients::connect(family.remote(80))?)?;
    from_remote_router(report.exits(1)?.the_only(UNREACHABLE)?, family, "EHOSTUNREACH")?;
    Ok(())
}

/// A `watch` of everything has tc nowhere yet when the answer comes, to the first SYN. Where functions cannot be hooked,
/// the errno is all there is: who said it stays open.
pub fn before_tc_watches(family: Family) -> Result<()> {
    let (net, _remote) = remote(IcmpKind::HostUnreachable, Sender::Router)?;
    let watch = Watch::start(&[&net.client], &[])?;
    net.client.run(&clients::connect(family.remote(80))?)?.exits(1)?;
    watch.wait_for(UNREACHABLE, Duration::from_secs(5))?;
    let report = watch.stop()?;
    let diagnosis = report.the_only(UNREACHABLE)?.errno(Some("EHOSTUNREACH"))?;
    let function = if family == Family::V4 { "icmp_unreach" } else { "icmpv6_notify" };
    let missing = diagnosis.at("/coverage/missing").as_array().context("no coverage")?;
    if missing.iter().any(|signal| signal == function) {
        let said = diagnosis.at("/confidence");
        ensure!(said != "certain", "certain without a sign of who said it\n{}", report.dump());
    } else {
        from_remote_router(diagnosis, family, "EHOSTUNREACH")?;
    }
    Ok(())
}

pub fn net(family: Family) -> Result<()> {
    let (net, _remote) = remote(IcmpKind::NetUnreachable, Sender::Router)?;
    let report = net.netdiag_run(&clients::curl(family.remote(80), 3.0))?;
    from_remote_router(report.exits(7)?.the_only(UNREACHABLE)?, family, "ENETUNREACH")?;
    Ok(())
}

/// TTL exceeded is EHOSTUNREACH too; the client does not block.
pub fn routing_loop(family: Family) -> Result<()> {
    let (net, _remote) = remote(IcmpKind::TimeExceeded, Sender::Router)?;
    let report = net.netdiag_run(&clients::steps(&format!("tcp connect={},2500", family.remote(80)))?)?;
    let diagnosis = from_remote_router(report.exits(1)?.the_only(UNREACHABLE)?, family, "EHOSTUNREACH")?;
    says(diagnosis, "loop")?;
    Ok(())
}

/// The router namespace of this machine has no default route.
pub fn router_without_route(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let target = if family == Family::V4 { "203.0.113.5:80" } else { "[2001:db8:113::5]:80" };
    let report = net.netdiag_run(&clients::grandchild(&clients::connect(target.parse()?)?))?;
    let diagnosis = report.exits(1)?.the_only(UNREACHABLE)?.certain()?.errno(Some("ENETUNREACH"))?;
    broke_in(diagnosis, &net.router)?;
    Ok(())
}

/// The same route at the client would be `unreachable.unreachable-route`.
pub fn unreachable_route_in_router() -> Result<()> {
    for family in Family::BOTH {
        let net = Topology::new()?;
        net.router.ip(&format!("route add unreachable {}", other_network(family)))?;
        let target = if family == Family::V4 { "203.0.113.5:80" } else { "[2001:db8:113::5]:80" };
        let report = net.netdiag_run(&clients::connect(target.parse()?)?)?;
        broke_in(report.exits(1)?.the_only(UNREACHABLE)?, &net.router)?;
    }
    Ok(())
}

fn of_port(report: &Report, port: u16) -> Result<&str> {
    let found = report.diagnoses.iter().find(|diagnosis| diagnosis["connection"]["peer"]["port"] == port);
    found
        .and_then(|found| found["code"].as_str())
        .with_context(|| format!("nothing for port {port}\n{}", report.dump()))
}

/// Two connections to one host at one time: one is answered by ICMP, one by nothing.
pub fn about_another_flow() -> Result<()> {
    let net = Topology::new()?;
    let unreachable = Behaviour::Icmp { kind: IcmpKind::HostUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent), (81, unreachable)])?;
    for family in Family::BOTH {
        let refused = clients::connect(family.remote(81))?.join(" ");
        let silent = clients::steps(&format!("tcp connect={},1800", family.remote(80)))?.join(" ");
        let script = format!("(sleep 0.2; {refused}) & {silent}; wait");
        let report = net.netdiag_run(&["sh", "-c", &script].map(str::to_owned))?;
        ensure!(of_port(&report, 81)? == UNREACHABLE, "{}", report.dump());
        ensure!(of_port(&report, 80)? == "timeout.no-reply", "{}", report.dump());
    }
    Ok(())
}

/// To an established connection such an error is advice: TCP goes on, and half a second later all is well.
pub fn a_short_reroute() -> Result<()> {
    let net = Topology::new()?;
    let server = Family::V4.server(8080);
    let _server = servers::echo(&net.server, server)?;
    let steps = format!("tcp connect={server} send=9 recv=9 sleep=600 send=9 recv=9 close");
    let client = clients::steps(&steps)?.join(" ");
    let (router, host) = (net.router.name(), server.ip());
    let script = format!(
        "{client} & sleep 0.3; ip -n {router} route add unreachable {host}; sleep 0.6
         ip -n {router} route del unreachable {host}; wait $!"
    );
    net.netdiag_run(&["sh", "-c", &script].map(str::to_owned))?.exits(0)?.nothing()?;
    Ok(())
}

/// Policy, not routing: whatever it is called, it is not "unreachable", and it was the router's firewall.
pub fn reject_rule(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.nft(
        "table inet fw { chain forwarded { type filter hook forward priority 0;
           tcp dport 8080 reject with icmpx type admin-prohibited; }; }",
    )?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    report.exits(1)?.never(UNREACHABLE)?;
    let [code] = report.codes()[..] else { anyhow::bail!("expected one diagnosis\n{}", report.dump()) };
    let errno = if family == Family::V4 { "EHOSTUNREACH" } else { "EACCES" };
    let diagnosis = report.the_only(code)?.errno(Some(errno))?.has("/where/stage", "netfilter")?;
    let named = diagnosis.has("/firewall/chain", "forwarded")?.has("/firewall/exact", true)?;
    broke_in(named.has("/firewall/hook", "forward")?, &net.router)?;
    Ok(())
}

/// A rule of the client itself answers with words of routing. Where ICMPv6 is sent has no tracepoint.
pub fn own_reject_rule() -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(
        "table inet fw { chain out { type filter hook output priority 0;
           tcp dport 8080 reject with icmpv6 type no-route; }; }",
    )?;
    let report = net.netdiag_run(&clients::curl(Family::V6.server(8080), 8.0))?;
    let diagnosis = report.exits(7)?.the_only(UNREACHABLE)?.certain()?.errno(Some("ENETUNREACH"))?;
    let named = diagnosis.has("/where/stage", "netfilter")?.has("/firewall/chain", "out")?;
    broke_in(named.has("/firewall/hook", "output")?, &net.client)?;
    Ok(())
}

/// "No route to host", says IPv4; "permission denied", says IPv6.
pub fn prohibited(family: Family) -> Result<()> {
    let (net, _remote) = remote(IcmpKind::AdminProhibited, Sender::Router)?;
    let report = net.netdiag_run(&clients::connect(family.remote(80))?)?;
    let errno = if family == Family::V4 { "EHOSTUNREACH" } else { "EACCES" };
    from_remote_router(report.exits(1)?.the_only(PROHIBITED)?, family, errno)?;
    Ok(())
}

pub fn net_prohibited_v4() -> Result<()> {
    let (net, _remote) = remote(IcmpKind::NetProhibited, Sender::Router)?;
    let report = net.netdiag_run(&clients::connect(Family::V4.remote(80))?)?;
    from_remote_router(report.exits(1)?.the_only(PROHIBITED)?, Family::V4, "ENETUNREACH")?;
    Ok(())
}

pub fn policy_v6() -> Result<()> {
    let (net, _remote) = remote(IcmpKind::PolicyFailed, Sender::Router)?;
    let report = net.netdiag_run(&clients::connect(Family::V6.remote(80))?)?;
    let diagnosis = from_remote_router(report.exits(1)?.the_only(PROHIBITED)?, Family::V6, "EACCES")?;
    says(diagnosis, "source")?;
    Ok(())
}

/// The firewall of the host itself, as firewalld has it.
pub fn prohibited_by_peer() -> Result<()> {
    let (net, _remote) = remote(IcmpKind::HostProhibited, Sender::Peer)?;
    for (family, errno) in [(Family::V4, "EHOSTUNREACH"), (Family::V6, "EACCES")] {
        let report = net.netdiag_run(&clients::curl(family.remote(80), 3.0))?;
        report.exits(7)?.the_only(PROHIBITED)?.certain()?.errno(Some(errno))?.has("/where/side", "peer")?;
    }
    Ok(())
}

/// A prohibit route of the router namespace answers; no firewall has a part in it.
pub fn prohibit_route_in_router(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.ip(&format!("route add prohibit {}", family.server(0).ip()))?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    let errno = if family == Family::V4 { "EHOSTUNREACH" } else { "EACCES" };
    let diagnosis = report.exits(1)?.the_only(PROHIBITED)?.certain()?.errno(Some(errno))?;
    broke_in(says(diagnosis, "prohibit")?, &net.router)?;
    Ok(())
}
