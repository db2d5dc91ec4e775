//! netdiag is started, stopped and read as it should be; a stand-in takes its place.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::Namespace;
use netdiag_tests::netdiag::{Run, Watch};

/// A stand-in for netdiag that keeps to its command line, and always has the same to say.
fn stand_in() -> Result<tempfile::TempDir> {
    const SCRIPT: &str = r#"#!/bin/sh
mode=$1
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    if [ "$1" = --output ]; then out=$2; fi
    shift
done
inode=$(readlink /proc/self/ns/net | tr -dc 0-9)
say() {
    echo "{\"schema\":\"netdiag/1\",\"kind\":\"diagnosis\",\"time\":\"t\",\"host\":\"h\",\"code\":\"$1\",\"connection\":{\"netns\":$2}}" >> "$out"
}
say timeout.no-reply "$inode"
if [ "$mode" = run ]; then shift; "$@"; exit $?; fi
say local.elsewhere 1
trap 'exit 0' INT
echo "netdiag: watching" >&2
while :; do sleep 0.02; done
"#;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("netdiag");
    std::fs::write(&file, SCRIPT)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

pub fn run_is_driven() -> Result<()> {
    let namespace = Namespace::new("run")?;
    let stand_in = stand_in()?;
    let program = stand_in.path().join("netdiag");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();

    let report = Run::inside(&namespace).program(&program).command(&words("false"))?;
    report
        .exits(1)?
        .the_only("timeout.no-reply")?
        .has("/connection/netns", namespace.inode())?
        .errno(None)?;
    let error = report.nothing().err().context("a diagnosis was overlooked")?.to_string();
    ensure!(error.contains("\"timeout.no-reply\"") && error.contains("ip addr"), "{error}");

    let report = Run::outside(&namespace).program(&program).command(&words("readlink /proc/self/ns/net"))?;
    ensure!(report.stdout.contains(&namespace.inode().to_string()), "{}", report.dump());

    let leaves_a_hook =
        Run::inside(&namespace).program(&program).command(&words("tc qdisc add dev lo clsact"));
    ensure!(leaves_a_hook.is_err_and(|error| error.to_string().starts_with("tc hooks were")));

    let start = Instant::now();
    let hangs = Run::inside(&namespace).program(&program).limit(Duration::from_millis(200));
    ensure!(hangs.command(&words("sleep 100")).is_err() && start.elapsed() < Duration::from_secs(5));
    Ok(())
}

pub fn watch_is_driven() -> Result<()> {
    let namespace = Namespace::new("watch")?;
    let stand_in = stand_in()?;
    let program = stand_in.path().join("netdiag");
    let watch = Watch::start_program_inside(&program, &[&namespace], &["port 80"])?;
    watch.wait_for("timeout.no-reply", Duration::from_secs(2))?;
    ensure!(watch.wait_for("refused.no-listener", Duration::from_millis(50)).is_err());
    // What happened in another namespace is not in the report.
    watch.stop()?.exits(0)?.the_only("timeout.no-reply")?;
    Ok(())
}
