//! BPF programs: what is attached, and whose it is.

use std::fs;

use aya::programs::{ProgramInfo, loaded_programs};
use serde::{Deserialize, Serialize};

use crate::enrich::process::{self, pids};

/// bpf(2), include/uapi/linux/bpf.h
const BPF_PROG_QUERY: libc::c_long = 16;
pub(super) const BPF_PROG_TYPE_XDP: u32 = 6;
/// Programs of one spot at most (kernel/bpf/cgroup.c and mprog.c allow 64).
const MAX_PROGRAMS: usize = 64;
/// Holders that are named of one program.
const MAX_HOLDERS: usize = 4;
/// Open files of one process that are looked at.
const MAX_FILES: usize = 1024;

/// A program that may drop packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BpfProgram {
    pub id: u32,
    /// At most 15 bytes; `None`: it has none, or it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How and where: `tcx ingress`, `filter pref 49152 on clsact`, `native`, `control group /system.slice`.
    pub attached: String,
    /// Who loaded it (user id).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Processes that hold it, or its link, by an open file: often who loaded it. Empty: none, as with programs that
    /// are pinned or that tc has taken over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<ProgramHolder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHolder {
    /// Thread group id.
    pub pid: u32,
    pub comm: String,
}

impl BpfProgram {
    pub(super) fn new(id: u32, attached: impl Into<String>) -> Self {
        Self { id, attached: attached.into(), ..Self::default() }
    }

    /// `deny[42]`
    pub fn label(&self) -> String {
        format!("{}[{}]", self.name.as_deref().unwrap_or("program"), self.id)
    }
}

/// Whether there is any program of this kind, one of `enum bpf_prog_type`.
pub(super) fn is_loaded(kind: u32) -> bool {
    loaded_programs().filter_map(Result::ok).any(|info| info.program_type() as u32 == kind)
}

/// Fills in names and holders, and leaves out those of netdiag, which drop nothing: this process', and an agent's
/// beside it.
pub(super) fn complete(programs: &mut Vec<BpfProgram>) {
    if programs.is_empty() {
        return;
    }
    let infos: Vec<ProgramInfo> = loaded_programs().filter_map(Result::ok).collect();
    for program in &mut *programs {
        let Some(info) = infos.iter().find(|info| info.id() == program.id) else { continue };
        program.name = info.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        program.uid = info.created_by_uid();
    }
    let own = held(std::process::id());
    programs.retain(|program| !own.contains(&program.id));
    if programs.is_empty() {
        return;
    }
    for pid in pids() {
        let held = held(pid);
        for program in programs.iter_mut().filter(|program| held.contains(&program.id)) {
            if program.holders.len() < MAX_HOLDERS
                && let Some(process) = process::read(pid)
            {
                program.holders.push(ProgramHolder { pid: process.pid, comm: process.comm });
            }
        }
    }
    programs.retain(|program| !program.holders.iter().any(|holder| holder.comm == "netdiag"));
}

/// Programs that a process holds, or that links hold that it holds (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo` and
/// `bpf_link_show_fdinfo`).
fn held(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_bpf = |path: &std::path::Path| {
        let target = fs::read_link(path).unwrap_or_default();
        let target = target.to_string_lossy();
        target.contains("bpf-prog") || target.contains("bpf_link") || target.contains("bpf-link")
    };
    let files = entries.flatten().take(MAX_FILES).filter(|entry| is_bpf(&entry.path()));
    let ids = files.filter_map(|entry| {
        let name = entry.file_name();
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", name.to_str()?)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
    });
    ids.collect()
}

/// Numbers of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    CgroupIngress = 0,
    CgroupEgress = 1,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// `BPF_F_QUERY_EFFECTIVE`: those of the groups above too.
pub(super) const EFFECTIVE: u32 = 1;

/// `query` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    /// A file, or the index of an interface of the caller's namespace.
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _pad: u32,
}

/// Ids of the programs that are attached, in their order. `None` where the kernel cannot tell.
pub(super) fn attached(target: u32, kind: AttachType, flags: u32) -> Option<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target,
        attach_type: kind as u32,
        query_flags: flags,
        programs: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: pointer and size describe `query`, which lives for the call, as does `ids`, of whose length it tells.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        return None;
    }
    ids.truncate(query.count as usize);
    Some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attached_to_loopback() {
        let found = attached(1, AttachType::TcxIngress, 0);
        assert!(found.is_none_or(|ids| ids.is_empty()));
    }

    #[test]
    fn a_program_that_is_gone_keeps_its_id() {
        let mut programs = vec![BpfProgram::new(u32::MAX, "native")];
        complete(&mut programs);
        assert_eq!(programs[0].label(), format!("program[{}]", u32::MAX));
        assert!(programs[0].holders.is_empty());
    }
}
