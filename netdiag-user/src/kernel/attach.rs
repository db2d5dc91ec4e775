//! Attaches one probe in the first way that the kernel allows.

use aya::programs::{
    BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, SchedClassifier, TracePoint,
};
use aya::{Btf, Ebpf};

use super::registry::{Attach, Probe, Way};
use super::wire;

/// How one probe came out.
#[derive(Debug, Clone)]
pub struct ProbeState {
    pub probe: &'static Probe,
    /// The way that was taken.
    pub attached: Option<&'static Way>,
    /// Why the ways before it, or all, failed.
    pub failures: Vec<(Attach, String)>,
}

impl ProbeState {
    /// "fexit f: Operation not permitted; kprobe f: ..."
    pub fn failures_text(&self) -> String {
        let texts: Vec<String> = self.failures.iter().map(|(how, why)| format!("{how}: {why}")).collect();
        texts.join("; ")
    }
}

/// Tries one way after the other. `changed`: functions that cannot be hooked because their arguments are others.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    probe: &'static Probe,
    tried: &[&'static Way],
    btf: &Btf,
    changed: &[&str],
) -> ProbeState {
    let mut state = ProbeState { probe, attached: None, failures: Vec::new() };
    for way in tried {
        match attach_all(ebpf, way, btf, changed) {
            Ok(()) => {
                state.attached = Some(way);
                break;
            }
            Err(failure) => state.failures.push(failure),
        }
    }
    state
}

/// All programs of a way, or none.
fn attach_all(
    ebpf: &mut Ebpf,
    way: &'static Way,
    btf: &Btf,
    changed: &[&str],
) -> Result<(), (Attach, String)> {
    for (index, (how, program)) in way.programs.iter().enumerate() {
        let attached = if how.function().is_some_and(|function| changed.contains(&function)) {
            Err("not in this kernel, or with other arguments".to_owned())
        } else {
            attach_one(ebpf, program, *how, btf)
        };
        if let Err(why) = attached {
            for (_, attached) in &way.programs[..index] {
                // What cannot be unloaded is not there, which is as good.
                let _ = ebpf.program_mut(attached).map(unload);
            }
            return Err((*how, why));
        }
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, name: &str, how: Attach, btf: &Btf) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or_else(|| "not in the object".to_owned())?;
    load_and_attach(program, how, btf).map_err(|error| reason(&error))
}

fn load_and_attach(program: &mut Program, how: Attach, btf: &Btf) -> Result<(), ProgramError> {
    match how {
        Attach::BtfTracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, btf)?;
            program.attach()?;
        }
        Attach::Tracepoint(category, tracepoint) => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, tracepoint)?;
        }
        Attach::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Attach::Fentry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Attach::Kprobe(function) | Attach::Kretprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
        Attach::Tcx => {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            wire::try_tcx(program)?;
        }
        Attach::Device(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, btf)?;
        }
        Attach::OnDemand => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
        }
    }
    Ok(())
}

pub(super) fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::TracePoint(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        Program::SchedClassifier(program) => program.unload(),
        // No way has programs of another type.
        _ => Ok(()),
    }
}

/// The error with its causes on one line; the verifier's log only when asked for.
fn reason(error: &ProgramError) -> String {
    const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";
    if let ProgramError::LoadError { io_error, .. } = error
        && std::env::var_os("NETDIAG_VERIFIER_LOG").is_none()
    {
        return format!("the kernel refused it: {io_error}");
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if text.contains(KPROBE_PMU) {
        return "this kernel has no kprobes".to_owned();
    }
    if std::env::var_os("NETDIAG_VERIFIER_LOG").is_some() {
        return text;
    }
    text.lines().next().unwrap_or_default().to_owned()
}
