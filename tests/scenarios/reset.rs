//! Scenarios of the symptom `reset`: each cause from the side of the one who got the RST and, under
//! `netdiag run -- SERVER`, from the side of the one who sent it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use netdiag_tests::net::Family::{V4, V6};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Run, Watch};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::tools::own_binary;
use netdiag_tests::{clients, servers};

const BY_PEER: &str = "reset.by-peer";
const UNREAD: &str = "reset.unread-data";
const LINGER: &str = "reset.linger";
const EXITED: &str = "reset.process-exited";

const TUN: &[Need] = &[Need::Tun];
const TUN_CURL: &[Need] = &[Need::Tun, Need::Tool("curl")];
const TUN_PYTHON: &[Need] = &[Need::Tun, Need::Python];
const PYTHON: &[Need] = &[Need::Python];
const PYTHON_NFT: &[Need] = &[Need::Python, Need::Nftables];
const CURL: &[Need] = &[Need::Tool("curl")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(BY_PEER, "after_the_request_v4", || after_the_request(V4)).needs(TUN_CURL),
    Scenario::hit(BY_PEER, "after_the_request_v6", || after_the_request(V6)).needs(TUN_CURL),
    Scenario::hit(BY_PEER, "while_idle_v4", || while_idle(V4)).needs(TUN_PYTHON),
    Scenario::hit(BY_PEER, "while_idle_v6", || while_idle(V6)).needs(TUN_PYTHON),
    Scenario::hit(BY_PEER, "in_the_middle_v4", || in_the_middle(V4)).needs(TUN),
    Scenario::hit(BY_PEER, "in_the_middle_v6", || in_the_middle(V6)).needs(TUN),
    Scenario::hit(BY_PEER, "after_its_fin", after_its_fin).needs(TUN),
    Scenario::hit(BY_PEER, "rule_of_this_machine", rule_of_this_machine).needs(PYTHON_NFT),
    Scenario::near_miss(BY_PEER, "orderly_close", orderly_close).needs(TUN),
    Scenario::near_miss(BY_PEER, "after_our_close", after_our_close).needs(TUN),
    Scenario::near_miss(BY_PEER, "of_the_syn", of_the_syn).needs(TUN),
    Scenario::near_miss(BY_PEER, "the_closer_is_here", || victim_of_unread_data(V4)),
    Scenario::hit(UNREAD, "victim_v4", || victim_of_unread_data(V4)),
    Scenario::hit(UNREAD, "victim_v6", || victim_of_unread_data(V6)),
    Scenario::hit(UNREAD, "closer_v4", || closer_with_unread_data(V4)),
    Scenario::hit(UNREAD, "closer_v6", || closer_with_unread_data(V6)),
    Scenario::hit(UNREAD, "client_stops_reading", client_stops_reading).needs(TUN),
    Scenario::near_miss(UNREAD, "all_was_read", all_was_read),
    Scenario::near_miss(UNREAD, "linger_alone", || victim_of_linger(V6)),
    Scenario::hit(LINGER, "victim_v4", || victim_of_linger(V4)),
    Scenario::hit(LINGER, "victim_v6", || victim_of_linger(V6)),
    Scenario::hit(LINGER, "closer_v4", || closer_with_linger(V4)),
    Scenario::hit(LINGER, "closer_v6", || closer_with_linger(V6)),
    Scenario::hit(LINGER, "client_closes", client_lingers).needs(PYTHON),
    Scenario::near_miss(LINGER, "with_time", linger_with_time).needs(PYTHON),
    Scenario::near_miss(LINGER, "unread_data_comes_first", unread_data_comes_first),
    Scenario::hit(EXITED, "victim_v4", || victim_of_exit(V4)),
    Scenario::hit(EXITED, "victim_v6", || victim_of_exit(V6)),
    Scenario::hit(EXITED, "closer_v4", || closer_that_exits(V4)),
    Scenario::hit(EXITED, "closer_v6", || closer_that_exits(V6)),
    Scenario::hit(EXITED, "killed_while_watched", killed_while_watched),
    Scenario::hit(EXITED, "never_accepted_v4", || never_accepted(V4)),
    Scenario::hit(EXITED, "never_accepted_v6", || never_accepted(V6)),
    Scenario::near_miss(EXITED, "after_the_last_word", exits_after_the_last_word).needs(CURL),
    Scenario::near_miss(EXITED, "closes_and_lives_on", || closer_with_unread_data(V4)),
];

