//! The connection was made, and then the other end fell silent.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::python;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::remote::{Behaviour, Remote};

use super::{run_steps, sure};

/// Acknowledges 100 bytes and is gone.
const VANISHES: Behaviour = Behaviour::HandshakeThenVanish { ack_data_bytes: 100 };
/// Gone when the handshake is done.
const GONE: Behaviour = Behaviour::HandshakeThenVanish { ack_data_bytes: 0 };

fn with_remote(behaviour: Behaviour) -> Result<(Topology, Remote)> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, behaviour)])?;
    Ok((net, remote))
}

pub fn peer_vanished(family: Family) -> Result<()> {
    let (net, _remote) = with_remote(VANISHES)?;
    net.client.sysctl("net.ipv4.tcp_retries2", "3")?;
    let steps = format!("tcp connect={} send=100 sleep=200 send=100 recv=1", family.remote(80));
    let report = run_steps(&net, &steps)?;
    ensure!(report.stdout.contains("recv: ETIMEDOUT"), "{}", report.dump());
    let diagnosis = report.exits(1)?.the_only("timeout.peer-vanished")?.certain()?;
    diagnosis.errno(Some("ETIMEDOUT"))?.has("/where/stage", "remote")?.has("/process/comm", "nd-client")?;
    Ok(())
}

pub fn python_loses_patience() -> Result<()> {
    let (net, _remote) = with_remote(GONE)?;
    let report = net.netdiag_run(&python(Family::V4.remote(80), Some(2.5), 100))?;
    let diagnosis = report.exits(1)?.the_only("timeout.peer-vanished")?.errno(None)?;
    sure(diagnosis)?;
    Ok(())
}

/// Every third segment is lost once and comes through when sent again.
pub fn lossy_but_alive() -> Result<()> {
    let (net, _remote) = with_remote(Behaviour::Lossy { every: 3 })?;
    let steps = format!("tcp connect={} send=20000 sleep=1500 close", Family::V4.remote(80));
    run_steps(&net, &steps)?.exits(0)?.never("timeout.peer-vanished")?;
    Ok(())
}

/// The peer's kernel is there; its program has nothing to say. That is no matter of the network.
pub fn acknowledges_without_answer() -> Result<()> {
    let (net, _remote) = with_remote(Behaviour::HandshakeThenVanish { ack_data_bytes: 1_000_000 })?;
    let steps = format!("tcp timeout=1500 connect={} send=100 recv=1", Family::V4.remote(80));
    run_steps(&net, &steps)?.exits(1)?.never("timeout.peer-vanished")?;
    Ok(())
}

/// The limit is set and far away: it was the program that left.
pub fn long_user_timeout() -> Result<()> {
    let (net, _remote) = with_remote(GONE)?;
    let options = "tcp user-timeout=60000 timeout=2500";
    let steps = format!("{options} connect={} send=100 recv=1", Family::V4.remote(80));
    let report = run_steps(&net, &steps)?;
    report.exits(1)?.never("timeout.user-timeout")?;
    sure(report.the_only("timeout.peer-vanished")?)?.errno(None)?;
    Ok(())
}

pub fn keepalive(family: Family) -> Result<()> {
    let (net, _remote) = with_remote(GONE)?;
    let report = run_steps(&net, &format!("tcp keepalive=1,1,2 connect={} recv=1", family.remote(80)))?;
    ensure!(report.stdout.contains("recv: ETIMEDOUT"), "{}", report.dump());
    let diagnosis = report.exits(1)?.the_only("timeout.keepalive")?.certain()?;
    diagnosis.errno(Some("ETIMEDOUT"))?.has("/where/stage", "remote")?;
    Ok(())
}

pub fn keepalive_answered() -> Result<()> {
    let (net, remote) = with_remote(Behaviour::Accept)?;
    let steps = format!("tcp keepalive=1,1,1 connect={} sleep=2600 close", Family::V4.remote(80));
    run_steps(&net, &steps)?.exits(0)?.nothing()?;
    let received = remote.seen().iter().filter(|seen| !seen.sent && seen.packet.flags().ack).count();
    ensure!(received >= 4, "no keepalive probes:\n{}", remote.dump());
    Ok(())
}

/// Keepalive is on, but data is under way: retransmission, not keepalive, finds out.
pub fn keepalive_with_data() -> Result<()> {
    let (net, _remote) = with_remote(GONE)?;
    net.client.sysctl("net.ipv4.tcp_retries2", "3")?;
    let steps = format!("tcp keepalive=1,1,1 connect={} send=100 recv=1", Family::V4.remote(80));
    let report = run_steps(&net, &steps)?;
    report.exits(1)?.the_only("timeout.peer-vanished")?.certain()?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

/// With TCP_USER_TIMEOUT set it is that, not the number of probes, that decides.
pub fn keepalive_with_user_timeout() -> Result<()> {
    let (net, _remote) = with_remote(GONE)?;
    let options = "tcp keepalive=1,1,9 user-timeout=1500";
    let report = run_steps(&net, &format!("{options} connect={} recv=1", Family::V4.remote(80)))?;
    let diagnosis = report.exits(1)?.the_only("timeout.user-timeout")?;
    sure(diagnosis)?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

pub fn user_timeout(family: Family) -> Result<()> {
    let (net, _remote) = with_remote(VANISHES)?;
    let steps =
        format!("tcp user-timeout=1200 connect={} send=100 sleep=200 send=100 recv=1", family.remote(80));
    let report = run_steps(&net, &steps)?;
    ensure!(report.stdout.contains("recv: ETIMEDOUT"), "{}", report.dump());
    let diagnosis = report.exits(1)?.the_only("timeout.user-timeout")?.certain()?;
    diagnosis.errno(Some("ETIMEDOUT"))?.mentions("/summary", "1.2 s")?;
    Ok(())
}

pub fn user_timeout_while_connecting(family: Family) -> Result<()> {
    let (net, _remote) = with_remote(Behaviour::Silent)?;
    let report = run_steps(&net, &format!("tcp user-timeout=1500 connect={}", family.remote(80)))?;
    let diagnosis = report.exits(1)?.the_only("timeout.user-timeout")?;
    sure(diagnosis)?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

pub fn syn_retries_decide() -> Result<()> {
    let (net, _remote) = with_remote(Behaviour::Silent)?;
    net.client.syn_retries(1)?;
    let report = run_steps(&net, &format!("tcp user-timeout=60000 connect={}", Family::V4.remote(80)))?;
    sure(report.exits(1)?.the_only("timeout.no-reply")?)?.errno(Some("ETIMEDOUT"))?;
    Ok(())
}

pub fn user_timeout_unused() -> Result<()> {
    let (net, _remote) = with_remote(Behaviour::AnswerLate(Duration::from_millis(700)))?;
    let options = "tcp user-timeout=1500";
    let steps =
        format!("{options} connect={} send=9 recv=9 sleep=1000 send=9 recv=9 close", Family::V6.remote(80));
    run_steps(&net, &steps)?.exits(0)?.nothing()?;
    Ok(())
}
