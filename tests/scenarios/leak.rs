//! Scenarios of the symptom `leak`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::Run;
use netdiag_tests::process::Process;
use netdiag_tests::scenario::Scenario;
use netdiag_tests::servers;
use serde_json::Value;

use crate::whose::open::sockets;
use crate::whose::{only, remarks};

const CLOSE_WAIT: &str = "leak.close-wait";
const LIMIT: Duration = Duration::from_secs(100);

pub const SCENARIOS: &[Scenario] = &[
    // Both families at once: it takes a minute.
    Scenario::hit(CLOSE_WAIT, "v4_and_v6", left_open).limit(LIMIT),
    Scenario::near_miss(CLOSE_WAIT, "closed_after_a_moment", closed_after_a_moment),
];

/// A server that closes its first connection at once.
fn closes(net: &Topology, address: SocketAddr) -> Result<Process> {
    servers::steps(&net.server, &format!("tcp reuseaddr bind={address} listen=8 accept close wait"))
}

/// One connection whose end the client has read, and one that it never looked at. `netdiag sockets` names them while
/// they are there, and `netdiag run` when the client has ended.
fn left_open() -> Result<()> {
    let net = Topology::new()?;
    let [read, blind] = [Family::V4.server(18801), Family::V6.server(18801)];
    let _servers = [closes(&net, read)?, closes(&net, blind)?];
    let client = clients::steps(&format!("many=1,{blind} connect={read} recv sleep=72000 exit=0"))?;
    let (report, found) = std::thread::scope(|scope| -> Result<_> {
        let look = scope.spawn(|| look_after_a_minute(&net));
        let report = Run::inside(&net.client).limit(LIMIT).command(&client)?;
        Ok((report, look.join().ok().context("the thread panicked")??))
    })?;

    let owner = only(&found, "owners", |object| object["kind"] == "owner")?;
    ensure!(owner["count"] == 2 && owner["over_minute"] == 2 && owner["over_ten_minutes"] == 0, "{owner:#}");
    ensure!(owner["process"]["comm"] == "nd-client", "{owner:#}");
    for (address, says) in [(read, "has read the end"), (blind, "has not read the end")] {
        let its = |object: &Value| object["peer"]["address"] == address.ip().to_string();
        let socket = only(&found, "sockets", its)?;
        ensure!(
            remarks(socket) == ["close-wait"] && socket["remarks"][0]["code"] == CLOSE_WAIT,
            "{socket:#}"
        );
        ensure!(socket["remarks"][0]["text"].as_str().is_some_and(|text| text.contains(says)), "{socket:#}");
    }

    report.exits(0)?;
    ensure!(report.codes() == [CLOSE_WAIT, CLOSE_WAIT], "{}", report.dump());
    let diagnoses: Vec<&Value> = report.of_kind("diagnosis").collect();
    for diagnosis in diagnoses {
        ensure!(
            diagnosis["confidence"] == "certain" && diagnosis["where"]["side"] == "local",
            "{diagnosis:#}"
        );
        ensure!(diagnosis["errno"].is_null() && diagnosis["process"]["comm"] == "nd-client", "{diagnosis:#}");
        let summary = diagnosis["summary"].as_str().unwrap_or_default();
        ensure!(summary.contains("until the process ended"), "{summary}");
    }
    Ok(())
}

/// What `netdiag sockets` says once both have waited for a minute, or shortly before the client ends.
fn look_after_a_minute(net: &Topology) -> Result<Vec<Value>> {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(62_000));
    loop {
        let found = sockets(&net.client, &["--state", "close-wait"])?;
        let is_owner = |object: &&Value| object["kind"] == "owner" && object["over_minute"] == 2;
        if found.iter().any(|object| is_owner(&object)) || start.elapsed() > Duration::from_secs(70) {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The peer closes first, and the client a moment later.
fn closed_after_a_moment() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let address = family.server(18802);
        let _server = closes(&net, address)?;
        let steps = format!("connect={address} recv sleep=1500 close");
        net.netdiag_run(&clients::steps(&steps)?)?.exits(0)?.nothing()?;
    }
    Ok(())
}