/// Port 80 of the remote host does this after the handshake.
fn remote(behaviour: Behaviour) -> Result<(Topology, Remote)> {
    let net = Topology::new()?;
    let remote = Remote::start(&net.router, &[(80, behaviour)])?;
    Ok((net, remote))
}

fn shell(script: &str) -> [String; 3] {
    ["sh", "-c", script].map(str::to_owned)
}

/// Requires that a person reads this in the summary or the explanation.
fn says<'a>(diagnosis: Diagnosis<'a>, text: &str) -> Result<Diagnosis<'a>> {
    let fields = ["/summary", "/explanation"].map(|field| diagnosis.at(field).to_string());
    ensure!(fields.iter().any(|field| field.contains(text)), "{text:?} is not said: {:#}", diagnosis.value);
    Ok(diagnosis)
}

/// A RST of a host far away: the errno, and how far the conversation had come.
fn by_far_peer<'a>(report: &'a Report, errno: &str, state: &str) -> Result<Diagnosis<'a>> {
    let diagnosis = report.the_only(BY_PEER)?.errno(Some(errno))?.has("/where/side", "peer")?;
    says(diagnosis.has("/connection/direction", "outbound")?, state)
}

fn after_the_request(family: Family) -> Result<()> {
    let (net, _remote) = remote(Behaviour::HandshakeThenReset { after_data: 10, ttl: None })?;
    let report = net.netdiag_run(&clients::curl(family.remote(80), 5.0))?;
    by_far_peer(report.exits(56)?, "ECONNRESET", " 0 bytes received")?.has("/process/comm", "curl")?;
    Ok(())
}

/// The client waits for an answer that never comes; nothing was sent either way.
fn while_idle(family: Family) -> Result<()> {
    const SCRIPT: &str = "
import errno, socket, sys
s = socket.create_connection((sys.argv[1], 80))
try: s.recv(100)
except OSError as e: sys.exit(errno.errorcode[e.errno])
";
    let (net, _remote) = remote(Behaviour::HandshakeThenReset { after_data: 0, ttl: None })?;
    let host = family.remote(80).ip().to_string();
    let report = net.netdiag_run(&["python3", "-c", SCRIPT, &host].map(str::to_owned))?;
    by_far_peer(report.exits(1)?, "ECONNRESET", "0 bytes had been acknowledged, 0 bytes received")?;
    Ok(())
}

fn in_the_middle(family: Family) -> Result<()> {
    let (net, _remote) = remote(Behaviour::HandshakeThenReset { after_data: 20_000, ttl: None })?;
    let steps = format!("tcp connect={} send=400000 recv", family.remote(80));
    let report = net.netdiag_run(&clients::grandchild(&clients::steps(&steps)?))?;
    by_far_peer(report.exits(1)?, "ECONNRESET", "not acknowledged")?.has("/process/comm", "nd-client")?;
    Ok(())
}

/// The peer said FIN, and what is sent after that finds nobody: EPIPE.
fn after_its_fin() -> Result<()> {
    let (net, _remote) = remote(Behaviour::HandshakeThenFin { after_data: 10 })?;
    let steps = format!("tcp connect={} send=10 sleep=200 send=10 sleep=200 send=10", V4.remote(80));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    by_far_peer(report.exits(1)?, "EPIPE", "FIN")?;
    Ok(())
}

