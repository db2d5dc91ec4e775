//! Whether `netdiag agent` could run here, and whether one does.

use std::path::Path;

use netdiag::agent::config::{Config, PATH};
use netdiag::agent::preflight::{self, Confined, Health, Place, Rights, Running};
use netdiag::kernel::capabilities::{Capability, USED};

use super::check::{Check, Status, check};
use crate::cli::args::DoctorArgs;

const LAYER: &str = "agent";
/// A disk with less than this will soon be full.
const LITTLE: u64 = 64_000_000;

pub fn checks(args: &DoctorArgs) -> anyhow::Result<Vec<Check>> {
    let mut checks = vec![rights(&preflight::rights()?)];
    let named = args.config.as_deref();
    match Config::load(named) {
        Ok(config) => {
            checks.push(configuration(named, Path::new(PATH).exists()));
            checks.push(run_dir(&preflight::run_dir(&config)));
            checks.push(store(preflight::store(&config).as_ref()));
            checks.push(running(&preflight::running(&config)));
        }
        Err(error) => checks.push(
            check(LAYER, "configuration", Status::Fail, error.to_string())
                .next("all keys and what they take", Some("netdiag agent --print-config")),
        ),
    }
    checks.push(confinement(&preflight::confinement()));
    Ok(checks)
}

