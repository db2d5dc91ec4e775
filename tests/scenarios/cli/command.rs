//! The command under `netdiag run` hardly notices, and all of its children are followed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, steps};
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::process::{Process, run};
use netdiag_tests::tools;
use nix::sys::signal::Signal;

use super::{LIMIT, NO_LISTENER, netdiag, run_netdiag};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub fn passes_the_exit_status_on() -> Result<()> {
    for (script, status) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
    ] {
        run_netdiag(&["run", "--", "sh", "-c", script])?.exits(status)?;
    }
    Ok(())
}

pub fn leaves_the_streams_alone() -> Result<()> {
    let report = tempfile::NamedTempFile::new()?;
    let options = ["run", "--format", "json", "--output", &report.path().to_string_lossy(), "--"];
    let script = ["sh", "-c", "echo out; echo err >&2; printf 'no end'"];
    let output = run(netdiag(&[&options[..], &script].concat())?, LIMIT)?;
    ensure!(output.stdout == "out\nno end" && output.stderr == "err\n", "{output}");
    // Without --output the report is on standard error, and a last line says what was seen.
    let output = run_netdiag(&["run", "--", "echo", "out"])?;
    ensure!(output.stdout == "out\n", "{output}");
    ensure!(output.stderr.lines().count() == 1 && output.stderr.starts_with("netdiag: "), "{output}");
    // Standard input is the command's, too, and large output gets through whole.
    let mut pipeline = Command::new("sh");
    pipeline.args(["-c", "head -c 3000000 /dev/zero | \"$0\" run -- cat | wc -c"]);
    pipeline.arg(netdiag(&[])?.get_program());
    let output = run(pipeline, LIMIT)?;
    ensure!(output.stdout.trim() == "3000000", "{output}");
    Ok(())
}

/// Open files, blocked and ignored signals, environment, working directory and process group are what
/// they would be without netdiag.
pub fn inherits_nothing() -> Result<()> {
    const SCRIPT: &str = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)|Cap(Eff|Amb)|NoNewPrivs' /proc/self/status; pwd; env | sort | \
                          grep -v ^_=; ulimit -a";
    let mut plain = Command::new(tools::path("sh"));
    plain.args(["-c", SCRIPT]).env("NO_COLOR", "1");
    let plain = run(plain, LIMIT)?;
    let under = run_netdiag(&["run", "--", "sh", "-c", SCRIPT])?;
    ensure!(plain.stdout == under.stdout, "without netdiag:\n{plain}\nwith it:\n{under}");
    Ok(())
}

/// SIGTERM to netdiag is passed on, Ctrl-C reaches both, and netdiag ends as its command does.
pub fn signals_reach_the_command() -> Result<()> {
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let process = Process::spawn(netdiag(&["run", "--", "sh", "-c", "echo started; exec sleep 20"])?)?;
        process.wait_for_line("started", LIMIT)?;
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        process.signal(signal)?;
        process.wait(Duration::from_secs(8))?.exits(status)?;
        ensure!(start.elapsed() < Duration::from_secs(4), "{signal} took {:?}", start.elapsed());
    }
    // A command that handles the signal itself decides on the status.
    let script = "trap 'exit 9' TERM; echo started; while :; do sleep 0.05; done";
    let process = Process::spawn(netdiag(&["run", "--", "sh", "-c", script])?)?;
    process.wait_for_line("started", LIMIT)?;
    process.signal(Signal::SIGTERM)?;
    process.wait(Duration::from_secs(8))?.exits(9)?;
    Ok(())
}

/// The command connects to a port where nothing listens: netdiag must have seen it.
fn must_be_seen(host: &Namespace, command: &[String], port: u16) -> Result<Report> {
    let report = Run::inside(host).command(command)?;
    report.the_only(NO_LISTENER)?.has("/connection/peer/port", port)?;
    Ok(report)
}

pub fn follows_fork() -> Result<()> {
    const SCRIPT: &str = "
import os, socket
if os.fork() == 0:
    os._exit(0 if socket.socket().connect_ex(('127.0.0.1', 18401)) == 0 else 5)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
";
    let host = Namespace::new("host")?;
    must_be_seen(&host, &words(&["python3", "-c", SCRIPT]), 18401)?.exits(5)?;
    Ok(())
}

pub fn follows_exec() -> Result<()> {
    let host = Namespace::new("host")?;
    let mut command = words(&["sh", "-c", "exec env -- \"$@\"", "sh"]);
    command.extend(clients::connect(Family::V4.loopback(18402))?);
    must_be_seen(&host, &command, 18402)?.exits(1)?;
    Ok(())
}

pub fn follows_setsid() -> Result<()> {
    let host = Namespace::new("host")?;
    let mut command = words(&["setsid", "--fork", "--wait"]);
    command.extend(clients::connect(Family::V6.loopback(18403))?);
    must_be_seen(&host, &command, 18403)?.exits(1)?;
    Ok(())
}

/// Its parent ends at once, and it belongs to init (or a subreaper) when it connects.
pub fn follows_a_daemon() -> Result<()> {
    let host = Namespace::new("host")?;
    let script = "(setsid --fork \"$@\" >/dev/null 2>&1 </dev/null); sleep 0.8";
    let mut command = words(&["sh", "-c", script, "sh"]);
    command.extend(steps(&format!("sleep=300 connect={}", Family::V4.loopback(18404)))?);
    must_be_seen(&host, &command, 18404)?.exits(0)?;
    Ok(())
}

pub fn follows_ip_netns_exec() -> Result<()> {
    let host = Namespace::new("host")?;
    let client = clients::connect(Family::V4.loopback(18405))?;
    let inner = format!("ip netns exec {} sh -c '\"$@\"; true' sh \"$@\"", host.name());
    let mut command = words(&["sh", "-c", &inner, "sh"]);
    command.extend(client);
    let elsewhere = Namespace::new("elsewhere")?;
    let report = Run::inside(&elsewhere).showing(&[&host]).command(&command)?;
    let found = report.exits(0)?.the_only(NO_LISTENER)?;
    found.has("/where/netns_name", host.name())?.has("/process/comm", "nd-client")?;
    Ok(())
}

/// What fails beside the command is none of its business.
pub fn tells_of_its_command_only() -> Result<()> {
    let host = Namespace::new("host")?;
    let script = "echo started; sleep 1";
    let command = words(&["sh", "-c", script]);
    let report = std::thread::scope(|scope| {
        let report = scope.spawn(|| Run::inside(&host).command(&command));
        let deadline = Instant::now() + LIMIT;
        let mut failed = 0;
        while !report.is_finished() && Instant::now() < deadline {
            let client = clients::connect(Family::V4.loopback(18406)).and_then(|client| host.run(&client));
            failed += i32::from(client.is_ok_and(|output| output.code() == 1));
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(failed > 5, "only {failed} connections failed meanwhile");
        report.join().unwrap_or_else(|_| anyhow::bail!("panicked"))
    })?;
    report.exits(0)?.nothing()?;
    Ok(())
}
