//! netdiag comes, watches and goes, however it is made to go.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Run, Watch};
use netdiag_tests::process::{Process, run};
use netdiag_tests::{bpf_objects, clients, hooks};
use nix::sys::signal::Signal;

use super::{LIMIT, NO_LISTENER, netdiag, netdiag_inside};

/// The kernel frees programs after a grace period.
const FREED_WITHIN: Duration = Duration::from_secs(5);

pub fn two_at_once() -> Result<()> {
    let host = Namespace::new("host")?;
    let client = clients::connect(Family::V4.loopback(18501))?;
    let first = Watch::start_inside(&[&host], &["port 18501"])?;
    let second = Watch::start_inside(&[&host], &["dst port 18501"])?;
    // The watches put hooks on the namespace that `run` checks for leftovers: theirs stay.
    let report = Run::inside(&host).command(&client)?;
    report.exits(1)?.the_only(NO_LISTENER)?.certain()?;
    for watch in [first, second] {
        watch.wait_for(NO_LISTENER, Duration::from_secs(5))?;
        watch.stop()?.exits(0)?.the_only(NO_LISTENER)?.certain()?;
    }
    ensure!(hooks::present(Some(&host))?.is_empty());
    Ok(())
}

fn pinned() -> BTreeSet<std::path::PathBuf> {
    fn walk(directory: &Path, found: &mut BTreeSet<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            }
            found.insert(entry.path());
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/bpf"), &mut found);
    found
}

/// Starts netdiag, ends it by `signal`, and looks for what is left of its programs.
fn ends(
    host: &Namespace,
    process: Process,
    pinned_before: &BTreeSet<std::path::PathBuf>,
    signal: Signal,
) -> Result<i32> {
    let objects = bpf_objects::objects(process.pid())?;
    ensure!(objects.iter().any(|(kind, _)| *kind == "prog"), "it has no program: {objects:?}");
    let hooked = !hooks::present(Some(host))?.is_empty() || !hooks::are_used();
    ensure!(hooked, "it has no tc hook, so this shows nothing");
    process.signal(signal)?;
    let output = process.wait(Duration::from_secs(8))?;
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        let mut left: Vec<String> = hooks::present(Some(host))?.into_iter().collect();
        for (kind, id) in &objects {
            if bpf_objects::exists(kind, *id)? {
                left.push(format!("{kind} {id}"));
            }
        }
        left.extend(pinned().difference(pinned_before).map(|path| path.display().to_string()));
        if left.is_empty() {
            return Ok(output.code());
        }
        ensure!(Instant::now() < deadline, "left behind: {left:?}\n{output}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn watch_ends_by(signal: Signal) -> Result<i32> {
    let net = Topology::new()?;
    let host = &net.client;
    let before = pinned();
    let process = Process::spawn(netdiag_inside(host, &["watch", "port 18502"])?)?;
    process.wait_for_error_line("netdiag: watching", LIMIT)?;
    ends(host, process, &before, signal)
}

pub fn ctrl_c_leaves_nothing() -> Result<()> {
    let code = watch_ends_by(Signal::SIGINT)?;
    ensure!(code == 0, "exit code {code}");
    Ok(())
}

pub fn sigterm_leaves_nothing() -> Result<()> {
    let code = watch_ends_by(Signal::SIGTERM)?;
    ensure!(code == 0, "exit code {code}");
    Ok(())
}

pub fn kill_leaves_nothing() -> Result<()> {
    let code = watch_ends_by(Signal::SIGKILL)?;
    ensure!(code == 137, "exit code {code}");
    Ok(())
}

/// The command lives on; it holds nothing of netdiag's.
pub fn killed_run_leaves_nothing() -> Result<()> {
    let net = Topology::new()?;
    let host = &net.client;
    let before = pinned();
    let command = ["run", "--", "sh", "-c", "echo started; exec sleep 20"];
    let process = Process::spawn(netdiag_inside(host, &command)?)?;
    process.wait_for_line("started", LIMIT)?;
    let code = ends(host, process, &before, Signal::SIGKILL)?;
    ensure!(code == 137, "exit code {code}");
    Ok(())
}

pub fn watch_ends_by_itself() -> Result<()> {
    let output = run(netdiag(&["watch", "--duration", "700ms", "port 18503"])?, LIMIT)?;
    output.exits(0)?;
    ensure!(output.stdout.is_empty(), "{output}");
    ensure!(output.stderr.lines().count() == 2, "expected a first and a last line from {output}");
    Ok(())
}

/// A namespace that is deleted while netdiag watches it goes away: netdiag soon holds no descriptor of it.
pub fn namespaces_are_let_go() -> Result<()> {
    let process = Process::spawn(netdiag(&["watch"])?)?;
    process.wait_for_error_line("netdiag: watching", LIMIT)?;
    let net = Topology::new()?;
    // Its end of a cable goes when the namespace at the other end does: not before the last that holds it lets go.
    let witness = Namespace::new("witness")?;
    witness.ip(&format!("link add w0 type veth peer name w1 netns {}", net.client.name()))?;
    let inodes: Vec<u64> = net.namespaces().iter().map(|namespace| namespace.inode()).collect();
    net.client.run(&clients::connect(Family::V4.server(18504))?)?.exits(1)?;
    // A SYN that is sent again brings tc to the namespace.
    net.server.ip("link set eth0 down")?;
    net.client.run(&clients::steps(&format!("connect={},1300", Family::V4.server(18505)))?)?;
    let hooked = !hooks::present(Some(&net.client))?.is_empty() || !hooks::are_used();
    ensure!(hooked, "tc never came, so this shows nothing");
    drop(net);
    let deadline = Instant::now() + Duration::from_secs(25);
    loop {
        let held = held_files(process.pid()).context("netdiag has ended")?;
        let left: Vec<&u64> = inodes.iter().filter(|inode| held.contains(inode)).collect();
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "descriptors of deleted namespaces are open: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    while witness.run(&["ip", "link", "show", "w0"])?.code() == 0 {
        ensure!(Instant::now() < deadline, "the client's namespace is kept alive");
        std::thread::sleep(Duration::from_millis(100));
    }
    process.signal(Signal::SIGINT)?;
    process.wait(LIMIT)?.exits(0)?;
    Ok(())
}

/// Inode numbers of all files that a process has descriptors of; those of namespaces are among them.
fn held_files(pid: u32) -> Result<BTreeSet<u64>> {
    // The link's text does not do: of a named namespace it is the path that it was opened by.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(open.filter_map(|entry| Some(std::fs::metadata(entry.path()).ok()?.ino())).collect())
}
