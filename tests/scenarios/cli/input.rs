//! What netdiag says to a command line that it cannot obey.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::netdiag::binary;
use netdiag_tests::process::run;
use netdiag_tests::tools;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{LIMIT, netdiag, one_line, run_netdiag};

pub fn names_the_missing_capability() -> Result<()> {
    for arguments in [&["run", "--", "echo", "started"][..], &["watch"], &["drops"]] {
        let mut command = std::process::Command::new(tools::path("setpriv"));
        command.arg("--bounding-set=-all").arg(binary().context("no netdiag binary")?).args(arguments);
        let output = run(command, LIMIT)?;
        output.exits(2)?.says("CAP_BPF")?;
        one_line(&output)?;
    }
    Ok(())
}

/// The commands that need the kernel say one line and exit with 2.
fn cannot(why: &str, prepare: impl Fn(&mut Command)) -> Result<()> {
    for arguments in [&["run", "--", "echo", "started"][..], &["watch"], &["drops"]] {
        let mut command = netdiag(arguments)?;
        prepare(&mut command);
        let output = run(command, LIMIT)?;
        output.exits(2)?.says(why)?;
        one_line(&output)?;
    }
    Ok(())
}

/// An empty directory stands where the kernel's BTF is, for netdiag alone.
pub fn without_btf() -> Result<()> {
    let hide = || -> std::io::Result<()> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), none)?;
        Ok(())
    };
    // SAFETY: system calls with constant arguments only, in a child that has one thread.
    cannot("CONFIG_DEBUG_INFO_BTF", |command| unsafe {
        command.pre_exec(hide);
    })
}

/// Cannot be undone until the machine starts anew.
pub fn locked_down() -> Result<()> {
    std::fs::write("/sys/kernel/security/lockdown", "confidentiality")?;
    cannot("locked down", |_| ())
}

pub fn refuses_an_old_kernel() -> Result<()> {
    cannot("netdiag needs Linux 6.1", |_| ())
}

pub fn shows_where_a_filter_is_wrong() -> Result<()> {
    for (filter, place) in [("tcp port eighty", 9), ("host 10.0.0.1 nad port 80", 14), ("(tcp port 80", 12)] {
        for command in ["watch", "drops"] {
            run_netdiag(&[command, filter])?.exits(2)?;
        }
        let output = run_netdiag(&["drops", filter])?;
        output.exits(2)?.says(filter)?;
        let lines: Vec<&str> = output.stderr.lines().collect();
        let line = lines.iter().find(|line| line.contains(filter));
        let pointer = lines.iter().find(|line| line.trim_start().starts_with('^'));
        let (line, pointer) =
            (line.context("no filter")?, pointer.with_context(|| format!("no ^: {output}"))?);
        let column = pointer.find('^').zip(line.find(filter)).map(|(mark, start)| mark - start);
        ensure!(column == Some(place), "the mark is at {column:?}, not at {place}: {output}");
    }
    Ok(())
}

pub fn suggests_a_code() -> Result<()> {
    let output = run_netdiag(&["explain", "refused.no-listner"])?;
    output.exits(2)?.says("refused.no-listener")?;
    one_line(&output)?;
    run_netdiag(&["explain", "refused.no-listener"])?.exits(0)?.says("ECONNREFUSED")?;
    run_netdiag(&["explain", "--list"])?.exits(0)?.says("refused.no-listener")?;
    Ok(())
}

pub fn refuses_nonsense() -> Result<()> {
    run_netdiag(&["wacth"])?.exits(2)?.says("watch")?;
    run_netdiag(&["watch", "--duration", "soon"])?.exits(2)?.says("soon")?;
    run_netdiag(&["watch", "--format", "xml"])?.exits(2)?.says("json")?;
    run_netdiag(&["run"])?.exits(2)?.says("COMMAND")?;
    run_netdiag(&[])?.exits(2)?.says("run")?;
    run_netdiag(&["--version"])?.exits(0)?.says("netdiag ")?;
    run_netdiag(&["--help"])?.exits(0)?.says("netdiag run -- ")?;
    Ok(())
}

pub fn command_cannot_start() -> Result<()> {
    let output = run_netdiag(&["run", "--", "no-such-command-here"])?;
    output.exits(127)?.says("no-such-command-here: command not found")?;
    one_line(&output)?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644))?;
    let path = file.path().to_string_lossy();
    let output = run_netdiag(&["run", "--", &path])?;
    output.exits(126)?.says(&path)?;
    one_line(&output)
}

pub fn output_cannot_be_written() -> Result<()> {
    for option in ["--output", "--save-evidence"] {
        let output = run_netdiag(&["run", option, "/proc/no/such/file", "--", "echo", "started"])?;
        output.exits(2)?.says("/proc/no/such/file")?;
        one_line(&output)?;
    }
    let output = run_netdiag(&["watch", "--output", "/proc/no/such/file"])?;
    output.exits(2)?.says("/proc/no/such/file")?;
    one_line(&output)
}

/// A reader that goes away is its own affair.
pub fn closed_pipe() -> Result<()> {
    let cases: [(&[&str], i32); 7] = [
        (&["explain", "--list"], 0),
        (&["explain", "refused.no-listener"], 0),
        (&["--help"], 0),
        (&["doctor"], 0),
        (&["watch", "--duration", "300ms"], 0),
        (&["drops", "--duration", "300ms"], 0),
        (&["run", "--", "sh", "-c", "exit 3"], 3),
    ];
    for (arguments, status) in cases {
        let closed = || -> Result<Stdio> {
            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            Ok(writer.into())
        };
        let mut child =
            netdiag(arguments)?.stdin(Stdio::null()).stdout(closed()?).stderr(closed()?).spawn()?;
        // Nothing of it waits for longer than that; a hanging one would be noticed by its name.
        let code = wait(&mut child, LIMIT)?;
        // `doctor` may well have found problems.
        let fine = code == Some(status) || (arguments == ["doctor"] && code == Some(1));
        ensure!(fine, "netdiag {arguments:?} into closed pipes ended with {code:?}, not {status}");
    }
    Ok(())
}

fn wait(child: &mut std::process::Child, limit: Duration) -> Result<Option<i32>> {
    let deadline = std::time::Instant::now() + limit;
    while std::time::Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    anyhow::bail!("did not end within {limit:?}")
}
