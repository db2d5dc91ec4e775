//! Memory with many open connections.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use netdiag_tests::process::Process;
use serde_json::json;

use super::fresh_namespace;
use crate::bpf::sockets;
use crate::context::{Context, pause};
use crate::load::open::most;
use crate::report::Row;
use crate::stats::thousands;
use crate::tracer::{Tracer, memory};

const NAME: &str = "memory";
const CONNECTIONS: u64 = 100_000;
const TARGET_MB: f64 = 30.0;
/// What 200,000 sockets with their files take, generously.
const NEEDED: u64 = 2 << 30;

pub fn seconds(_: &Context) -> f64 {
    25.0
}

pub fn run(context: &Context) -> Result<Vec<Row>> {
    const WHAT: &str = "100,000 open connections";
    if most()? < 1000 {
        let why = "a process may open fewer than 2,000 files, and the limit cannot be raised";
        return Ok(vec![Row::skipped(NAME, WHAT, why)]);
    }
    if available().is_some_and(|bytes| bytes < NEEDED) {
        return Ok(vec![Row::skipped(NAME, WHAT, "less than 2 GiB of memory are free")]);
    }
    let namespace = fresh_namespace()?;
    let tracer = Tracer::start(context)?;
    let at_start = memory(tracer.pid(), "VmRSS").context("netdiag is gone")?;
    let mut loads = Vec::new();
    for share in shares(CONNECTIONS, most()?) {
        loads.push(context.load(&namespace, context.cpu, &["open", "--connections", &share.to_string()])?);
    }
    loads.iter_mut().try_for_each(wait_until_open)?;
    pause(Duration::from_secs(1))?;
    let resident = memory(tracer.pid(), "VmRSS").context("netdiag is gone")?;
    let maps = tracer.maps()?;
    let kept = sockets(tracer.pid()).context("netdiag has no table of sockets")?;
    drop(loads);
    drop(namespace);
    let told = tracer.stop()?;
    let lost = told.counter("sockets_lost_map_full");
    let map_bytes: u64 = maps.iter().map(|map| map.bytes).sum();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let target = format!("≤ {TARGET_MB} MB");
    let result = format!("{:.1} MB ({:.1} MB at the start)", megabytes(resident), megabytes(at_start));
    Ok(vec![
        Row::measured(
            NAME,
            "resident memory of the process",
            target,
            result,
            megabytes(resident) <= TARGET_MB,
        )
        .with(json!({ "resident": resident, "at_start": at_start })),
        Row::shown(
            NAME,
            format!("memory of the {} kernel maps, as the kernel counts it", maps.len()),
            format!("{:.1} MB", megabytes(map_bytes)),
        )
        .with(json!({ "maps": maps, "bytes": map_bytes })),
        bounded(kept, lost),
    ])
}

/// What the table of open sockets has, and what is counted as beyond it.
fn bounded(kept: u64, lost: u64) -> Row {
    let result = format!(
        "{} sockets in the table, {} counted as beyond it",
        thousands(kept as f64),
        thousands(lost as f64)
    );
    let target = "each connection, or a count of it";
    Row::measured(NAME, "100,000 connections kept in mind", target, result, kept + lost >= CONNECTIONS)
        .with(json!({ "sockets_kept": kept, "sockets_lost_map_full": lost }))
}

/// How many connections each process holds: no more than `most`.
fn shares(total: u64, most: u64) -> Vec<u64> {
    (0..total.div_ceil(most)).map(|number| most.min(total - number * most)).collect()
}

fn wait_until_open(load: &mut Process) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !load.stdout().contains("open") {
        if !load.is_running() {
            bail!("the connections could not be opened: {}", load.stderr());
        }
        if Instant::now() > end {
            bail!("the connections were not open after a minute");
        }
        pause(Duration::from_millis(50))?;
    }
    Ok(())
}

fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(100, 40), [40, 40, 20]);
        assert_eq!(shares(100, 100), [100]);
        assert_eq!(shares(100, 1000), [100]);
    }
}