fn orderly_close() -> Result<()> {
    let (net, _remote) = remote(Behaviour::Respond(b"that was all".to_vec()))?;
    for family in Family::BOTH {
        let steps = format!("tcp connect={} send=10 recv close", family.remote(80));
        net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// The RST meets a socket in FIN_WAIT that nobody holds any more.
fn after_our_close() -> Result<()> {
    let (net, _remote) = remote(Behaviour::HandshakeThenReset { after_data: 0, ttl: None })?;
    for family in Family::BOTH {
        let steps = format!("tcp connect={} close sleep=200", family.remote(80));
        net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// A RST before the handshake is a refusal.
fn of_the_syn() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let report = net.netdiag_run(&clients::connect(V4.remote(80))?)?;
    report.exits(1)?.the_only("refused.peer-no-listener")?;
    Ok(())
}

/// `nd-server` with these steps in the server's namespace, under netdiag, while `client` runs its own.
fn server_under_netdiag(net: &Topology, address: SocketAddr, server: &str, client: &str) -> Result<Report> {
    let mut words = vec![own_binary("nd-server")?.display().to_string()];
    words.extend(format!("tcp reuseaddr bind={address} listen=8 {server}").split(' ').map(str::to_owned));
    let client = clients::steps(&format!("tcp connect={address} {client}"))?;
    std::thread::scope(|scope| {
        let report = scope.spawn(|| Run::inside(&net.server).showing(&[&net.client]).command(&words));
        let met = wait_for_listener(&net.server, address.port()).and_then(|()| net.client.run(&client));
        let report = report.join().map_err(|_| anyhow!("panicked"))??;
        met?;
        Ok(report)
    })
}

fn wait_for_listener(namespace: &Namespace, port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let filter = format!(":{port}");
    while namespace.run(&["ss", "-Hltn", "sport", "=", &filter])?.stdout.is_empty() {
        ensure!(Instant::now() < deadline, "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// From the side of the client: its errno, and the server that did it.
fn victim<'a>(report: &'a Report, code: &str, net: &Topology) -> Result<Diagnosis<'a>> {
    let diagnosis = report.exits(1)?.the_only(code)?.certain()?.errno(Some("ECONNRESET"))?;
    let diagnosis = diagnosis.has("/connection/direction", "outbound")?.has("/process/comm", "nd-client")?;
    let diagnosis = diagnosis.has("/where/netns", net.server.inode())?;
    says(diagnosis.has("/where/netns_name", net.server.name())?.has("/where/side", "peer")?, "nd-server[")
}

/// From the side of the server: no error, and its own doing.
fn closer<'a>(report: &'a Report, code: &str, net: &Topology) -> Result<Diagnosis<'a>> {
    let diagnosis = report.the_only(code)?.certain()?.errno(None)?.has("/where/side", "local")?;
    let diagnosis = diagnosis.has("/connection/direction", "inbound")?.has("/process/comm", "nd-server")?;
    diagnosis.has("/where/netns", net.server.inode())
}

fn victim_of_unread_data(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::closes_unread(&net.server, family.server(8080), 100)?;
    let steps = format!("tcp connect={} send=100 recv", family.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    says(victim(&report, UNREAD, &net)?, "100 bytes")?;
    Ok(())
}

fn closer_with_unread_data(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let server = "accept await-unread=100 close sleep=300";
    let report = server_under_netdiag(&net, family.server(8080), server, "send=100 recv")?;
    says(closer(report.exits(0)?, UNREAD, &net)?, "100 bytes")?;
    Ok(())
}

/// A client that has had enough of a long answer.
fn client_stops_reading() -> Result<()> {
    let (net, _remote) = remote(Behaviour::Accept)?;
    let steps = format!("tcp connect={} send=3000 recv=100 await-unread=2900 close sleep=100", V4.remote(80));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    let diagnosis = report.exits(0)?.the_only(UNREAD)?.certain()?.errno(None)?;
    says(diagnosis.has("/where/side", "local")?.has("/process/comm", "nd-client")?, "2900 bytes")?;
    Ok(())
}

fn all_was_read() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let server = "accept recv=100 send=50 close sleep=300";
        let report = server_under_netdiag(&net, family.server(8080), server, "send=100 recv close")?;
        report.exits(0)?.nothing()?;
    }
    Ok(())
}

/// A rule that rejects comes while the connection is up: the peer did nothing.
fn rule_of_this_machine() -> Result<()> {
    const CLIENT: &str = r#"
import socket, subprocess, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(b"a")
s.recv(1)
subprocess.run(["nft", "add rule inet fw c tcp dport 8080 reject with tcp reset"], check=True)
s.sendall(b"b")
s.recv(1)
"#;
    let net = Topology::new()?;
    let address = V4.server(8080);
    let _server = servers::echo(&net.server, address)?;
    net.client.nft("table inet fw { chain c { type filter hook output priority 0; }; }")?;
    let words = ["python3", "-c", CLIENT, &address.ip().to_string(), "8080"].map(str::to_owned);
    let report = net.netdiag_run(&words)?;
    let found = report.exits(1)?.the_only(BY_PEER)?.certain()?.errno(Some("ECONNRESET"))?;
    found
        .has("/where/netns", net.client.inode())?
        .has("/where/stage", "netfilter")?
        .has("/firewall/chain", "c")?
        .mentions("/next_steps/0/command", "nft delete rule inet fw c handle ")?;
    Ok(())
}

fn victim_of_linger(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let server = format!("tcp bind={} listen=8 accept recv=100 linger0 close wait", family.server(8080));
    let _server = servers::steps(&net.server, &server)?;
    let steps = format!("tcp connect={} send=100 recv", family.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    says(victim(&report, LINGER, &net)?, "SO_LINGER")?;
    Ok(())
}

fn closer_with_linger(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let server = "accept recv=100 linger0 close sleep=300";
    let report = server_under_netdiag(&net, family.server(8080), server, "send=100 recv")?;
    says(closer(report.exits(0)?, LINGER, &net)?, "SO_LINGER")?;
    Ok(())
}

/// Sends, receives and closes with SO_LINGER set to so many seconds.
fn lingering_client(server: SocketAddr, seconds: u32) -> [String; 6] {
    const SCRIPT: &str = "
import socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, int(sys.argv[3])))
s.sendall(b'x' * 100)
while len(s.recv(100, socket.MSG_PEEK)) < 100: pass
s.recv(100)
s.close()
";
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    ["python3", "-c", SCRIPT, &ip, &port, &seconds.to_string()].map(str::to_owned)
}

