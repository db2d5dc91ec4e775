//! `netdiag timewait`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::process::{Process, patience};
use netdiag_tests::servers;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{LIMIT, START, command, objects, only, pid, ss};

/// Begins to watch; tells of this namespace only.
fn watch(namespace: &Namespace) -> Result<Process> {
    let watch = Process::spawn(command(&["timewait", "--duration", "100s", "netns", namespace.name()])?)?;
    watch.wait_for_error_line("netdiag: watching", START)?;
    Ok(watch)
}

/// Ends it as Ctrl-C does; what it says then.
pub fn answer(watch: Process) -> Result<Vec<Value>> {
    watch.signal(Signal::SIGINT)?;
    let output = watch.wait(LIMIT)?;
    output.exits(0)?;
    objects(&output.stdout)
}

fn is_owner(object: &Value) -> bool {
    object["kind"] == "owner"
}

fn summary(objects: &[Value]) -> Result<&Value> {
    only(objects, "summaries", |object| object["kind"] == "time-wait" && object["by"] == "all")
}

/// Waits until ss shows so many in TIME_WAIT.
pub fn wait_for(namespace: &Namespace, count: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = ss(namespace, "state time-wait")?;
        if now >= count {
            return Ok(());
        }
        ensure!(start.elapsed() < patience(START), "{now} in TIME_WAIT and not {count}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn churn(namespace: &Namespace, count: usize, address: SocketAddr) -> Result<Process> {
    let client = namespace.spawn(&clients::steps(&format!("churn={count},{address} wait"))?)?;
    client.wait_for_line(&format!("connected {count}"), LIMIT)?;
    Ok(client)
}

/// Two processes with different counts, and one that closes nothing first.
pub fn two_processes() -> Result<()> {
    let net = Topology::new()?;
    let [one, two, leaked] = [18731, 18732, 18733].map(|port| Family::V4.server(port));
    let _echoes = [servers::echo(&net.server, one)?, servers::echo(&net.server, two)?];
    let accepts = "accept close ".repeat(5);
    let _closes =
        servers::steps(&net.server, &format!("tcp reuseaddr bind={leaked} listen=64 {accepts} wait"))?;
    let watch = watch(&net.client)?;
    let first = churn(&net.client, 40, one)?;
    let second = churn(&net.client, 25, two)?;
    let leaker = net.client.spawn(&clients::steps(&format!("many=5,{leaked} wait"))?)?;
    leaker.wait_for_line("connected 5", START)?;
    wait_for(&net.client, 65)?;
    let told = answer(watch)?;
    for (process, count, to) in [(&first, 40, one), (&second, 25, two)] {
        let owner = only(&told, "its", |object| pid(object) == Some(process.pid()))?;
        ensure!(owner["count"] == count && owner["exact"] == true && owner["ended"] == false, "{owner:#}");
        ensure!(owner["netns_name"] == net.client.name() && owner["state"] == "time-wait");
        ensure!(owner["destinations"][0]["port"] == to.port() && owner["destinations"][0]["count"] == count);
        ensure!(ss(&net.client, &format!("state time-wait dport = :{}", to.port()))? == count);
    }
    ensure!(told.iter().filter(|object| is_owner(object)).count() == 2, "{told:#?}");
    let summary = summary(&told)?;
    ensure!(summary["count"] == 65 && summary["exact_count"] == 65 && summary["missed"] == 0, "{summary:#}");
    ensure!(summary["level"] == "harmless", "{summary:#}");
    Ok(())
}

/// TIME_WAIT is on the server, and belongs to the server's process; it takes no ephemeral port.
pub fn server_closes_first() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let address = family.server(18734);
        let accepts = "accept close ".repeat(12);
        let server =
            servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=64 {accepts} wait"))?;
        let watch = watch(&net.server)?;
        let before = ss(&net.server, "state time-wait")?;
        let client = net.client.spawn(&clients::steps(&format!("many=12,{address} sleep=300 exit=0"))?)?;
        client.wait_for_line("connected 12", START)?;
        wait_for(&net.server, before + 12)?;
        let told = answer(watch)?;
        let owner = only(&told, "its", |object| pid(object) == Some(server.pid()))?;
        ensure!(owner["count"] == 12 && owner["exact"] == true, "{owner:#}");
        ensure!(owner["destinations"][0]["port"] == 18734, "{owner:#}");
        ensure!(summary(&told)?["ports"] == Value::Array(Vec::new()), "{told:#?}");
    }
    Ok(())
}

