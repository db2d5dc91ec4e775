//! `netdiag sockets`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::servers;
use serde_json::Value;

use crate::flood::flood;

use super::{START, netdiag, only, pid, remarks, ss};

pub fn sockets(namespace: &Namespace, arguments: &[&str]) -> Result<Vec<Value>> {
    let options = arguments.iter().copied();
    let words: Vec<&str> =
        std::iter::once("sockets").chain(options).chain(["netns", namespace.name()]).collect();
    netdiag(&words)
}

/// Looks until some socket has this remark.
fn wait_for_remark(namespace: &Namespace, remark: &str) -> Result<Value> {
    let start = Instant::now();
    loop {
        let found = sockets(namespace, &[])?;
        if let Some(object) = found.iter().find(|object| remarks(object).contains(&remark)) {
            return Ok(object.clone());
        }
        let limit = netdiag_tests::process::patience(Duration::from_secs(15));
        ensure!(start.elapsed() < limit, "no {remark} in {found:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A listener with room, one that is filling and one that is full; the numbers are those of ss.
pub fn accept_queue() -> Result<()> {
    let net = Topology::new()?;
    let queue = |port: u16, backlog: u16, connections: usize| -> Result<_> {
        let address = Family::V4.server(port);
        let server = servers::never_accepts(&net.server, address, backlog)?;
        let client = net.client.spawn(&clients::steps(&format!("many={connections},{address} wait"))?)?;
        client.wait_for_line(&format!("connected {connections}"), START)?;
        Ok((server, client))
    };
    let kept = [queue(18711, 7, 1)?, queue(18712, 7, 7)?, queue(18713, 7, 8)?];
    let found = sockets(&net.server, &["--listening"])?;
    ensure!(found.len() == 3, "{found:#?}");
    let expected: [(u64, &[&str]); 3] =
        [(1, &[]), (7, &["accept-queue-filling"]), (8, &["accept-queue-full"])];
    for ((object, (waiting, remark)), (server, _)) in found.iter().zip(expected).zip(&kept) {
        ensure!(object["processes"][0]["pid"] == server.pid(), "{object:#}");
        ensure!(object["accept_queue"] == waiting && object["backlog"] == 7, "{object:#}");
        ensure!(remarks(object) == remark, "{object:#}");
        let port = &object["local"]["port"];
        let line = net.server.run(&["ss", "-Hltn", &format!("sport = :{port}")])?.stdout;
        let columns: Vec<&str> = line.split_whitespace().skip(1).take(2).collect();
        ensure!(columns == [waiting.to_string(), "7".to_owned()], "ss shows {line}");
    }
    Ok(())
}

/// What the process of a full accept queue does: it is stopped, busy, blocked, or waits.
pub fn accepting_process() -> Result<()> {
    const SCRIPT: &str = "
import signal, socket, sys, time, os
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(sys.argv[1])))
s.listen(1)
print('listening', flush=True)
if sys.argv[2] == 'busy':
    while True: pass
if sys.argv[2] == 'stopped':
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
";
    let host = Namespace::new("host")?;
    for (port, does, says) in
        [(18721, "busy", "is busy"), (18722, "stopped", "is stopped"), (18723, "blocked", "is blocked in ")]
    {
        let server = host.spawn(&["python3", "-c", SCRIPT, &port.to_string(), does])?;
        server.wait_for_line("listening", START)?;
        let steps = format!("many=2,{} wait", Family::V4.loopback(port));
        let client = host.spawn(&clients::steps(&steps)?)?;
        client.wait_for_line("connected 2", START)?;
        let found = sockets(&host, &["--listening", "port", &port.to_string(), "and"])?;
        let listener = only(&found, "there", |_| true)?;
        ensure!(remarks(listener) == ["accept-queue-full"], "{listener:#}");
        let text = listener["remarks"][0]["text"].as_str().unwrap_or_default();
        ensure!(text.contains(&format!("python3[{}] {says}", server.pid())), "{listener:#}");
    }
    Ok(())
}

/// SYNs from many addresses that nobody finishes, more than the queue holds: a flood, with cookies.
pub fn syn_flood(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "1")?;
    let address = family.server(18724);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=16 wait"))?;
    let _flood = flood(&net, address)?;
    let found = wait_for_remark(&net.server, "syn-flood")?;
    ensure!(found["processes"][0]["pid"] == server.pid() && found["local"]["port"] == 18724, "{found:#}");
    ensure!(found["half_open"].as_u64() >= Some(16), "{found:#}");
    ensure!(found["half_open_sources"].as_u64() >= Some(8), "{found:#}");
    ensure!(found["syn_rates"]["cookies_sent"].as_f64() > Some(10.0), "{found:#}");
    says(&found, "by SYN cookies the service goes on")
}

fn says(socket: &Value, part: &str) -> Result<()> {
    let mut texts =
        socket["remarks"].as_array().into_iter().flatten().filter_map(|remark| remark["text"].as_str());
    ensure!(texts.any(|text| text.contains(part)), "no {part:?} in {socket:#}");
    Ok(())
}

/// Without half-open connections, as every SYN gets a cookie: the only listener is flooded; of two nobody is named.
pub fn syn_flood_cookies_for_all() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", "2")?;
    let address = Family::V4.server(18726);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=16 wait"))?;
    let _flood = flood(&net, address)?;
    let found = wait_for_remark(&net.server, "syn-flood")?;
    ensure!(found["processes"][0]["pid"] == server.pid() && found["half_open"] == 0, "{found:#}");
    says(&found, "0 cookies a second come back valid")?;
    let other = Family::V4.server(18727);
    let _other = servers::steps(&net.server, &format!("tcp reuseaddr bind={other} listen=16 wait"))?;
    let both = sockets(&net.server, &["--listening"])?;
    ensure!(both.len() == 2 && both.iter().all(|object| remarks(object).is_empty()), "{both:#?}");
    Ok(())
}

