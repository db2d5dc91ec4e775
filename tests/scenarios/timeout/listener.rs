//! A listener on this machine whose queues are full.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients::{connect, curl};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::Process;
use netdiag_tests::servers;
use nix::sys::signal::Signal;

use super::{chain, happened_in, run_shell, run_steps, sure};

/// Connections that nobody accepts, open until dropped.
pub fn fill(from: &Namespace, address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1));
    from.enter(|| (0..count).map(connect).collect::<Result<_, _>>())?.context("filling the accept queue")
}

/// Handshakes from the router that stay half done: it never gets to see the answers.
fn half_open(net: &Topology, address: SocketAddr, count: usize) -> Result<()> {
    net.router.nft(&chain("inet", "input", &format!("tcp sport {} drop", address.port())))?;
    let attempt = || TcpStream::connect_timeout(&address, Duration::from_millis(1)).is_ok();
    ensure!(!net.router.enter(|| (0..count).any(|_| attempt()))?, "the router got an answer");
    Ok(())
}

/// Stops the process; only when it has stopped it accepts nothing more.
fn stop(server: &Process) -> Result<()> {
    server.signal(Signal::SIGSTOP)?;
    let stat = format!("/proc/{}/stat", server.pid());
    while !std::fs::read_to_string(&stat)?.contains(") T ") {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn serve(net: &Topology, address: SocketAddr, backlog: u32) -> Result<Process> {
    servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen={backlog} http"))
}

pub fn accept_queue_full(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let address = family.server(8080);
    let server = servers::never_accepts(&net.server, address, 1)?;
    let _waiting = fill(&net.router, address, 2)?;
    let report = net.netdiag_run(&curl(address, 2.5))?;
    let diagnosis = report.exits(28)?.the_only("timeout.accept-queue-full")?.errno(None)?;
    // Before Linux 6.5 only one SYN more is sent in this time: no second sample shows that the kernel counted it.
    let (sure, missing) = (diagnosis.at("/confidence"), diagnosis.at("/coverage/missing"));
    if sure != "likely" || !missing.to_string().contains("tcp_conn_request") {
        diagnosis.certain()?;
    }
    let diagnosis = happened_in(diagnosis, &net.server)?.has("/where/stage", "socket")?;
    let diagnosis = diagnosis.has("/listener/backlog", 1)?.has("/listener/accept_queue", 2)?;
    diagnosis.has("/listener/processes/0/pid", server.pid())?;
    diagnosis.has("/listener/processes/0/comm", "nd-server")?;
    Ok(())
}

pub fn accept_queue_full_errno() -> Result<()> {
    let net = Topology::new()?;
    net.client.syn_retries(1)?;
    let address = Family::V4.server(8080);
    let _server = servers::never_accepts(&net.server, address, 0)?;
    let _waiting = fill(&net.router, address, 1)?;
    let report = net.netdiag_run(&connect(address)?)?;
    let diagnosis = sure(report.exits(1)?.the_only("timeout.accept-queue-full")?)?;
    happened_in(diagnosis.errno(Some("ETIMEDOUT"))?, &net.server)?;
    Ok(())
}

/// The service was stopped (SIGSTOP) and its clients are on the same host.
pub fn stopped_service() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V6.loopback(8080);
    let steps = format!("tcp reuseaddr bind={address} listen=2 http");
    let server = servers::steps(&net.client, &steps)?;
    stop(&server)?;
    let _waiting = fill(&net.client, address, 3)?;
    let report = net.netdiag_run(&curl(address, 2.5))?;
    let diagnosis = sure(report.exits(28)?.the_only("timeout.accept-queue-full")?)?.errno(None)?;
    happened_in(diagnosis, &net.client)?.has("/listener/processes/0/pid", server.pid())?;
    Ok(())
}

pub fn nearly_full() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(8080);
    let _server = servers::never_accepts(&net.server, address, 3)?;
    let _waiting = fill(&net.router, address, 3)?;
    run_steps(&net, &format!("tcp connect={address},1500 close"))?.exits(0)?.nothing()?;
    Ok(())
}

/// The service wakes up before the client's next SYN.
pub fn drained_in_time() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(8080);
    let server = serve(&net, address, 1)?;
    stop(&server)?;
    let waiting = fill(&net.router, address, 2)?;
    let pid = server.pid();
    let script = format!("$1 tcp connect={address},3000 close & sleep 0.4; kill -CONT {pid}; wait $!");
    run_shell(&net, &script)?.exits(0)?.nothing()?;
    drop(waiting);
    Ok(())
}

pub fn full_on_another_port() -> Result<()> {
    let net = Topology::new()?;
    let (full, ours) = (Family::V4.server(8080), Family::V4.server(8081));
    let _full = servers::never_accepts(&net.server, full, 0)?;
    let _waiting = fill(&net.router, full, 1)?;
    let _noise = net.router.spawn(&connect(full)?)?;
    let _server = servers::echo(&net.server, ours)?;
    net.server.nft(&chain("inet", "input", "tcp dport 8081 drop"))?;
    let report = run_steps(&net, &format!("tcp connect={ours},1400"))?;
    happened_in(report.exits(3)?.the_only("timeout.firewall-drop")?.certain()?, &net.server)?;
    Ok(())
}

pub fn syn_queue_full(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let address = family.server(8080);
    let server = serve(&net, address, 8)?;
    half_open(&net, address, 12)?;
    let report = net.netdiag_run(&curl(address, 2.5))?;
    let diagnosis = report.exits(28)?.the_only("timeout.syn-queue-full")?.certain()?.errno(None)?;
    happened_in(diagnosis, &net.server)?.has("/listener/processes/0/pid", server.pid())?;
    Ok(())
}

/// The listener has room, but the rest of tcp_max_syn_backlog is kept for peers that proved to be real.
pub fn max_syn_backlog() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    net.server.sysctl("net.ipv4.tcp_max_syn_backlog", "16")?;
    let address = Family::V4.server(8080);
    let _server = serve(&net, address, 128)?;
    half_open(&net, address, 20)?;
    let report = net.netdiag_run(&curl(address, 1.4))?;
    let diagnosis = sure(report.exits(28)?.the_only("timeout.syn-queue-full")?)?.errno(None)?;
    happened_in(diagnosis, &net.server)?;
    Ok(())
}

pub fn syn_cookies() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "1")?;
    let address = Family::V4.server(8080);
    let _server = serve(&net, address, 8)?;
    half_open(&net, address, 12)?;
    net.netdiag_run(&curl(address, 2.0))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn syn_queue_half_full() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let address = Family::V6.server(8080);
    let _server = serve(&net, address, 8)?;
    half_open(&net, address, 4)?;
    net.netdiag_run(&curl(address, 2.0))?.exits(0)?.nothing()?;
    Ok(())
}

pub fn accept_queue_without_cookies() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let address = Family::V4.server(8080);
    let _server = servers::never_accepts(&net.server, address, 1)?;
    let _waiting = fill(&net.router, address, 2)?;
    let report = net.netdiag_run(&curl(address, 1.4))?;
    sure(report.exits(28)?.the_only("timeout.accept-queue-full")?)?;
    Ok(())
}
