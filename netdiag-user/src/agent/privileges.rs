//! Rights that are given up at the start: what an agent never needs, somebody who gets into it must not have.

use std::io;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus};

/// Bit numbers from include/uapi/linux/capability.h. The unit gives the same.
pub const KEPT: &[(u32, &str)] = &[
    (39, "CAP_BPF"),
    (38, "CAP_PERFMON"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (34, "CAP_SYSLOG"),
];
/// More than there are.
const LAST: u32 = 63;

/// Keeps [`KEPT`] and gives up the other capabilities, for this thread and those that it will start, and for the
/// programs that they run.
///
/// # Errors
/// Those of the kernel.
pub fn keep() -> io::Result<()> {
    for bit in (0..=LAST).filter(|bit| !KEPT.iter().any(|(kept, _)| kept == bit)) {
        // What the kernel does not know, or an unprivileged process may not drop, is not there to be used either:
        // below, the thread's own set is what counts.
        // SAFETY: prctl(2) with numbers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
    }
    no_new_privileges()?;
    let kept = KEPT.iter().fold(0, |set, (bit, _)| set | 1u64 << bit);
    set(get()? & kept)
}

/// Gives up all capabilities, and all files where the kernel has Landlock (5.13): for a thread that talks to strangers,
/// and those that it starts. What is open stays open.
///
/// # Errors
/// Those of the kernel.
pub fn give_up_all() -> io::Result<bool> {
    no_new_privileges()?;
    set(0)?;
    let confined = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(io::Error::other)?;
    Ok(confined.ruleset != RulesetStatus::NotEnforced)
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
            let kept = KEPT.iter().fold(0, |set, (bit, _)| set | 1u64 << bit);
            assert_eq!(get().unwrap(), before & kept);
            // A thread that it starts has no more.
            std::thread::spawn(move || assert_eq!(get().unwrap(), before & kept)).join().unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_can_give_up_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::thread::spawn(move || {
            let confined = give_up_all().unwrap();
            assert_eq!(get().unwrap(), 0);
            assert_eq!(std::fs::File::open(path).is_err(), confined);
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
        let mut kept: Vec<&str> = KEPT.iter().map(|(_, name)| *name).collect();
        given.sort_unstable();
        kept.sort_unstable();
        assert_eq!(given, kept);
    }
}