/// The parent accepts, its child inherits the connection and closes it last: it is the child's.
pub fn fork_after_accept() -> Result<()> {
    const SCRIPT: &str = "
import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 18735))
s.listen(8)
print('listening', flush=True)
a, _ = s.accept()
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.read(r, 1)
    a.close()
    time.sleep(60)
a.close()
print('ready', 'parent=%d' % os.getpid(), 'child=%d' % child, flush=True)
time.sleep(0.2)
os.write(w, b'x')
time.sleep(60)
";
    passed_on(SCRIPT, 18735, "child")
}

/// Accepted by one process, passed to another by SCM_RIGHTS, which closes it.
pub fn fd_passed_on() -> Result<()> {
    const SCRIPT: &str = "
import os, socket, time
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    ours.close()
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    time.sleep(0.2)
    os.close(fds[0])
    time.sleep(60)
theirs.close()
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 18736))
s.listen(8)
print('listening', flush=True)
a, _ = s.accept()
socket.send_fds(ours, [b'x'], [a.fileno()])
a.close()
print('ready', 'parent=%d' % os.getpid(), 'child=%d' % child, flush=True)
time.sleep(60)
";
    passed_on(SCRIPT, 18736, "child")
}

fn passed_on(script: &str, port: u16, owner: &str) -> Result<()> {
    let host = Namespace::new("host")?;
    let watch = watch(&host)?;
    let server = host.spawn(&["python3", "-c", script])?;
    server.wait_for_line("listening", START)?;
    let connect = format!("connect={} recv close wait", Family::V4.loopback(port));
    let client = host.spawn(&clients::steps(&connect)?)?;
    server.wait_for_line("ready", START)?;
    client.wait_for_line("received 0, then end", START)?;
    wait_for(&host, 1)?;
    let line = server.stdout();
    let wanted = format!("{owner}=");
    let expected = line.split_whitespace().find_map(|word| word.strip_prefix(&wanted)).context("no pid")?;
    let told = answer(watch)?;
    let found = only(&told, "owners", is_owner)?;
    ensure!(pid(found) == Some(expected.parse()?), "not {expected}: {found:#}");
    ensure!(found["count"] == 1 && found["exact"] == true, "{found:#}");
    Ok(())
}

/// A dual-stack server closes IPv4 connections first: the kernel has their addresses mapped.
pub fn ipv4_on_ipv6_socket() -> Result<()> {
    let net = Topology::new()?;
    let server = servers::steps(
        &net.server,
        &format!("tcp reuseaddr bind={} listen=8 accept close accept close wait", Family::V6.any(18737)),
    )?;
    let watch = watch(&net.server)?;
    let steps = format!("many=2,{} sleep=300 exit=0", Family::V4.server(18737));
    let client = net.client.spawn(&clients::steps(&steps)?)?;
    client.wait_for_line("connected 2", START)?;
    wait_for(&net.server, 2)?;
    let told = answer(watch)?;
    let owner = only(&told, "owners", is_owner)?;
    ensure!(pid(owner) == Some(server.pid()) && owner["count"] == 2 && owner["exact"] == true, "{owner:#}");
    Ok(())
}

