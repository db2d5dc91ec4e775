//! A listener whose accept queue is full, and which resets what does not fit.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, Command};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::process::Process;
use netdiag_tests::servers;

use super::OVERFLOW;

/// Three connections at once; what the first read of each gives.
fn three_at_once(family: Family, port: u16) -> Command {
    const SCRIPT: &str = "
import errno, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
all = [socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) for _ in range(3)]
for s in all:
    s.setblocking(False)
    s.connect_ex((host, port))
time.sleep(0.9)
for s in all:
    try:
        s.recv(1)
    except OSError as e:
        print(errno.errorcode[e.errno])
";
    let address = family.server(port);
    let words = ["python3", "-c", SCRIPT, &address.ip().to_string(), &address.port().to_string()];
    words.map(str::to_owned).to_vec()
}

/// A listener with room for two more connections, behind a line that is slow from the second packet on:
/// three SYNs find room, but only two of the ACKs that end the handshake.
fn nearly_full(net: &Topology, family: Family, port: u16) -> Result<(Process, Process)> {
    let server = servers::never_accepts(&net.server, family.server(port), 4)?;
    let fill = clients::steps(&format!("many=3,{} wait", family.server(port)))?;
    let client = net.client.spawn(&fill)?;
    client.wait_for_line("connected 3", Duration::from_secs(5))?;
    net.server.tc("qdisc add dev eth0 root tbf rate 4kbit burst 100 limit 5000")?;
    Ok((server, client))
}

pub fn with_abort(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_abort_on_overflow", "1")?;
    let _queue = nearly_full(&net, family, 18124)?;
    let report = net.netdiag_run(&three_at_once(family, 18124))?;
    ensure!(report.stdout.contains("ECONNRESET"), "{}", report.dump());
    let found = report.exits(0)?.the_only(OVERFLOW)?.errno(Some("ECONNRESET"))?;
    found.has("/where/netns_name", net.server.name())?.has("/listener/backlog", 4)?;
    found.has("/listener/processes/0/comm", "nd-server")?.mentions("/process/comm", "python")?;
    Ok(())
}

/// The default: the last ACK of the handshake is ignored and the client waits.
pub fn without_abort() -> Result<()> {
    let net = Topology::new()?;
    let _queue = nearly_full(&net, Family::V4, 18125)?;
    net.netdiag_run(&three_at_once(Family::V4, 18125))?.exits(0)?.never(OVERFLOW)?;
    Ok(())
}

pub fn closed_unread() -> Result<()> {
    let net = Topology::new()?;
    net.server.sysctl("net.ipv4.tcp_abort_on_overflow", "1")?;
    let address = Family::V4.server(18126);
    let _server = servers::closes_unread(&net.server, address, 100)?;
    let report = net.netdiag_run(&clients::steps(&format!("connect={address} send=100 recv=9"))?)?;
    report.exits(1)?.never(OVERFLOW)?;
    Ok(())
}
