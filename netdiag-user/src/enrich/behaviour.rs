//! What the threads of a process do at this moment.

use std::fs;

/// More threads than this are not looked at.
const MAX_THREADS: usize = 512;

/// Calls in which a program waits for connections.
const WAITING: &[(i64, &str)] = &[
    (libc::SYS_accept, "accept"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_epoll_pwait2, "epoll_pwait2"),
    (libc::SYS_poll, "poll"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_select, "select"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
];

/// Others that a program is often blocked in.
const BLOCKED: &[(i64, &str)] = &[
    (libc::SYS_futex, "futex"),
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_pause, "pause"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
];

/// What a process does about its listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// By SIGSTOP, or a debugger.
    Stopped,
    /// A thread waits for connections, in this call.
    Waits(&'static str),
    /// Threads run, and none waits for connections.
    Busy,
    /// Every thread is in another call: which, the first's.
    Blocked(&'static str),
}

impl std::fmt::Display for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("is stopped"),
            Self::Waits(call) => write!(f, "is in {call}() at this moment: it takes them too slowly"),
            Self::Busy => f.write_str("is busy: it runs, and no thread waits for connections"),
            Self::Blocked(call) => write!(f, "is blocked in {call}(), and no thread waits for connections"),
        }
    }
}

/// Looks at the threads of a process. `None` if it is gone or may not be looked at.
pub fn of(pid: u32) -> Option<Behaviour> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let seen: Vec<Thread> = threads
        .flatten()
        .take(MAX_THREADS)
        .filter_map(|entry| {
            let path = entry.path();
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let call = fs::read_to_string(path.join("syscall")).ok()?;
            thread(&stat, &call)
        })
        .collect();
    judge(&seen)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    /// As in proc_pid_stat(5).
    state: char,
    /// Number of the system call that it is in; `None` if it runs.
    call: Option<i64>,
}

fn thread(stat: &str, call: &str) -> Option<Thread> {
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    Some(Thread { state, call: call.split_whitespace().next()?.parse().ok() })
}

fn judge(threads: &[Thread]) -> Option<Behaviour> {
    let name = |table: &[(i64, &'static str)], number: i64| {
        table.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
    };
    if threads.is_empty() {
        return None;
    }
    if threads.iter().all(|thread| matches!(thread.state, 'T' | 't')) {
        return Some(Behaviour::Stopped);
    }
    let mut calls = threads.iter().filter_map(|thread| thread.call);
    if let Some(call) = calls.clone().find_map(|call| name(WAITING, call)) {
        return Some(Behaviour::Waits(call));
    }
    if threads.iter().any(|thread| thread.call.is_none() || thread.state == 'R') {
        return Some(Behaviour::Busy);
    }
    calls.next().map(|call| Behaviour::Blocked(name(BLOCKED, call).unwrap_or("another call")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(all: &[(char, Option<i64>)]) -> Option<Behaviour> {
        judge(&all.iter().map(|(state, call)| Thread { state: *state, call: *call }).collect::<Vec<_>>())
    }

    #[test]
    fn lines_of_proc() {
        let read = thread("7 (a) b) S 1 7", "202 0x7f 0x80 0x0\n");
        assert_eq!(read, Some(Thread { state: 'S', call: Some(202) }));
        assert_eq!(thread("7 (a) R 1 7", "running\n"), Some(Thread { state: 'R', call: None }));
        assert_eq!(thread("", ""), None);
    }

    #[test]
    fn one_thread_that_waits_is_enough() {
        let (futex, epoll) = (Some(libc::SYS_futex), Some(libc::SYS_epoll_wait));
        assert_eq!(threads(&[('S', futex), ('S', epoll)]), Some(Behaviour::Waits("epoll_wait")));
        assert_eq!(threads(&[('S', futex), ('S', futex)]), Some(Behaviour::Blocked("futex")));
        assert_eq!(threads(&[('S', futex), ('R', None)]), Some(Behaviour::Busy));
        assert_eq!(threads(&[('T', epoll), ('T', futex)]), Some(Behaviour::Stopped));
        assert_eq!(threads(&[]), None);
    }

    #[test]
    fn a_process_that_sleeps() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // While it is loaded it may wait for something else.
        let sleeps = |found: &_| matches!(found, Behaviour::Blocked("clock_nanosleep" | "nanosleep"));
        super::super::testing::wait_for(|| of(child.id()).filter(sleeps));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(u32::MAX), None);
    }
}
