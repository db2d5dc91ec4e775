//! `netdiag doctor`: what this kernel lets netdiag see, and whether an agent could run here.

mod agent;
mod check;

use std::io::Write;
use std::process::ExitCode;

use netdiag::engine::Engine;
use netdiag::enrich::netns;
use netdiag::kernel::capabilities;
use netdiag::kernel::loader::Options;
use netdiag::kernel::registry::Weight;

use super::args::{DoctorArgs, Format, Global};
use super::sink::{self, Stream};
use check::{Check, Status, check};

pub fn doctor(args: &DoctorArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let mut out = sink::open(global, Stream::Stdout)?;
    let mut checks = vec![kernel_check()];
    checks.extend(rights()?);
    match Engine::start(Options { follow_processes: true, all: false, ..global.options() }) {
        Ok(mut engine) => {
            checks.extend(probes(&mut engine));
            if global.verbose {
                checks.extend(numbers(&mut engine));
            }
            checks.push(wire(&mut engine));
        }
        Err(error) => checks.push(check("probes", "start", Status::Fail, error.to_string())),
    }
    // Last: what comes before is the kernel's, and the same wherever it runs.
    checks.extend(agent::checks(args)?);
    for check in &checks {
        match global.format {
            Format::Json => writeln!(out, "{}", serde_json::to_string(check)?)?,
            Format::Text => write!(out, "{check}")?,
        }
    }
    let problems = checks.iter().any(|check| check.status != Status::Ok);
    Ok(ExitCode::from(u8::from(problems)))
}

fn kernel_check() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check("kernel", "release", Status::Ok, release.trim())
}

fn rights() -> anyhow::Result<Vec<Check>> {
    let missing = capabilities::missing()?;
    if missing.is_empty() {
        return Ok(vec![check("rights", "capabilities", Status::Ok, "all that are needed")]);
    }
    Ok(missing
        .into_iter()
        .map(|used| {
            check("rights", used.name, Status::Fail, format!("missing; needed for {}", used.what))
                .next("run netdiag as root", Some("sudo netdiag doctor"))
        })
        .collect())
}

fn probes(engine: &mut Engine) -> Vec<Check> {
    let session = engine.session();
    let mut checks: Vec<Check> = session
        .probes
        .iter()
        .map(|state| {
            let (signal, probe) = (state.probe.signal, state.probe);
            match state.attached {
                Some(way) if state.failures.is_empty() => {
                    check("probes", signal, Status::Ok, way.to_string())
                }
                Some(way) => {
                    let text = format!("{way}; not {}", state.failures_text());
                    check("probes", signal, Status::Ok, text)
                }
                None => {
                    let minor = matches!(probe.weight, Weight::Extra | Weight::BeforeWire);
                    let status = if minor { Status::Warn } else { Status::Fail };
                    let why = match state.failures.as_slice() {
                        [] => "not with this --attach".to_owned(),
                        _ => state.failures_text(),
                    };
                    check("probes", signal, status, format!("{why}; lost: {}", probe.lost))
                }
            }
        })
        .collect();
    let absent = &session.offsets.absent;
    checks.push(if absent.is_empty() {
        check("fields", "offsets", Status::Ok, "every field is in this kernel's BTF")
    } else {
        check("fields", "offsets", Status::Warn, format!("not in this kernel: {}", absent.join(", ")))
    });
    checks.push(check("fields", "drop reasons", Status::Ok, "named by the kernel"));
    checks
}

/// What programs take from the running kernel's BTF.
fn numbers(engine: &mut Engine) -> Vec<Check> {
    let session = engine.session();
    let fields = session.offsets.found();
    let mut checks: Vec<Check> =
        fields.map(|(path, offset)| check("offset", path, Status::Ok, offset.to_string())).collect();
    let reasons = session.reasons.drops();
    checks
        .extend(reasons.iter().map(|(number, name)| check("reason", *name, Status::Ok, number.to_string())));
    checks
}

fn wire(engine: &mut Engine) -> Check {
    let Some(own) = netns::current_inode() else {
        return check("wire", "tc", Status::Fail, "the own network namespace is not readable");
    };
    let failures = engine.watch_wire(own);
    if failures.is_empty() {
        check("wire", "tc", Status::Ok, "attached to this namespace's interfaces, and taken away again")
    } else {
        check("wire", "tc", Status::Warn, failures.join("; "))
    }
}
