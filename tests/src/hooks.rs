//! Which tc programs and qdiscs a namespace has, to show that netdiag leaves none behind.

use std::collections::BTreeSet;

use anyhow::Result;
use nix::net::if_::if_nameindex;

use crate::net::Namespace;
use crate::process::run;
use crate::tools;

const BPF_PROG_QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` (include/uapi/linux/bpf.h, from Linux 6.6).
const TCX: [(u32, &str); 2] = [(46, "ingress"), (47, "egress")];

/// The first fields of `union bpf_attr` for `BPF_PROG_QUERY`, zero to the end.
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    _padding: u32,
    _rest: [u64; 4],
}

/// Whether netdiag watches the wire by tc here: a kernel without TCX, or `NETDIAG_TEST_ATTACH=tracepoint`, has it take
/// tracepoints, which no interface shows.
pub fn are_used() -> bool {
    let by_tracepoint = std::env::var("NETDIAG_TEST_ATTACH").is_ok_and(|kind| kind == "tracepoint");
    has_tcx() && !by_tracepoint
}

fn has_tcx() -> bool {
    std::fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| symbols.contains("tcx_link_attach"))
}

/// The tc hooks of `namespace`, or of the caller's own: clsact and ingress qdiscs, cls filters on
/// them, and TCX programs; one line each.
///
/// # Errors
/// When the namespace cannot be entered or has no readable interfaces.
pub fn present(namespace: Option<&Namespace>) -> Result<BTreeSet<String>> {
    let (mut found, qdiscs) = match namespace {
        Some(namespace) => (namespace.enter(tcx)??, namespace.run(&["tc", "qdisc", "show"])?.stdout),
        None => {
            let mut command = std::process::Command::new(tools::path("tc"));
            command.args(["qdisc", "show"]);
            (tcx()?, run(command, std::time::Duration::from_secs(5))?.stdout)
        }
    };
    let hook = |line: &&str| line.contains(" clsact ") || line.contains(" ingress ");
    found.extend(qdiscs.lines().filter(hook).map(|line| line.trim().to_owned()));
    Ok(found)
}

/// TCX programs on the interfaces of the calling thread's namespace.
fn tcx() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for interface in &if_nameindex()? {
        for (attach_type, direction) in TCX {
            let mut query =
                ProgQuery { target_ifindex: interface.index(), attach_type, ..ProgQuery::default() };
            // SAFETY: the pointer and size describe one zero-padded `bpf_attr` prefix that lives
            // for the call; with prog_ids null the kernel writes only counts and the revision,
            // all within it.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<ProgQuery>())
            };
            // A kernel without TCX says EINVAL, and has none.
            if result == 0 && query.count > 0 {
                found.insert(format!(
                    "{} tcx {direction}: {} programs",
                    interface.name().to_string_lossy(),
                    query.count
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    fn bpf(command: libc::c_long, attr: &mut [u64]) -> OwnedFd {
        // SAFETY: the pointer and size describe `attr`, which lives for the call, as do the
        // buffers that it points to.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
        assert!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        // SAFETY: both commands used here return a new descriptor, which nobody else has.
        unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
    }

    /// A tcx link on `lo` of the calling thread's namespace: `BPF_PROG_LOAD`, `BPF_LINK_CREATE`.
    fn attach() -> (OwnedFd, OwnedFd) {
        // r0 = -1 (TCX_NEXT); exit
        let code: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
        // prog_type 3 (SCHED_CLS) and insn_cnt, insns, license, and no log
        let license = c"GPL";
        let mut load = [3 | 2 << 32, code.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0, 0, 0, 0, 0];
        let program = bpf(5, &mut load);
        let raw = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&program)).unwrap();
        // prog_fd and ifindex 1, attach_type 46
        let link = bpf(28, &mut [raw | 1 << 32, 46, 0, 0, 0, 0]);
        (program, link)
    }

    #[test]
    fn a_tcx_program_is_seen_until_it_is_gone() {
        if !has_tcx() {
            return;
        }
        let namespace = Namespace::new("tcx").unwrap();
        let attached = namespace.enter(attach).unwrap();
        let found = present(Some(&namespace)).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["lo tcx ingress: 1 programs"]);
        drop(attached);
        // A process that another test is just starting holds copies of the descriptors until its exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !present(Some(&namespace)).unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "the program is still there");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