/// A process that ends with open connections closes them all, and its name is kept.
pub fn exit_without_close() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18738);
    let _echo = servers::echo(&net.server, address)?;
    let watch = watch(&net.client)?;
    let client = net.client.spawn(&clients::steps(&format!("many=17,{address} exit=0"))?)?;
    let gone = client.pid();
    client.wait(LIMIT)?;
    wait_for(&net.client, 17)?;
    let told = answer(watch)?;
    let owner = only(&told, "owners", is_owner)?;
    ensure!(pid(owner) == Some(gone) && owner["process"]["comm"] == "nd-client", "{owner:#}");
    ensure!(owner["count"] == 17 && owner["exact"] == true && owner["ended"] == true, "{owner:#}");
    Ok(())
}

/// Killed, each with open connections over IPv6: of one name they are one row, whose count is that of ss.
pub fn killed_processes() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V6.server(18744);
    let _echo = servers::echo(&net.server, address)?;
    let watch = watch(&net.client)?;
    for count in [9, 4] {
        let client = net.client.spawn(&clients::steps(&format!("many={count},{address} wait"))?)?;
        client.wait_for_line(&format!("connected {count}"), START)?;
        client.signal(Signal::SIGKILL)?;
        client.wait(LIMIT)?;
    }
    wait_for(&net.client, 13)?;
    let waiting = ss(&net.client, "state time-wait dport = :18744")?;
    let told = answer(watch)?;
    let owner = only(&told, "owners", is_owner)?;
    ensure!(owner["count"] == waiting && owner["exact"] == true && owner["ended"] == true, "{owner:#}");
    ensure!(owner["processes"] == 2 && owner["process"]["comm"] == "nd-client", "{owner:#}");
    Ok(())
}

/// What was closed before is at best likely: one process that has a connection there; with two, nobody is named.
pub fn closed_before() -> Result<()> {
    let net = Topology::new()?;
    let [plain, lone] = [18739, 18740].map(|port| Family::V4.server(port));
    let _echoes = [servers::echo(&net.server, plain)?, servers::echo(&net.server, lone)?];
    let steps = |address| format!("churn=6,{address} connect={address} wait");
    let likely = net.client.spawn(&clients::steps(&steps(lone))?)?;
    likely.wait_for_line("connected 6", START)?;
    let gone = net.client.spawn(&clients::steps(&format!("churn=4,{plain}"))?)?;
    gone.wait(LIMIT)?;
    wait_for(&net.client, 10)?;
    let told = answer(watch(&net.client)?)?;
    let owner = only(&told, "its", |object| pid(object) == Some(likely.pid()))?;
    ensure!(owner["count"] == 6 && owner["exact"] == false && owner["exact_count"] == 0, "{owner:#}");
    let unknown = only(&told, "of nobody", |object| is_owner(object) && object["process"].is_null())?;
    ensure!(unknown["count"] == 4 && unknown["exact"] == false, "{unknown:#}");
    let summary = summary(&told)?;
    ensure!(summary["count"] == 10 && summary["exact_count"] == 0 && summary["missed"] == 0, "{summary:#}");
    Ok(())
}

/// A range of a hundred ports, all in TIME_WAIT towards one destination.
pub fn ports_run_out() -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv4.ip_local_port_range", "41000 41099")?;
    let [full, other] = [18741, 18742].map(|port| Family::V4.server(port));
    let _echoes = [servers::echo(&net.server, full)?, servers::echo(&net.server, other)?];
    let watch = watch(&net.client)?;
    let client = net.client.spawn(&clients::steps(&format!("churn=200,{full} wait"))?)?;
    let gone = client.pid();
    client.wait(LIMIT)?.says("churn: EADDRNOTAVAIL")?;
    let _few = churn(&net.client, 3, other)?;
    wait_for(&net.client, 103)?;
    let waiting = ss(&net.client, "state time-wait dport = :18741")?;
    let told = answer(watch)?;
    let owner = only(&told, "its", |object| pid(object) == Some(gone))?;
    ensure!(owner["count"] == waiting && owner["exact"] == true, "{owner:#}");
    let summary = summary(&told)?;
    ensure!(summary["level"] == "exhausted", "{summary:#}");
    let ports = &summary["ports"];
    ensure!(ports[0]["destination"]["port"] == 18741 && ports[0]["size"] == 100, "{summary:#}");
    ensure!(ports[0]["used"] == waiting && ports[0]["left"] == 100 - waiting, "{summary:#}");
    ensure!(ports[1]["destination"]["port"] == 18742 && ports[1]["left"] == 97, "{summary:#}");
    let command = format!("ip netns exec {} sysctl -w net.ipv4.ip_local_port_range", net.client.name());
    let steps = summary["next_steps"].as_array().context("no steps")?;
    ensure!(steps.iter().any(|step| step["command"].as_str().is_some_and(|text| text.starts_with(&command))));
    Ok(())
}

