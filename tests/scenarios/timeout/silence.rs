//! The SYN leaves, and the answer does not come, or comes too late for the client.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::{connect, curl, grandchild, python};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::servers;

use super::{run_shell, run_steps, sure};

const LATE: Behaviour = Behaviour::AnswerLate(Duration::from_millis(800));

pub fn no_reply(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&curl(family.remote(80), 2.5))?;
    let diagnosis = sure(report.exits(28)?.the_only("timeout.no-reply")?)?.errno(None)?;
    diagnosis.has("/process/comm", "curl")?.has("/where/interface", "eth0")?.has("/firewall", ())?;
    diagnosis.has("/connection/peer/address", family.remote(80).ip().to_string())?;
    ensure!(remote.syns(80).len() >= 2, "no retransmission:\n{}", remote.dump());
    Ok(())
}

pub fn kernel_gives_up(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&python(family.remote(80), None, 0))?;
    sure(report.exits(1)?.the_only("timeout.no-reply")?)?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

pub fn shells_grandchild() -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&grandchild(&connect(Family::V4.remote(80))?))?;
    let diagnosis = sure(report.exits(1)?.the_only("timeout.no-reply")?)?.errno(Some("ETIMEDOUT"))?;
    diagnosis.has("/process/comm", "nd-client")?;
    Ok(())
}

pub fn server_answers() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::http(&net.server, Family::V6.server(8080))?;
    net.netdiag_run(&curl(Family::V6.server(8080), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn first_syn_lost() -> Result<()> {
    let net = Topology::new()?;
    let answer = Behaviour::Respond(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let ports = [(80, Behaviour::IgnoreSyns(1)), (81, answer)];
    let remote = Remote::start(&net.router, &ports)?;
    let steps = format!("tcp connect={} send=5 recv=5 close", Family::V4.remote(80));
    run_steps(&net, &steps)?.exits(0)?.nothing()?;
    ensure!(remote.syns(80).len() == 2, "the first SYN was not lost:\n{}", remote.dump());
    net.netdiag_run(&curl(Family::V6.remote(81), 2.5))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn late_but_in_time() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, LATE)])?;
    let steps = format!("tcp connect={},2000 send=5 recv=5 close", Family::V6.remote(80));
    run_steps(&net, &steps)?.exits(0)?.nothing()?;
    Ok(())
}

pub fn gave_up(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&curl(family.remote(80), 0.5))?;
    let diagnosis = sure(report.exits(28)?.the_only("timeout.gave-up")?)?.errno(None)?;
    diagnosis.has("/where/stage", "application")?.mentions("/summary", "curl")?;
    ensure!(remote.syns(80).len() == 1, "retransmitted:\n{}", remote.dump());
    Ok(())
}

/// The answer comes 400 ms after the client lost patience; its parent is still there.
pub fn answer_comes_after(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, LATE)])?;
    let script = format!("$1 tcp connect={},400; code=$?; sleep 1; exit $code", family.remote(80));
    let report = run_shell(&net, &script)?;
    report.exits(3)?.the_only("timeout.gave-up")?.certain()?.errno(None)?;
    Ok(())
}

pub fn killed_while_connecting() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let script = format!("$1 tcp connect={} & sleep 0.4; kill -9 $!; wait $!", Family::V4.remote(80));
    let report = run_shell(&net, &script)?;
    sure(report.exits(137)?.the_only("timeout.gave-up")?)?.errno(None)?.has("/process/comm", "nd-client")?;
    Ok(())
}

pub fn left_after_a_retransmission() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(80, Behaviour::Silent)])?;
    let report = net.netdiag_run(&curl(Family::V4.remote(80), 1.4))?;
    sure(report.exits(28)?.the_only("timeout.no-reply")?)?.errno(None)?;
    Ok(())
}

pub fn short_limit_but_fast_peer() -> Result<()> {
    let net = Topology::new()?;
    let answer = Behaviour::AnswerLate(Duration::from_millis(200));
    let _remote = Remote::start(&net.router, &[(80, answer)])?;
    let steps = format!("tcp connect={},600 send=5 recv=5 close", Family::V4.remote(80));
    run_steps(&net, &steps)?.exits(0)?.nothing()?;
    Ok(())
}
