//! Rights that are given up at the start: what an agent never needs, somebody who gets into it must not have.

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::kernel::capabilities::USED;

/// More than there are.
const LAST: u32 = 63;

/// Keeps [`USED`] and gives up the other capabilities, for this thread and those that it will start, and for the
/// programs that they run.
///
/// # Errors
/// Those of the kernel.
pub fn keep() -> io::Result<()> {
    for bit in (0..=LAST).filter(|bit| !USED.iter().any(|used| used.bit == *bit)) {
        // What the kernel does not know, or an unprivileged process may not drop, is not there to be used either:
        // below, the thread's own set is what counts.
        // SAFETY: prctl(2) with numbers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
    }
    no_new_privileges()?;
    set(get()? & kept())
}

fn kept() -> u64 {
    USED.iter().fold(0, |set, used| set | 1u64 << used.bit)
}

/// What a thread that answers strangers asks of the kernel: to read, write and close what it is given, to have memory,
/// to wait, and to start and end threads like itself.
const ANSWERING: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What [`give_up_all`] could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Files are out of reach; false on a kernel without Landlock (5.13).
    pub files: bool,
    /// Other system calls fail; false on a processor that seccompiler does not know.
    pub calls: bool,
}

/// Gives up all capabilities, all files and all system calls but [`ANSWERING`]: for a thread that talks to strangers, and those
/// that it starts. What is open stays open.
///
/// # Errors
/// Those of the kernel.
pub fn give_up_all() -> io::Result<Confined> {
    no_new_privileges()?;
    set(0)?;
    let files = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(io::Error::other)?;
    // Last: it takes away the calls that the others need.
    let calls = match filter() {
        Some(filter) => seccompiler::apply_filter(&filter).map(|()| true).map_err(io::Error::other)?,
        None => false,
    };
    Ok(Confined { files: files.ruleset != RulesetStatus::NotEnforced, calls })
}

/// Everything else fails with EPERM: a mistake in the list must not end the agent.
fn filter() -> Option<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().ok()?;
    let allowed: BTreeMap<i64, _> = ANSWERING.iter().map(|call| (*call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(allowed, denied, SeccompAction::Allow, architecture).ok()?.try_into().ok()
}

fn no_new_privileges() -> io::Result<()> {
    // SAFETY: prctl(2) with numbers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct __user_cap_header_struct`, `_LINUX_CAPABILITY_VERSION_3`; the pid 0 is the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: one for the lower 32 bits, one for the higher.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION: u32 = 0x2008_0522;

/// The permitted capabilities of this thread.
fn get() -> io::Result<u64> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: capget(2) writes two of these for this version; both live for the call.
    match unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) } {
        0 => Ok(u64::from(data[1].permitted) << 32 | u64::from(data[0].permitted)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Effective and permitted become these, inheritable none; with it go the ambient ones.
fn set(capabilities: u64) -> io::Result<()> {
    let half = |bits: u64| {
        let bits = bits as u32;
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let mut header = Header { version: VERSION, pid: 0 };
    let data = [half(capabilities), half(capabilities >> 32)];
    // SAFETY: capset(2) reads two of these for this version; both live for the call.
    match unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_it_needs() {
        std::thread::spawn(|| {
            let before = get().unwrap();
            keep().unwrap();
            assert_eq!(get().unwrap(), before & kept());
            // A thread that it starts has no more.
            std::thread::spawn(move || assert_eq!(get().unwrap(), before & kept())).join().unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_can_give_up_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::thread::spawn(move || {
            // capget is no call of such a thread.
            let capabilities = std::thread::spawn(|| {
                set(0).unwrap();
                get().unwrap()
            });
            assert_eq!(capabilities.join().unwrap(), 0);
            let confined = give_up_all().unwrap();
            assert_eq!(std::fs::File::open(path).is_err(), confined.files || confined.calls);
            assert_eq!(std::net::UdpSocket::bind("127.0.0.1:0").is_err(), confined.calls);
            assert!(set(1 << 21).is_err(), "CAP_SYS_ADMIN came back");
        })
        .join()
        .unwrap();
        assert!(std::fs::File::open(file.path()).is_ok(), "another thread may still");
    }

    #[test]
    fn the_unit_gives_the_same() {
        let unit = include_str!("../../../packaging/systemd/netdiag-agent.service");
        let given = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut given: Vec<&str> = given.flat_map(str::split_whitespace).collect();
        let mut used: Vec<&str> = USED.iter().map(|used| used.name).collect();
        given.sort_unstable();
        used.sort_unstable();
        assert_eq!(given, used);
    }
}