fn names(capabilities: &[&'static Capability]) -> String {
    let names: Vec<String> =
        capabilities.iter().map(|used| format!("{} ({})", used.name, used.what)).collect();
    names.join(", ")
}

fn rights(rights: &Rights) -> Check {
    const NAME: &str = "capabilities";
    let Rights { lacking, withheld } = rights;
    if lacking.is_empty() {
        return check(LAYER, NAME, Status::Ok, format!("all {} that it uses", USED.len()));
    }
    let found = if lacking.iter().any(|used| used.needed) {
        check(LAYER, NAME, Status::Fail, format!("it would not start: missing {}", names(lacking)))
    } else {
        check(LAYER, NAME, Status::Warn, format!("it would know less: missing {}", names(lacking)))
    };
    if withheld.is_empty() {
        let found = found.next("start it as root", Some("sudo netdiag agent"));
        return found.next("or as a service, which has them", Some("sudo systemctl start netdiag-agent"));
    }
    let without: Vec<&str> = withheld.iter().map(|used| used.name).collect();
    let text = format!(
        "not in the bounding set (of a container?), so not to be had here by root either: {}",
        without.join(", ")
    );
    found.next(text, None)
}

fn configuration(named: Option<&Path>, is_there: bool) -> Check {
    let text = match named {
        Some(path) => format!("{} is fine", path.display()),
        None if is_there => format!("{PATH} is fine"),
        None => format!("the defaults; there is no {PATH}"),
    };
    check(LAYER, "configuration", Status::Ok, text)
}

fn run_dir(place: &Place) -> Check {
    const NAME: &str = "run directory";
    match place {
        Place::There { path, .. } => check(LAYER, NAME, Status::Ok, path.display().to_string()),
        Place::ToBeMade { path } => to_be_made(NAME, path),
        Place::Unusable { path, why } => {
            check(LAYER, NAME, Status::Fail, format!("{}: {why}; it would not start", path.display()))
                .next("another one", Some("NETDIAG_RUN_DIR=DIRECTORY netdiag agent"))
        }
    }
}

fn to_be_made(name: &str, path: &Path) -> Check {
    check(LAYER, name, Status::Ok, format!("{}, which it makes at its start", path.display()))
}

fn store(place: Option<&Place>) -> Check {
    const NAME: &str = "store";
    match place {
        None => check(LAYER, NAME, Status::Ok, "off (history.enabled)"),
        Some(Place::There { path, free }) if *free < LITTLE => {
            let text = format!(
                "{}: {} MB left; it stores nothing once the disk is full",
                path.display(),
                free / 1_000_000
            );
            check(LAYER, NAME, Status::Warn, text)
        }
        Some(Place::There { path, free }) => {
            let text = format!("{}, {:.1} GB left", path.display(), *free as f64 / 1e9);
            check(LAYER, NAME, Status::Ok, text)
        }
        Some(Place::ToBeMade { path }) => to_be_made(NAME, path),
        Some(Place::Unusable { path, why }) => {
            check(LAYER, NAME, Status::Fail, format!("{}: {why}; it would store nothing", path.display()))
        }
    }
}

fn running(found: &Result<Option<Running>, String>) -> Check {
    const NAME: &str = "running";
    let who = |pid: u32| {
        if pid == 0 { "one in another pid namespace".to_owned() } else { format!("process {pid}") }
    };
    match found {
        Ok(None) => check(LAYER, NAME, Status::Ok, "none"),
        Ok(Some(Running { pid, state: Ok(state) })) => {
            let (status, said) = match (state.status, state.problems.join("; ")) {
                (Health::Ok, _) => (Status::Ok, "ready".to_owned()),
                (Health::Degraded, problems) => (Status::Warn, problems),
                (Health::Starting, problems) => (Status::Warn, format!("starting: {problems}")),
                (Health::Failing | Health::Stopping, problems) => {
                    (Status::Fail, format!("not ready: {problems}"))
                }
            };
            check(LAYER, NAME, status, format!("{}: {said}", who(*pid)))
        }
        Ok(Some(Running { pid, state: Err(why) })) => {
            check(LAYER, NAME, Status::Warn, format!("{}; how it is was not to be had: {why}", who(*pid)))
        }
        Err(why) => check(LAYER, NAME, Status::Warn, format!("cannot be told: {why}")),
    }
}

/// What protects against somebody who gets into the threads that answer HTTP. No reason to complain of an old kernel.
fn confinement(confined: &std::io::Result<Confined>) -> Check {
    const NAME: &str = "confinement";
    let text = match confined {
        Ok(Confined { files: true, calls: true }) => {
            "no files (Landlock) and few system calls (seccomp) for what answers HTTP"
        }
        Ok(Confined { files: false, calls: true }) => {
            "few system calls (seccomp) for what answers HTTP; no Landlock in this kernel"
        }
        Ok(Confined { files: true, calls: false }) => {
            "no files (Landlock) for what answers HTTP; no filter of system calls on this processor"
        }
        Ok(Confined { files: false, calls: false }) => "neither Landlock nor seccomp here",
        Err(error) => {
            let text = format!("cannot be had for what answers HTTP: {error}");
            return check(LAYER, NAME, Status::Warn, text);
        }
    };
    check(LAYER, NAME, Status::Ok, text)
}

#[cfg(test)]
mod tests {
    use netdiag::agent::preflight::State;

    use super::*;

    fn text(checks: &[Check]) -> String {
        checks.iter().map(Check::to_string).collect()
    }

    fn lacking(names: &[&str]) -> Vec<&'static Capability> {
        USED.iter().filter(|used| names.contains(&used.name)).collect()
    }

    #[test]
    fn of_capabilities() {
        let some = |names: &[&str], withheld: &[&str]| {
            rights(&Rights { lacking: lacking(names), withheld: lacking(withheld) })
        };
        insta::assert_snapshot!(text(&[
            some(&[], &[]),
            some(&["CAP_SYSLOG"], &[]),
            some(&["CAP_BPF", "CAP_SYS_PTRACE"], &[]),
            some(&["CAP_SYS_ADMIN", "CAP_SYSLOG"], &["CAP_SYS_ADMIN"]),
        ]), @r"
        ok    agent     capabilities             all 7 that it uses
        warn  agent     capabilities             it would know less: missing CAP_SYSLOG (names of kernel functions)
              → start it as root: sudo netdiag agent
              → or as a service, which has them: sudo systemctl start netdiag-agent
        FAIL  agent     capabilities             it would not start: missing CAP_BPF (load programs and maps), CAP_SYS_PTRACE (which process holds a socket)
              → start it as root: sudo netdiag agent
              → or as a service, which has them: sudo systemctl start netdiag-agent
        FAIL  agent     capabilities             it would not start: missing CAP_SYS_ADMIN (other network namespaces), CAP_SYSLOG (names of kernel functions)
              → not in the bounding set (of a container?), so not to be had here by root either: CAP_SYS_ADMIN
        ");
    }

    #[test]
    fn of_directories() {
        let there = |free| Place::There { path: "/var/lib/netdiag/history".into(), free };
        let unusable = |path: &str, why: &str| Place::Unusable { path: path.into(), why: why.to_owned() };
        insta::assert_snapshot!(text(&[
            configuration(None, false),
            configuration(None, true),
            configuration(Some(Path::new("/tmp/a.toml")), true),
            run_dir(&there(0)),
            run_dir(&Place::ToBeMade { path: "/run/netdiag".into() }),
            run_dir(&unusable("/run/netdiag", "/run: Permission denied")),
            store(None),
            store(Some(&there(12_340_000_000))),
            store(Some(&there(9_000_000))),
            store(Some(&Place::ToBeMade { path: "/x".into() })),
            store(Some(&unusable("/x", "Read-only file system"))),
        ]), @r"
        ok    agent     configuration            the defaults; there is no /etc/netdiag/agent.toml
        ok    agent     configuration            /etc/netdiag/agent.toml is fine
        ok    agent     configuration            /tmp/a.toml is fine
        ok    agent     run directory            /var/lib/netdiag/history
        ok    agent     run directory            /run/netdiag, which it makes at its start
        FAIL  agent     run directory            /run/netdiag: /run: Permission denied; it would not start
              → another one: NETDIAG_RUN_DIR=DIRECTORY netdiag agent
        ok    agent     store                    off (history.enabled)
        ok    agent     store                    /var/lib/netdiag/history, 12.3 GB left
        warn  agent     store                    /var/lib/netdiag/history: 9 MB left; it stores nothing once the disk is full
        ok    agent     store                    /x, which it makes at its start
        FAIL  agent     store                    /x: Read-only file system; it would store nothing
        ");
    }

    #[test]
    fn of_an_agent() {
        let state = |status: Health, problems: &[&str]| {
            let problems = problems.iter().map(|text| (*text).to_owned()).collect();
            Ok(Some(Running { pid: 412, state: Ok(State { status, problems }) }))
        };
        let silent = Running { pid: 0, state: Err("127.0.0.1:9817: Connection refused".to_owned()) };
        insta::assert_snapshot!(text(&[
            running(&Ok(None)),
            running(&state(Health::Ok, &[])),
            running(&state(Health::Degraded, &["history: disk full"])),
            running(&state(Health::Stopping, &["it is stopping"])),
            running(&Ok(Some(silent))),
            running(&Err("no /proc/locks".to_owned())),
            confinement(&Ok(Confined { files: true, calls: true })),
            confinement(&Ok(Confined { files: false, calls: true })),
        ]), @r"
        ok    agent     running                  none
        ok    agent     running                  process 412: ready
        warn  agent     running                  process 412: history: disk full
        FAIL  agent     running                  process 412: not ready: it is stopping
        warn  agent     running                  one in another pid namespace; how it is was not to be had: 127.0.0.1:9817: Connection refused
        warn  agent     running                  cannot be told: no /proc/locks
        ok    agent     confinement              no files (Landlock) and few system calls (seccomp) for what answers HTTP
        ok    agent     confinement              few system calls (seccomp) for what answers HTTP; no Landlock in this kernel
        ");
    }

    #[test]
    fn as_json() {
        let mut check = rights(&Rights { lacking: lacking(&["CAP_BPF"]), withheld: Vec::new() });
        check.head.host = "h".to_owned();
        check.head.time = jiff::Timestamp::UNIX_EPOCH;
        insta::assert_snapshot!(serde_json::to_string_pretty(&check).unwrap(), @r#"
        {
          "schema": "netdiag/1",
          "kind": "check",
          "time": "1970-01-01T00:00:00.000000Z",
          "host": "h",
          "layer": "agent",
          "name": "capabilities",
          "status": "fail",
          "summary": "it would not start: missing CAP_BPF (load programs and maps)",
          "next_steps": [
            {
              "text": "start it as root",
              "command": "sudo netdiag agent"
            },
            {
              "text": "or as a service, which has them",
              "command": "sudo systemctl start netdiag-agent"
            }
          ]
        }
        "#);
    }
}
