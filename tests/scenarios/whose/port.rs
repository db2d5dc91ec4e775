//! `netdiag port`.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::servers;

use super::{START, netdiag, only};

/// Both holders, with their process, address, namespace and start; and a connection from that port.
pub fn of_two_namespaces() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18701);
    let server = servers::echo(&net.server, address)?;
    let other = servers::echo(&net.router, Family::V6.any(18701))?;
    let client = net.client.spawn(&clients::steps(&format!("many=3,{address} wait"))?)?;
    client.wait_for_line("connected 3", START)?;
    let from = std::net::SocketAddr::new(Family::V4.client(), 18701);
    let own = net.client.spawn(&clients::steps(&format!("bind={from} connect={address} wait"))?)?;
    own.wait_for_line("connected", START)?;

    let found = netdiag(&["port", "18701"])?;
    let of = |pid: u32| {
        only(&found, "its", |object| {
            object["processes"].as_array().is_some_and(|all| all.iter().any(|p| p["pid"] == pid))
        })
    };
    let listener = of(server.pid())?;
    ensure!(listener["state"] == "LISTEN" && listener["local"]["address"] == address.ip().to_string());
    ensure!(listener["netns_name"] == net.server.name() && listener["netns"] == net.server.inode());
    ensure!(listener["connections"] == 4, "{listener:#}");
    ensure!(
        listener["processes"][0]["comm"] == "nd-server" && listener["processes"][0]["started"].is_string()
    );
    ensure!(of(other.pid())?["netns_name"] == net.router.name());
    let connection = of(own.pid())?;
    ensure!(connection["state"] == "ESTABLISHED" && connection["direction"] == "outbound", "{connection:#}");
    ensure!(found.len() == 3, "{found:#?}");
    Ok(())
}

/// Nobody: no object, and a line that says so.
pub fn of_nobody() -> Result<()> {
    let host = Namespace::new("host")?;
    let _other = servers::echo(&host, Family::V4.any(18703))?;
    ensure!(netdiag(&["port", "18702"])?.is_empty());
    let output = netdiag_tests::process::run(super::command(&["port", "18702"])?, START)?;
    output.says("nobody holds port 18702")?;
    Ok(())
}

/// A socket that is bound and does nothing holds its own port and no other.
pub fn bound_elsewhere() -> Result<()> {
    const SCRIPT: &str = "
import socket, time
s = socket.socket()
s.bind(('127.0.0.1', 18705))
print('bound', flush=True)
time.sleep(60)
";
    let host = Namespace::new("host")?;
    let holder = host.spawn(&["python3", "-c", SCRIPT])?;
    holder.wait_for_line("bound", START)?;
    ensure!(netdiag(&["port", "18706"])?.is_empty());
    // Before Linux 6.8 the kernel lists no socket that is bound only.
    let found = netdiag(&["port", "18705"])?;
    ensure!(
        found.len() < 2 && found.iter().all(|one| one["processes"][0]["pid"] == holder.pid()),
        "{found:#?}"
    );
    Ok(())
}

/// A listener that several processes hold is one object with all of them.
pub fn shared_by_workers() -> Result<()> {
    const SCRIPT: &str = "
import os, socket, time
s = socket.socket()
s.bind(('127.0.0.1', 18704))
s.listen(8)
children = [os.fork() for _ in range(1)]
print('ready', os.getpid(), *children, flush=True) if all(children) else None
time.sleep(60)
";
    let host = Namespace::new("host")?;
    let server = host.spawn(&["python3", "-c", SCRIPT])?;
    server.wait_for_line("ready", Duration::from_secs(5))?;
    let text = server.stdout();
    let mut expected: Vec<u64> = text.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let found = netdiag(&["port", "18704"])?;
    let processes = only(&found, "there", |_| true)?["processes"].as_array().cloned().unwrap_or_default();
    let mut pids: Vec<u64> = processes.iter().filter_map(|process| process["pid"].as_u64()).collect();
    pids.sort_unstable();
    expected.sort_unstable();
    ensure!(pids == expected, "{pids:?} instead of {expected:?}");
    Ok(())
}
