//! The first process of a virtual machine in which scenarios run (`cargo xtask vm`).
//!
//! It follows a plan, a line at a time: `modules NAME...` loads kernel modules that are there, `env NAME=VALUE`
//! sets a variable for all that follows, and `run NAME PROGRAM ARGUMENT...` runs a program. What a program writes to
//! stdout goes to the second serial port between `@@ begin NAME` and `@@ end NAME STATUS`, and nothing else does;
//! stderr goes to the console. `@@ done` ends it all.

use std::fs::File;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

const PLAN: &str = "/netdiag/plan";
const RESULTS: &str = "/dev/ttyS1";
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Scenarios that fill a table open many sockets; the kernel's own limit is 1024.
const OPEN_FILES: u64 = 20_000;

/// What is mounted where; what an older kernel does not have is left out.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("tracefs", "/sys/kernel/tracing"),
    ("debugfs", "/sys/kernel/debug"),
    ("securityfs", "/sys/kernel/security"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// One line of the plan.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Modules(Vec<&'a str>),
    Env(&'a str, &'a str),
    Run(&'a str, Vec<&'a str>),
}

/// Does all of it; returns only when this is not the first process.
pub fn main() -> ExitCode {
    if getpid() != Pid::from_raw(1) {
        eprintln!("nd-init is the first process of a test VM: see `cargo xtask vm`");
        return ExitCode::from(2);
    }
    if let Err(error) = follow() {
        eprintln!("nd-init: {error:#}");
    }
    nix::unistd::sync();
    // It does not return, except with an error; then the kernel panics, which ends the machine as well.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

fn follow() -> Result<()> {
    for (kind, place) in MOUNTS {
        let _ = std::fs::create_dir_all(place);
        if let Err(error) = mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>) {
            eprintln!("nd-init: no {kind} at {place}: {error}");
        }
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)?;
    let mut results = raw_port().context(RESULTS)?;
    writeln!(results, "@@ up {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim())?;
    nix::unistd::sethostname("vm")?;
    status(Command::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]))?;

    let plan = std::fs::read_to_string(PLAN).context(PLAN)?;
    let mut environment = vec![("PATH", SYSTEM_PATH), ("HOME", "/root"), ("TERM", "dumb")];
    for line in plan.lines() {
        match parse(line)? {
            Step::Modules(names) => names.iter().try_for_each(|name| load(name))?,
            Step::Env(name, value) => environment.push((name, value)),
            Step::Run(name, words) => {
                writeln!(results, "@@ begin {name}")?;
                let Some((program, arguments)) = words.split_first() else {
                    bail!("nothing to run: {line:?}")
                };
                let mut command = Command::new(program);
                command.args(arguments).env_clear().envs(environment.iter().copied());
                let status = status(command.stdin(Stdio::null()).stdout(results.try_clone()?))?;
                // A program may end in the middle of a line.
                writeln!(results, "\n@@ end {name} {status}")?;
            }
        }
    }
    writeln!(results, "@@ done")?;
    Ok(())
}

fn parse(line: &str) -> Result<Step<'_>> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("modules"), Some(first)) => Ok(Step::Modules(std::iter::once(first).chain(words).collect())),
        (Some("env"), Some(pair)) => {
            let (name, value) = pair.split_once('=').with_context(|| format!("no value: {line:?}"))?;
            Ok(Step::Env(name, value))
        }
        (Some("run"), Some(name)) => Ok(Step::Run(name, words.collect())),
        _ => bail!("not understood: {line:?}"),
    }
}

/// The second serial port, which passes on bytes as they are.
fn raw_port() -> Result<File> {
    let port = File::options().read(true).write(true).open(RESULTS)?;
    let mut settings = tcgetattr(&port)?;
    cfmakeraw(&mut settings);
    tcsetattr(&port, SetArg::TCSANOW, &settings)?;
    Ok(port)
}

/// Loads a module; one that is built in, or that this kernel does not have, is no error.
fn load(name: &str) -> Result<()> {
    let mut modprobe = Command::new("/usr/sbin/modprobe");
    status(modprobe.args(["-q", name])).map(drop)
}

/// Runs a program to its end, and reaps whatever else ends meanwhile; its exit code, or 128+N for signal N.
fn status(command: &mut Command) -> Result<i32> {
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let wanted = Pid::from_raw(child.id().cast_signed());
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == wanted => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid == wanted => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_by_lines() {
        assert_eq!(parse("modules a b").unwrap(), Step::Modules(vec!["a", "b"]));
        assert_eq!(parse("env A=b=c").unwrap(), Step::Env("A", "b=c"));
        assert_eq!(parse("run doctor /n doctor").unwrap(), Step::Run("doctor", vec!["/n", "doctor"]));
        assert!(parse("").is_err());
        assert!(parse("env A").is_err());
    }
}