fn client_lingers() -> Result<()> {
    let net = Topology::new()?;
    let _server = servers::echo(&net.server, V4.server(8080))?;
    let report = net.netdiag_run(&lingering_client(V4.server(8080), 0))?;
    let diagnosis = report.exits(0)?.the_only(LINGER)?.certain()?.errno(None)?;
    diagnosis.has("/where/side", "local")?.has("/connection/direction", "outbound")?;
    Ok(())
}

/// With a time the option waits for data to leave, and the goodbye is a FIN.
fn linger_with_time() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(8080))?;
        net.netdiag_run(&lingering_client(family.server(8080), 2))?.exits(0)?.nothing()?;
    }
    Ok(())
}

/// The option is set, but the kernel looks at unread data first.
fn unread_data_comes_first() -> Result<()> {
    let net = Topology::new()?;
    let server = "accept await-unread=100 linger0 close sleep=300";
    let report = server_under_netdiag(&net, V4.server(8080), server, "send=100 recv")?;
    closer(report.exits(0)?, UNREAD, &net)?;
    Ok(())
}

fn victim_of_exit(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let server = format!("tcp bind={} listen=8 accept await-unread=100 exit=3", family.server(8080));
    let _server = servers::steps(&net.server, &server)?;
    let steps = format!("tcp connect={} send=100 recv", family.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    victim(&report, EXITED, &net)?;
    Ok(())
}

fn closer_that_exits(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report =
        server_under_netdiag(&net, family.server(8080), "accept await-unread=100 exit=3", "send=100 recv")?;
    says(closer(report.exits(3)?, EXITED, &net)?, "100 bytes")?;
    Ok(())
}

/// Nobody is followed: `watch` on the host sees a server that is killed in the middle of a request.
fn killed_while_watched() -> Result<()> {
    let net = Topology::new()?;
    let server = V4.server(9310);
    let process =
        servers::steps(&net.server, &format!("tcp bind={server} listen=8 accept await-unread=100 wait"))?;
    let watch = Watch::start(&[&net.client, &net.server], &["port", "9310"])?;
    let script = format!(
        "{} & sleep 0.4; kill -9 {}; wait $!",
        clients::steps(&format!("tcp connect={server} send=100 recv"))?.join(" "),
        process.pid()
    );
    net.client.run(&shell(&script))?.says("ECONNRESET")?;
    watch.wait_for(EXITED, Duration::from_secs(5))?;
    let report = watch.stop()?;
    report.never(BY_PEER)?.never(UNREAD)?.one_of(EXITED)?.certain()?;
    Ok(())
}

/// connect() had succeeded, but the connection stood in the accept queue when its server was killed.
fn never_accepted(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let server = servers::never_accepts(&net.server, family.server(8080), 8)?;
    let client = clients::steps(&format!("tcp connect={} recv", family.server(8080)))?.join(" ");
    let report =
        net.netdiag_run(&shell(&format!("{client} & sleep 0.4; kill -9 {}; wait $!", server.pid())))?;
    says(victim(&report, EXITED, &net)?, "accept")?;
    Ok(())
}

/// An exit closes a connection with FIN where nothing is pending.
fn exits_after_the_last_word() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let server = "accept recv=100 send=50 exit=0";
        let report = server_under_netdiag(&net, family.server(8080), server, "send=100 recv close")?;
        report.exits(0)?.nothing()?;
        let _server = servers::http(&net.server, family.server(8081))?;
        net.netdiag_run(&clients::curl(family.server(8081), 3.0))?.exits(0)?.nothing()?;
    }
    Ok(())
}
