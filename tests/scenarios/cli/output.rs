//! What is told, where, and in which form.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Run, Watch};
use netdiag_tests::process::run;
use netdiag_tests::servers;

use super::{LIMIT, NO_LISTENER, netdiag_inside};

/// Escape sequences go to a terminal, unless the user does not want them.
pub fn colour_on_a_terminal_only() -> Result<()> {
    const ESCAPE: char = '\x1b';
    let host = Namespace::new("host")?;
    let client = clients::connect(Family::V4.loopback(18601))?;
    let words: Vec<&str> = client.iter().map(String::as_str).collect();
    let piped = run(netdiag_inside(&host, &[&["run", "--"], &words[..]].concat())?, LIMIT)?;
    ensure!(!piped.stderr.contains(ESCAPE) && piped.stderr.contains(NO_LISTENER), "{piped}");

    let netdiag = netdiag_inside(&host, &[])?;
    let program = netdiag.get_program().to_string_lossy().into_owned();
    for (colour, no_color, option) in [(true, "", ""), (false, "1", ""), (false, "", "--no-color")] {
        let mut command = host.command("script");
        command.args([
            "-q",
            "-e",
            "-c",
            &format!("{program} {option} run -- {}", client.join(" ")),
            "/dev/null",
        ]);
        command.env("NO_COLOR", no_color).env("TERM", "xterm");
        let output = run(command, LIMIT)?;
        output.exits(1)?.says(NO_LISTENER)?;
        ensure!(output.stdout.contains(ESCAPE) == colour, "NO_COLOR={no_color} {option}: {output}");
    }
    Ok(())
}

/// The card has the headline, the code, and a command to go on with.
pub fn text_tells_the_same() -> Result<()> {
    let host = Namespace::new("host")?;
    let client = clients::connect(Family::V4.loopback(18602))?;
    let words: Vec<&str> = client.iter().map(String::as_str).collect();
    let output = run(netdiag_inside(&host, &[&["run", "--"], &words[..]].concat())?, LIMIT)?;
    output.exits(1)?;
    let told = &output.stderr;
    for part in
        ["nd-client[", "127.0.0.1:18602", NO_LISTENER, "certain", "ECONNREFUSED", "ss -ltnp", "1 failed"]
    {
        ensure!(told.contains(part), "no {part:?} in {output}");
    }
    ensure!(output.stdout == "connect: ECONNREFUSED\n", "{output}");
    Ok(())
}

pub fn filter_leaves_others_out() -> Result<()> {
    let host = Namespace::new("host")?;
    let watch = Watch::start(&[&host], &["tcp and dst port 18603 and not comm curl"])?;
    for port in [18604, 18603, 18604] {
        host.run(&clients::connect(Family::V4.loopback(port))?)?.exits(1)?;
    }
    watch.wait_for(NO_LISTENER, Duration::from_secs(5))?;
    std::thread::sleep(Duration::from_millis(300));
    watch.stop()?.exits(0)?.the_only(NO_LISTENER)?.has("/connection/peer/port", 18603)?;
    Ok(())
}

/// A connection that works is told of only when that is asked for.
pub fn all_tells_of_healthy_connections() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V4.server(18605);
    let _server = servers::echo(&net.server, address)?;
    let client = clients::steps(&format!("connect={address} send=9 recv=9 close"))?;
    let report = Run::inside(&net.client).options(&["--all"]).command(&client)?;
    report.exits(0)?.nothing()?;
    let told = report.of_kind("connection").next().with_context(|| report.dump())?;
    ensure!(told["connection"]["peer"]["port"] == 18605, "{}", report.dump());
    ensure!(told["process"]["comm"] == "nd-client", "{}", report.dump());
    let report = Run::inside(&net.client).command(&client)?;
    ensure!(report.nothing()?.of_kind("connection").next().is_none(), "{}", report.dump());
    Ok(())
}

/// Evidence is appended, one object a line.
pub fn evidence_is_saved() -> Result<()> {
    let host = Namespace::new("host")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("evidence.jsonl");
    let options = ["--save-evidence", &file.to_string_lossy()];
    for port in [18606, 18607] {
        let client = clients::connect(Family::V4.loopback(port))?;
        Run::inside(&host).options(&options).command(&client)?.exits(1)?.the_only(NO_LISTENER)?;
    }
    let text = std::fs::read_to_string(&file)?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    ensure!(lines.len() == 2 && lines.iter().all(|line| line["connection"].is_object()), "{text}");
    Ok(())
}

/// Many failures of one kind are one report with a count, and none is missing from it.
pub fn repeats_are_counted() -> Result<()> {
    const TIMES: u64 = 30;
    let host = Namespace::new("host")?;
    let address = Family::V4.loopback(18608).to_string();
    let mut command = ["sh", "-c", "n=$0; while [ $n -gt 0 ]; do \"$@\" >/dev/null; n=$((n-1)); done"]
        .map(str::to_owned)
        .to_vec();
    command.push(TIMES.to_string());
    command.extend(clients::steps(&format!("tcp connect={address}"))?);
    let report = Run::inside(&host).command(&command)?;
    ensure!(report.diagnoses.iter().all(|one| one["code"] == NO_LISTENER), "{}", report.dump());
    let counted: u64 = report.diagnoses.iter().filter_map(|one| one["count"].as_u64()).sum();
    ensure!(counted == TIMES, "{counted} of {TIMES} counted\n{}", report.dump());
    Ok(())
}
