//! What drops in silence and is no firewall: programs of tc, XDP and control groups, queues, a router that does not
//! forward.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use netdiag_tests::dropping::{self, Port};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::Diagnosis;
use netdiag_tests::{bpf, clients, foreign, hooks, servers};
use nix::net::if_::if_nametoindex;

use super::{chain, happened_in, run_steps, sure};
use crate::local::cgroup::{Forbidding, INET_EGRESS, INET_INGRESS};

const BPF: &str = "timeout.bpf-drop";

/// One SYN, one retransmission.
fn impatient(address: SocketAddr) -> String {
    format!("tcp connect={address},1400")
}

/// Requires that the program is named, and this process as the one that holds it.
fn names_the_program(diagnosis: Diagnosis<'_>) -> Result<Diagnosis<'_>> {
    let diagnosis = diagnosis
        .has("/programs/0/name", "nd_deny")?
        .has("/programs/0/uid", 0)?
        .has("/programs/0/holders/0/pid", std::process::id())?
        .mentions("/summary", "nd_deny[")?;
    ensure!(diagnosis.at("/programs/1").is_null(), "one program, not several: {:#}", diagnosis.value);
    Ok(diagnosis)
}

fn inside<T: Send>(
    namespace: &Namespace,
    interface: &str,
    work: impl FnOnce(u32) -> Result<T> + Send,
) -> Result<T> {
    namespace.enter(|| work(if_nametoindex(interface)?))?
}

fn filter(namespace: &Namespace, interface: &str, way: &str, program: &OwnedFd) -> Result<()> {
    namespace.tc(&format!("qdisc add dev {interface} clsact"))?;
    foreign::add_filter(namespace, interface, way, program)
}

pub fn tc_filter(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_tc(family, Port::Destination(8080))?;
    filter(&net.client, "eth0", "egress", &program)?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = run_steps(&net, &impatient(family.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only(BPF)?.certain()?.errno(None)?;
    let diagnosis = happened_in(names_the_program(diagnosis)?, &net.client)?;
    diagnosis.has("/where/stage", "tc")?.has("/where/interface", "eth0")?;
    diagnosis.has("/firewall/engine", "bpf")?.has("/firewall/hook", "egress")?;
    diagnosis.mentions("/programs/0/attached", "tc filter pref")?;
    Ok(())
}

/// By a TCX link; where the kernel has none, by a filter.
pub fn tcx_of_the_router() -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_tc(Family::V4, Port::Destination(8080))?;
    let mut link = None;
    if hooks::has_tcx() {
        let attach = |index| bpf::link_to_interface(&program, index, foreign::TCX_INGRESS);
        link = Some(inside(&net.router, "to-client", attach)?);
    } else {
        filter(&net.router, "to-client", "ingress", &program)?;
    }
    let report = run_steps(&net, &impatient(Family::V4.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only(BPF)?.certain()?.errno(None)?;
    let diagnosis = happened_in(names_the_program(diagnosis)?, &net.router)?;
    diagnosis.has("/where/stage", "tc")?.has("/where/interface", "to-client")?;
    if link.is_some() {
        diagnosis.has("/programs/0/attached", "tcx ingress")?;
    }
    Ok(())
}

pub fn tc_drops_the_answer() -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_tc(Family::V4, Port::Source(8080))?;
    filter(&net.client, "eth0", "ingress", &program)?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let report = run_steps(&net, &impatient(Family::V4.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only(BPF)?.certain()?.errno(None)?;
    names_the_program(happened_in(diagnosis, &net.client)?)?.mentions("/summary", "answer")?;
    Ok(())
}

pub fn xdp_of_the_server(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_xdp(family, Port::Destination(8080))?;
    let attach = |index| bpf::link_as_generic_xdp(&program, index);
    let _link = inside(&net.server, "eth0", attach)?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = run_steps(&net, &impatient(family.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only(BPF)?.has("/confidence", "likely")?.errno(None)?;
    let diagnosis = happened_in(names_the_program(diagnosis)?, &net.server)?;
    diagnosis.has("/where/stage", "xdp")?.has("/programs/0/attached", "XDP, generic")?;
    Ok(())
}

pub fn control_group(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_group(family, Port::Destination(8080), INET_EGRESS)?;
    let group = Forbidding::by(&program, INET_EGRESS)?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let client = clients::steps(&impatient(family.server(8080)))?;
    let report = net.netdiag_run(&group.with(&client))?;
    let diagnosis = report.exits(3)?.the_only(BPF)?.certain()?.errno(None)?;
    let diagnosis = names_the_program(happened_in(diagnosis, &net.client)?)?;
    diagnosis.has("/where/stage", "cgroup-bpf")?.mentions("/programs/0/attached", &group.name())?;
    Ok(())
}

pub fn control_group_rejects_the_answer() -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_group(Family::V4, Port::Source(8080), INET_INGRESS)?;
    let group = Forbidding::by(&program, INET_INGRESS)?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let client = clients::steps(&impatient(Family::V4.server(8080)))?;
    let report = net.netdiag_run(&group.with(&client))?;
    let diagnosis = names_the_program(report.exits(3)?.the_only(BPF)?.errno(None)?)?;
    diagnosis.has("/confidence", "likely")?.has("/where/stage", "cgroup-bpf")?;
    Ok(())
}

/// Programs everywhere, and each lets this port pass.
pub fn another_port() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(8080);
    let tc = dropping::for_tc(Family::V4, Port::Destination(8081))?;
    filter(&net.client, "eth0", "egress", &tc)?;
    let xdp = dropping::for_xdp(Family::V4, Port::Destination(8081))?;
    let _link = inside(&net.server, "eth0", |index| bpf::link_as_generic_xdp(&xdp, index))?;
    let _server = servers::http(&net.server, address)?;
    net.netdiag_run(&clients::curl(address, 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn rule_behind_a_program() -> Result<()> {
    let net = Topology::new()?;
    let program = dropping::for_tc(Family::V4, Port::Destination(8081))?;
    filter(&net.client, "eth0", "egress", &program)?;
    net.client.nft(&chain("inet", "output", "tcp dport 8080 drop"))?;
    let report = run_steps(&net, &impatient(Family::V4.server(8080)))?;
    report.exits(3)?.the_only("timeout.firewall-drop")?.certain()?.has("/programs", ())?;
    Ok(())
}

/// The router has resolved the server, and the client the router: no question is asked later.
fn resolved(net: &Topology, family: Family) -> Result<()> {
    let refused = net.client.enter(|| TcpStream::connect(family.server(9)).is_err())?;
    ensure!(refused, "somebody listens on the discard port");
    Ok(())
}

/// A queue that has room for no packet.
pub fn queue(family: Family) -> Result<()> {
    let net = Topology::new()?;
    resolved(&net, family)?;
    net.router.tc("qdisc add dev to-server root pfifo limit 0")?;
    let report = run_steps(&net, &impatient(family.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.qdisc-drop")?.certain()?.errno(None)?;
    let diagnosis = happened_in(diagnosis, &net.router)?;
    diagnosis.has("/where/stage", "qdisc")?.has("/where/interface", "to-server")?;
    diagnosis.mentions("/summary", "pfifo")?.has("/firewall", ())?;
    Ok(())
}

pub fn queue_with_room() -> Result<()> {
    let net = Topology::new()?;
    net.router.tc("qdisc add dev to-server root pfifo limit 100")?;
    let address = Family::V6.server(8080);
    let _server = servers::http(&net.server, address)?;
    net.netdiag_run(&clients::curl(address, 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn no_forwarding(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let setting = if family == Family::V4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
    net.router.sysctl(setting, "0")?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = run_steps(&net, &impatient(family.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.forwarding-disabled")?.certain()?.errno(None)?;
    let diagnosis = happened_in(sure(diagnosis)?, &net.router)?;
    diagnosis.has("/where/stage", "route")?.has("/where/interface", "to-client")?;
    diagnosis.mentions("/next_steps/1/command", "sysctl -w")?;
    Ok(())
}

pub fn only_routers_forward() -> Result<()> {
    let net = Topology::new()?;
    for host in [&net.client, &net.server] {
        host.sysctl("net.ipv4.ip_forward", "0")?;
    }
    let address = Family::V4.server(8080);
    let _server = servers::http(&net.server, address)?;
    net.netdiag_run(&clients::curl(address, 2.5))?.exits(0)?.nothing()?;
    Ok(())
}
