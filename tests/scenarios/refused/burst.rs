//! More refusals at once than there are records of drops for.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::clients::Command;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::{Report, Watch};
use netdiag_tests::servers;
use serde_json::Value;

use super::{NO_LISTENER, REJECT};

/// Above the limit of packets that nobody waits for, in one window and on one processor.
const PORTS: u16 = 1_600;
/// Above the limit of one flow.
const AGAIN: u16 = 120;
const SOON: Duration = Duration::from_secs(30);

/// Connects once to each of so many ports, with a pause now and then in which the records can be taken.
fn client(family: Family, first: u16, count: u16, step: u16) -> Command {
    const SCRIPT: &str = "
import errno, socket, sys, time
host, first, count, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for n in range(count):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    if s.connect_ex((host, first + n * step)) != errno.ECONNREFUSED: sys.exit(2)
    s.close()
    if n % 200 == 199: time.sleep(0.02)
";
    let host = family.loopback(0).ip().to_string();
    let words = [host, first.to_string(), count.to_string(), step.to_string()];
    ["python3", "-c", SCRIPT].into_iter().map(str::to_owned).chain(words).collect()
}

fn watched(host: &Namespace, command: &Command, code: &str) -> Result<Report> {
    let watch = Watch::start(&[host], &[])?;
    host.run(command)?.exits(0)?;
    watch.wait_for(code, SOON)?;
    watch.stop()
}

/// Each is explained, with this code and by the drop of its SYN.
fn all_are(report: &Report, host: &Namespace, code: &str, count: u64) -> Result<()> {
    let here = |object: &&Value| object["connection"]["netns"] == host.inode();
    let unexplained = report.of_kind("connection").filter(here).count();
    ensure!(unexplained == 0, "{unexplained} are unexplained\n{}", report.dump());
    let other = report.diagnoses.iter().find(|one| one["code"] != code || one["confidence"] == "possible");
    ensure!(other.is_none(), "expected {code} alone, got {:#}", other.unwrap_or(&Value::Null));
    let told: u64 = report.diagnoses.iter().filter_map(|one| one["count"].as_u64()).sum();
    let lost = report.of_kind("status").filter_map(|status| status["lost_events"].as_u64()).sum::<u64>();
    ensure!(told <= count && told + lost >= count, "{told} of {count} were told, {lost} records lost");
    Ok(())
}

/// Many ports, and one port many times.
pub fn not_listening(family: Family, port: u16) -> Result<()> {
    for (count, step) in [(PORTS, 1), (AGAIN, 0)] {
        all_certain(&client(family, port, count, step), count)?;
    }
    Ok(())
}

fn all_certain(command: &Command, count: u16) -> Result<()> {
    let host = Namespace::new("host")?;
    let report = watched(&host, command, NO_LISTENER)?;
    all_are(&report, &host, NO_LISTENER, count.into())?;
    let surely = report.diagnoses.iter().all(|one| one["confidence"] == "certain");
    ensure!(surely, "{}", report.dump());
    Ok(())
}

/// Whatever was not looked up for most of them: nobody may call it a missing listener.
pub fn rejected(family: Family, port: u16) -> Result<()> {
    let host = Namespace::new("host")?;
    host.nft(&format!(
        "table inet fw {{ chain c {{ type filter hook input priority 0; tcp dport {port} reject with tcp reset; }}; }}"
    ))?;
    let _server = servers::echo(&host, family.loopback(port))?;
    let report = watched(&host, &client(family, port, AGAIN, 0), REJECT)?;
    all_are(&report, &host, REJECT, AGAIN.into())
}

/// As above, where nothing listens either.
pub fn rejected_without_listener(port: u16) -> Result<()> {
    let host = Namespace::new("host")?;
    let last = port + PORTS - 1;
    host.nft(&format!(
        "table inet fw {{ chain c {{ type filter hook input priority 0; tcp dport {port}-{last} reject with tcp reset; }}; }}"
    ))?;
    let report = watched(&host, &client(Family::V4, port, PORTS, 1), REJECT)?;
    all_are(&report, &host, REJECT, PORTS.into())
}