/// Many clients that finish their handshakes, faster than they are accepted, are a crowd and no flood.
pub fn crowd_is_no_flood(cookies: &str) -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_syncookies", cookies)?;
    let address = Family::V4.server(18725);
    let _server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=64 echo"))?;
    let steps = format!("churn=100000,{address}");
    let clients = [net.client.spawn(&clients::steps(&steps)?)?, net.router.spawn(&clients::steps(&steps)?)?];
    for _ in 0..5 {
        let found = sockets(&net.server, &["--listening"])?;
        let listener = only(&found, "there", |_| true)?;
        ensure!(!remarks(listener).iter().any(|remark| remark.starts_with("syn-")), "{listener:#}");
    }
    drop(clients);
    Ok(())
}

/// The server does not read: named with its process and the bytes; the client is fine.
pub fn receive_queue_not_read() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18714);
    let server = servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=8 accept wait"))?;
    let client = net.client.spawn(&clients::steps(&format!("connect={address} send=1234 wait"))?)?;
    client.wait_for_line("connected", START)?;
    let found = wait_for_remark(&net.server, "not-read")?;
    ensure!(found["receive_queue"] == 1234 && found["processes"][0]["pid"] == server.pid(), "{found:#}");
    ensure!(found["direction"] == "inbound" && found["age_at_least_us"].as_u64() >= Some(2_000_000));
    let other = sockets(&net.client, &[])?;
    ensure!(other.iter().all(|object| remarks(object).is_empty()), "{other:#?}");
    Ok(())
}

/// The server does not read until its window is zero: what the client wrote is stuck.
pub fn send_queue_stuck() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18715);
    let steps = format!("tcp reuseaddr rcvbuf=4096 bind={address} listen=8 accept wait");
    let _server = servers::steps(&net.server, &steps)?;
    let client = net.client.spawn(&clients::steps(&format!("connect={address} send=4000000 wait"))?)?;
    client.wait_for_line("connected", START)?;
    let found = wait_for_remark(&net.client, "send-stuck")?;
    ensure!(found["processes"][0]["pid"] == client.pid() && found["send_queue"].as_u64() > Some(0));
    ensure!(
        found["remarks"][0]["text"].as_str().is_some_and(|text| text.contains("window is zero")),
        "{found:#}"
    );
    Ok(())
}

/// One process leaks CLOSE_WAIT, another churns: only the first is named, with the count of ss. They are young.
pub fn close_wait_counted() -> Result<()> {
    let net = Topology::new()?;
    let (leaked, churned) = (Family::V4.server(18716), Family::V4.server(18717));
    let accepts = "accept close ".repeat(20);
    let _server =
        servers::steps(&net.server, &format!("tcp reuseaddr bind={leaked} listen=64 {accepts} wait"))?;
    let _echo = servers::echo(&net.server, churned)?;
    let leaker = net.client.spawn(&clients::steps(&format!("many=20,{leaked} wait"))?)?;
    let churner = net.client.spawn(&clients::steps(&format!("churn=30,{churned} wait"))?)?;
    leaker.wait_for_line("connected 20", START)?;
    churner.wait_for_line("connected 30", START)?;
    let start = Instant::now();
    while ss(&net.client, "state close-wait")? < 20 && start.elapsed() < START {
        std::thread::sleep(Duration::from_millis(20));
    }
    let found = sockets(&net.client, &["--state", "close-wait"])?;
    let owner = only(&found, "owners", |object| object["kind"] == "owner")?;
    ensure!(pid(owner) == Some(leaker.pid()) && owner["state"] == "close-wait", "{owner:#}");
    ensure!(owner["count"] == 20 && ss(&net.client, "state close-wait")? == 20, "{owner:#}");
    ensure!(owner["destinations"][0]["port"] == 18716 && owner["destinations"][0]["count"] == 20);
    ensure!(owner["over_minute"] == 0 && owner["exact"] == true, "{owner:#}");
    ensure!(found.iter().all(|object| object["kind"] == "owner" || remarks(object).is_empty()), "{found:#?}");
    ensure!(found.iter().filter(|object| object["kind"] == "socket").count() == 20);
    Ok(())
}

/// Connections that work, idle ones too, are listed with their owners and without a remark.
pub fn nothing_to_remark() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let address = family.server(18720);
        let server = servers::echo(&net.server, address)?;
        let steps = format!("connect={address} send=9000 recv=9000 wait");
        let client = net.client.spawn(&clients::steps(&steps)?)?;
        client.wait_for_line("received 9000", START)?;
        std::thread::sleep(Duration::from_millis(2500));
        for (namespace, process, direction) in
            [(&net.client, &client, "outbound"), (&net.server, &server, "inbound")]
        {
            let found =
                sockets(namespace, &["--state", "established", "pid", &process.pid().to_string(), "and"])?;
            let socket = only(&found, "there", |_| true)?;
            ensure!(socket["direction"] == direction && remarks(socket).is_empty(), "{socket:#}");
            ensure!(socket["bytes_received"] == 9000 && socket["rtt_us"].as_u64() > Some(0), "{socket:#}");
        }
    }
    Ok(())
}