/// A connection that is reset leaves no TIME_WAIT, and nobody is named for it.
pub fn reset_is_none() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18743);
    let _echo = servers::echo(&net.server, address)?;
    let watch = watch(&net.client)?;
    let client = net.client.spawn(&clients::steps(&format!("connect={address} linger0 close wait"))?)?;
    client.wait_for_line("connected", START)?;
    std::thread::sleep(Duration::from_millis(300));
    let told = answer(watch)?;
    ensure!(told.len() == 1 && summary(&told)?["count"] == 0, "{told:#?}");
    Ok(())
}

/// 50,000, made by five processes at once as fast as they can: at least 99 % of them have their owner, and the
/// counts are those of ss.
pub fn fifty_thousand() -> Result<()> {
    const EACH: usize = 10_000;
    let net = Topology::new()?;
    net.client.sysctl("net.ipv4.tcp_max_tw_buckets", "262144")?;
    net.client.sysctl("net.ipv4.ip_local_port_range", "10000 60999")?;
    let addresses = [18751, 18752, 18753, 18754, 18755].map(|port| Family::V4.server(port));
    let echo =
        |address| servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=4096 echo"));
    let _echoes: Vec<Process> = addresses.into_iter().map(echo).collect::<Result<_>>()?;
    let watch = watch(&net.client)?;
    let start = |address| net.client.spawn(&clients::steps(&format!("churn={EACH},{address} wait"))?);
    let churners: Vec<Process> = addresses.into_iter().map(start).collect::<Result<_>>()?;
    for churner in &churners {
        churner.wait_for_line("connected", Duration::from_secs(50))?;
    }
    // The server's side of the last ones closes a moment later.
    let total = || ss(&net.client, "state time-wait");
    let (mut last, mut now) = (0, total()?);
    while now != last {
        std::thread::sleep(Duration::from_millis(300));
        (last, now) = (now, total()?);
    }
    let counted = |port: u16| ss(&net.client, &format!("state time-wait dport = :{port}"));
    let before: Vec<u64> = addresses.iter().map(|address| counted(address.port())).collect::<Result<_>>()?;
    let told = answer(watch)?;
    let after: Vec<u64> = addresses.iter().map(|address| counted(address.port())).collect::<Result<_>>()?;
    let summary = summary(&told)?;
    let count = summary["count"].as_u64().context("no count")?;
    let exact = summary["exact_count"].as_u64().context("no count")?;
    println!("{exact} of {count} exact, {} missed; ss: {before:?}", summary["missed"]);
    ensure!(count <= before.iter().sum() && count >= after.iter().sum(), "{before:?} {after:?} {summary:#}");
    ensure!(count >= 49_000, "only {count} at once: {summary:#}");
    ensure!(exact * 100 >= count * 99 && summary["missed"] == count - exact, "{summary:#}");
    for ((churner, address), (most, least)) in churners.iter().zip(addresses).zip(before.iter().zip(&after)) {
        let owner = only(&told, "its", |object| pid(object) == Some(churner.pid()))?;
        let own = owner["exact_count"].as_u64().context("no count")?;
        ensure!(own * 100 >= least * 99 && own <= *most, "ss: {most}, {least}; {owner:#}");
        let ends = owner["destinations"].as_array().context("no destinations")?;
        ensure!(ends.len() == 1 && ends[0]["port"] == address.port(), "{owner:#}");
    }
    Ok(())
}
