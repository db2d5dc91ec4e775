//! Programs that do nothing, at the same hooks as netdiag's: what the kernel's own counting reads for them is
//! no cost of netdiag's.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use nix::net::if_::if_nameindex;

use super::{Usage, Usages, number, read, sys};

/// Where netdiag attached a program, as its status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    BtfTracepoint(String),
    Tracepoint(String, String),
    Tc,
}

impl Hook {
    /// "tp_btf NAME", "tracepoint CATEGORY:NAME" or "tcx".
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("tp_btf ") {
            return Some(Self::BtfTracepoint(name.to_owned()));
        }
        if let Some(name) = text.strip_prefix("tracepoint ") {
            let (category, name) = name.split_once(':')?;
            return Some(Self::Tracepoint(category.to_owned(), name.to_owned()));
        }
        (text == "tcx").then_some(Self::Tc)
    }
}

/// Attached until it is dropped.
#[derive(Debug)]
pub struct Empties {
    programs: Vec<(String, OwnedFd)>,
    _links: Vec<OwnedFd>,
}

impl Empties {
    /// One for each `(program's name, hook)`; tc hooks are left out, see [`Self::tc`].
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach(hooks: &[(String, Hook)]) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let mut empties = Self { programs: Vec::new(), _links: Vec::new() };
        for (name, hook) in hooks {
            let (program, link) = match hook {
                Hook::Tc => continue,
                Hook::BtfTracepoint(tracepoint) => attach_tracing(&btf, tracepoint),
                Hook::Tracepoint(category, tracepoint) => attach_tracepoint(category, tracepoint),
            }
            .with_context(|| format!("an empty program for {name}"))?;
            empties.programs.push((name.clone(), program));
            empties._links.push(link);
        }
        Ok(empties)
    }

    /// One for each direction of every interface, except loopback, of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses one: before Linux 6.6 it has no TCX.
    pub fn tc() -> Result<Self> {
        /// `TCX_NEXT` (include/uapi/linux/bpf.h).
        const NEXT: i32 = -1;
        let directions = [
            ("wire_ingress", bpf_attach_type::BPF_TCX_INGRESS),
            ("wire_egress", bpf_attach_type::BPF_TCX_EGRESS),
        ];
        let mut empties = Self { programs: Vec::new(), _links: Vec::new() };
        for interface in &if_nameindex()? {
            if interface.name() == c"lo" {
                continue;
            }
            for (name, direction) in directions {
                let program = sys::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None, NEXT)?;
                let link = sys::attach_tcx(program.as_fd(), interface.index(), direction)
                    .context("a TCX link for an empty program")?;
                empties.programs.push((name.to_owned(), program));
                empties._links.push(link);
            }
        }
        Ok(empties)
    }

    /// Runs and time so far, by the name of netdiag's program at that hook.
    pub fn usages(&self) -> Usages {
        let mut usages = Usages::default();
        for (name, program) in &self.programs {
            let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
            let fields = read(path.as_ref()).unwrap_or_default();
            let of = |key| number(&fields, key).unwrap_or(0);
            let usage = Usage { runs: of("run_cnt"), nanoseconds: of("run_time_ns") };
            usages.add(name.get(..15).unwrap_or(name).to_owned(), usage);
        }
        usages
    }
}

fn attach_tracing(btf: &Btf, tracepoint: &str) -> Result<(OwnedFd, OwnedFd)> {
    let id = btf.id_by_type_name_kind(&format!("btf_trace_{tracepoint}"), BtfKind::Typedef)?;
    let attach = Some((bpf_attach_type::BPF_TRACE_RAW_TP, id));
    let program = sys::load(bpf_prog_type::BPF_PROG_TYPE_TRACING, attach, 0)?;
    let link = sys::attach_tracing(program.as_fd())?;
    Ok((program, link))
}

fn attach_tracepoint(category: &str, tracepoint: &str) -> Result<(OwnedFd, OwnedFd)> {
    let program = sys::load(bpf_prog_type::BPF_PROG_TYPE_TRACEPOINT, None, 0)?;
    let link = sys::attach_tracepoint(program.as_fd(), tracepoint_id(category, tracepoint)?)?;
    Ok((program, link))
}

fn tracepoint_id(category: &str, tracepoint: &str) -> Result<u64> {
    for tracefs in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        let path = format!("{tracefs}/events/{category}/{tracepoint}/id");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return text.trim().parse().with_context(|| format!("reading {path}"));
        }
    }
    bail!("tracefs has no {category}:{tracepoint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_as_the_status_words_them() {
        assert_eq!(Hook::parse("tp_btf kfree_skb"), Some(Hook::BtfTracepoint("kfree_skb".into())));
        let call = Hook::Tracepoint("syscalls".into(), "sys_exit_connect".into());
        assert_eq!(Hook::parse("tracepoint syscalls:sys_exit_connect"), Some(call));
        assert_eq!(Hook::parse("tcx"), Some(Hook::Tc));
        assert_eq!(Hook::parse("kprobe x"), None);
    }
}
