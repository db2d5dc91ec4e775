//! The answer comes back, and this machine throws it away.

use anyhow::{Result, ensure};
use netdiag_tests::clients::{connect, curl, nc};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::{servers, tools};

use super::{PATIENCE, chain, happened_in, run_steps, sure};

const DROP: &str = "tcp sport 8080 drop";

pub fn input(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&chain(family.nft(), "input", DROP))?;
    let _server = servers::http(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&curl(family.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.client)?
        .has("/firewall/hook", "input")?
        .has("/where/stage", "netfilter")?
        .has("/firewall/family", family.nft())?
        .has("/firewall/rule", DROP)?
        .has("/firewall/exact", true)?
        .mentions("/next_steps/0/command", "nft delete rule")?
        .mentions("/next_steps/1/command", "ct state established,related accept")?;
    Ok(())
}

/// Connection tracking was kept from seeing the SYN, so the answer belongs to nothing that it knows.
pub fn conntrack_invalid() -> Result<()> {
    tools::load_conntrack_netlink();
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    net.client.nft(
        "table inet fw {
            chain out { type filter hook output priority raw; tcp dport 8080 notrack; }
            chain in { type filter hook input priority filter; ct state invalid drop; }
        }",
    )?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let report = net.netdiag_run(&connect(Family::V4.server(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("timeout.reply-dropped")?.certain()?;
    let diagnosis = happened_in(diagnosis.errno(Some("ETIMEDOUT"))?, &net.client)?;
    diagnosis.has("/firewall/hook", "input")?.mentions("/explanation", "it did not see the SYN")?;
    Ok(())
}

/// The answer acknowledges what was never sent. (What is below the window connection tracking lets pass to TCP.)
pub fn conntrack_window() -> Result<()> {
    tools::load_conntrack_netlink();
    let net = Topology::new()?;
    net.client.nft(&chain("inet", "input", "ct state invalid drop"))?;
    net.client.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::AcknowledgesTooMuch)])?;
    // Before the SYN is sent again: connection tracking may let the next answer pass to TCP, which drops it too.
    let report = run_steps(&net, &format!("tcp connect={},800", Family::V4.remote(80)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    let diagnosis = happened_in(diagnosis, &net.client)?.mentions("/explanation", "knows this connection")?;
    diagnosis.mentions("/explanation", "outside of the window (checksums are not looked at)")?;
    Ok(())
}

pub fn output_of_the_server(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("inet", "output", DROP))?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let report = net.netdiag_run(&nc(family.server(8080), 2))?;
    let diagnosis = report.exits(1)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.server)?.has("/firewall/hook", "output")?;
    Ok(())
}

pub fn forward_on_the_way_back() -> Result<()> {
    let net = Topology::new()?;
    net.router.nft(&chain("inet", "forward", "iifname to-server tcp flags syn,ack / syn,ack drop"))?;
    let _server = servers::http(&net.server, Family::V6.server(8080))?;
    let report = net.netdiag_run(&curl(Family::V6.server(8080), PATIENCE))?;
    let diagnosis = report.exits(28)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.router)?.has("/firewall/hook", "forward")?;
    Ok(())
}

/// Nobody listens, and the RST that would say so is dropped where it is made.
pub fn rst_dropped(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.nft(&chain("inet", "output", "tcp flags & rst == rst drop"))?;
    let report = run_steps(&net, &format!("tcp connect={},1400", family.server(8080)))?;
    let diagnosis = report.exits(3)?.the_only("timeout.reply-dropped")?.errno(None)?;
    happened_in(sure(diagnosis)?, &net.server)?.has("/firewall/hook", "output")?;
    Ok(())
}

/// The answer is damaged on its way: its checksum is wrong when it arrives.
pub fn bad_checksum(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, Behaviour::Accept)])?;
    net.router.nft(&chain("inet", "forward", "tcp sport 80 @th,128,16 set 0x1234"))?;
    let report = run_steps(&net, &format!("tcp connect={},1400", family.remote(80)))?;
    ensure!(remote.seen().iter().any(|seen| seen.sent), "no answer:\n{}", remote.dump());
    let diagnosis = report.exits(3)?.the_only("timeout.reply-dropped")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.client)?.has("/where/stage", "tcp")?.has("/firewall", ())?;
    diagnosis.mentions("/explanation", "checksum")?;
    Ok(())
}

pub fn first_answer_only() -> Result<()> {
    let net = Topology::new()?;
    let rules = "tcp sport 8080 tcp flags syn,ack / syn,ack limit rate 1/hour burst 1 packets counter drop";
    net.client.nft(&chain("inet", "input", rules))?;
    let _server = servers::http(&net.server, Family::V4.server(8080))?;
    net.netdiag_run(&curl(Family::V4.server(8080), 4.0))?.exits(0)?.nothing()?;
    net.client.run(&["nft", "list", "ruleset"])?.says("counter packets 1 ")?;
    Ok(())
}

/// What the other server says is dropped at the same time, and this one says nothing.
pub fn replies_of_another_server() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    net.client.nft(&chain("inet", "input", DROP))?;
    let _server = servers::echo(&net.server, Family::V4.server(8080))?;
    let _noise = net.client.spawn(&connect(Family::V4.server(8080))?)?;
    let report = run_steps(&net, &format!("tcp connect={},1400", Family::V4.remote(80)))?;
    sure(report.exits(3)?.the_only("timeout.no-reply")?)?.has("/firewall", ())?;
    Ok(())
}
