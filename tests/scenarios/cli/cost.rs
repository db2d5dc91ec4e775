//! netdiag shows what it costs itself.

use anyhow::{Context, Result, ensure};
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::process::run;
use serde_json::Value;

use super::{LIMIT, NO_LISTENER, netdiag_inside};

/// Whether the kernel counts the runs of all programs, as the user set it.
fn setting() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?.trim().to_owned())
}

fn status(report: &Report) -> Result<&Value> {
    report.of_kind("status").last().with_context(|| report.dump())
}

fn named<'a>(status: &'a Value, array: &str, name: &str) -> Result<&'a Value> {
    let one = status[array].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    one.with_context(|| format!("no {name} in {array} of {status:#}"))
}

fn refused(host: &Namespace, options: &[&str], port: u16) -> Result<Report> {
    let client = clients::connect(Family::V4.loopback(port))?;
    let report = Run::inside(host).options(options).command(&client)?;
    report.exits(1)?.the_only(NO_LISTENER)?;
    Ok(report)
}

/// Runs, times, entries and memory are there, and no setting was changed for them.
pub fn stats_are_shown() -> Result<()> {
    let before = setting()?;
    let host = Namespace::new("host")?;
    let report = refused(&host, &["--stats"], 18620)?;
    let status = status(&report)?;
    let recorder = named(status, "programs", "inet_sock_set_state")?;
    let positive = |value: &Value| value.as_u64().is_some_and(|value| value > 0);
    ensure!(recorder["hook"] == "tp_btf inet_sock_set_state", "{recorder:#}");
    for field in ["runs", "run_time_ns", "memory_bytes"] {
        ensure!(positive(&recorder[field]), "no {field} in {recorder:#}");
    }
    let maps = status["maps"].as_array().with_context(|| report.dump())?;
    ensure!(maps.len() > 3 && maps.iter().all(|map| positive(&map["max_entries"])), "{status:#}");
    // Linux before 6.4 says 0 for some kinds of map.
    let memory: u64 = maps.iter().filter_map(|map| map["memory_bytes"].as_u64()).sum();
    ensure!(memory > 1_000_000, "maps of {memory} bytes in {status:#}");
    ensure!(named(status, "maps", "TRACKED")?["entries"].is_u64(), "{status:#}");
    ensure!(named(status, "maps", "EVENTS")?["entries"].is_null(), "{status:#}");
    ensure!(positive(&status["cpu_us"]) && positive(&status["resident_bytes"]), "{status:#}");
    ensure!(setting()? == before, "kernel.bpf_stats_enabled was {before}, now is {}", setting()?);
    Ok(())
}

/// Without `--stats` nothing is counted, and what is not counted is null and not 0.
pub fn what_is_not_counted_is_null() -> Result<()> {
    if setting()? == "1" {
        return netdiag_tests::scenario::skip("kernel.bpf_stats_enabled=1: the kernel counts for everybody");
    }
    let host = Namespace::new("host")?;
    let report = refused(&host, &[], 18621)?;
    let recorder = named(status(&report)?, "programs", "inet_sock_set_state")?;
    ensure!(recorder["runs"].is_null() && recorder["run_time_ns"].is_null(), "{recorder:#}");
    ensure!(recorder["memory_bytes"].is_u64(), "{recorder:#}");
    Ok(())
}

/// For people the tables come below the closing line.
pub fn stats_as_text() -> Result<()> {
    let host = Namespace::new("host")?;
    let output = run(netdiag_inside(&host, &["run", "--stats", "--", "true"])?, LIMIT)?;
    output.exits(0)?;
    let (closing, tables) =
        output.stderr.split_once("\n\n").with_context(|| format!("no tables in {output}"))?;
    ensure!(closing.starts_with("netdiag: 0 connections seen"), "{output}");
    for part in ["cost: ", " s CPU", "program ", "sched_process_fork ", "map ", "SOCKETS ", "TRACKED "] {
        ensure!(tables.contains(part), "no {part:?} in {output}");
    }
    Ok(())
}
