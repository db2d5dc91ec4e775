//! A process as `/proc` describes it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::cgroup;
use crate::probes::Owner;

/// Longer command lines are cut, at a character boundary.
const MAX_COMMAND_LINE: usize = 4096;

/// A process, as far as it could be read before it went away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id, in the pid namespace of this program.
    pub pid: u32,
    /// Name of its first thread, at most 15 bytes.
    pub comm: String,
    /// Path of its program; ends in " (deleted)" if the file is gone. `None` for kernel threads.
    pub exe: Option<String>,
    /// Arguments, joined by a space. `None` for kernel threads.
    pub command_line: Option<String>,
    /// Effective user id, in the user namespace of this program.
    pub uid: u32,
    /// Path of its control group.
    pub cgroup: Option<String>,
    /// Systemd unit that it belongs to, from the path of its control group.
    pub unit: Option<String>,
    /// Id of its container, as docker, containerd, podman or cri-o write it into that path.
    pub container: Option<String>,
    /// Uid of its Kubernetes pod, or id of its podman pod, from that path.
    pub pod: Option<String>,
}

/// Reads a process from `/proc/PID`; `pid` may be the id of any of its threads. `None` if it is gone.
pub fn read(pid: u32) -> Option<Process> {
    let status = read_lossy(pid, "status")?;
    let tgid = status_number(&status, "Tgid:", 0).unwrap_or(pid);
    let cgroup = read_lossy(tgid, "cgroup").map(|text| cgroup::parse(&text)).unwrap_or_default();
    Some(Process {
        pid: tgid,
        comm: read_lossy(tgid, "comm")?.trim_end_matches('\n').to_owned(),
        exe: fs::read_link(format!("/proc/{tgid}/exe")).ok().map(|path| path.to_string_lossy().into_owned()),
        command_line: read_lossy(tgid, "cmdline").and_then(|text| command_line(&text)),
        uid: status_number(&status, "Uid:", 1)?,
        cgroup: cgroup.path,
        unit: cgroup.unit,
        container: cgroup.container,
        pod: cgroup.pod,
    })
}

/// Reads the process that the kernel saw, by its number in the initial pid namespace. `None` if it is gone, and where
/// this program runs in another pid namespace: there that number may be somebody else's.
pub fn of_owner(owner: &Owner) -> Option<Process> {
    // What was found in /proc has the number that it has there, and no group.
    (sees_initial_pids() || owner.cgroup == 0).then(|| read(owner.pid)).flatten()
}

/// What is left of one that has ended: its name, and what the path of its control group tells.
pub fn ended(owner: &Owner, cgroup: &str) -> Process {
    Process { pid: owner.pid, comm: owner.comm.to_string(), uid: owner.uid, ..of_cgroup(cgroup) }
}

/// Whether `/proc` has the numbers that the kernel side tells: those of the initial pid namespace.
pub fn sees_initial_pids() -> bool {
    /// Inode number of the initial pid namespace (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
    const INITIAL: u64 = 0xEFFF_FFFC;
    static SEES: OnceLock<bool> = OnceLock::new();
    *SEES.get_or_init(|| fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL))
}

/// What the path of a control group tells about its processes; the rest is left empty.
fn of_cgroup(path: &str) -> Process {
    let cgroup = cgroup::parse(&format!("0::{path}\n"));
    Process {
        cgroup: cgroup.path,
        unit: cgroup.unit,
        container: cgroup.container,
        pod: cgroup.pod,
        ..Process::default()
    }
}

/// When a process was started, to a hundredth of a second. `None` if it is gone.
pub fn started(pid: u32) -> Option<Timestamp> {
    let stat = read_lossy(pid, "stat")?;
    // The name, in parentheses, may contain anything.
    let fields = stat.rsplit_once(')')?.1;
    // Field 22 of proc_pid_stat(5), in clock ticks since boot; the first after the name is field 3.
    let ticks: i64 = fields.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let now = SignedDuration::new(boot.tv_sec(), i32::try_from(boot.tv_nsec()).ok()?);
    let since_boot = SignedDuration::from_millis(ticks.checked_mul(1000)? / per_second);
    Timestamp::now().checked_sub(now.checked_sub(since_boot)?).ok()
}

/// The ids of all processes, lowest first as `/proc` lists them.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read_lossy(pid: u32, file: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn status_number(status: &str, field: &str, column: usize) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().nth(column)?.parse().ok()
}

fn command_line(text: &str) -> Option<String> {
    let mut line = text.trim_end_matches('\0').replace('\0', " ");
    if line.len() > MAX_COMMAND_LINE {
        line.truncate(line.floor_char_boundary(MAX_COMMAND_LINE));
        line.push('…');
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let process = read(std::process::id()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert_eq!(process.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(process.exe, std::env::current_exe().unwrap().to_str().map(str::to_owned));
        assert!(process.command_line.unwrap().starts_with(&std::env::args().next().unwrap()));
        let comm = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
        assert_eq!(process.comm, comm.trim_end());
    }

    #[test]
    fn a_thread_is_read_as_its_process() {
        let process = std::thread::spawn(|| read(nix::unistd::gettid().as_raw() as u32)).join().unwrap();
        assert_eq!(process.unwrap().pid, std::process::id());
    }

    #[test]
    fn a_new_process_was_started_now() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let age = started(child.id()).map(|at| Timestamp::now().duration_since(at));
        child.kill().unwrap();
        child.wait().unwrap();
        let age = age.unwrap();
        assert!(age.abs() < SignedDuration::from_secs(5), "{age:?}");
        assert!(started(1).unwrap() < Timestamp::now() - SignedDuration::from_secs(1));
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn a_process_that_is_gone_is_none() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(read(child.id()).is_none());
        assert!(read(0).is_none());
        assert!(read(u32::MAX).is_none());
    }

    #[test]
    fn a_zombie_still_has_a_name() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        super::super::testing::wait_for(|| {
            let process = read(child.id())?;
            (process.comm == "true" && process.command_line.is_none() && process.exe.is_none()).then_some(())
        });
        child.wait().unwrap();
    }

    #[test]
    fn command_lines_are_joined_and_cut() {
        assert_eq!(command_line("curl\0-v\0http://x/\0").as_deref(), Some("curl -v http://x/"));
        assert_eq!(command_line(""), None);
        let long = command_line(&"é".repeat(MAX_COMMAND_LINE)).unwrap();
        assert!(long.ends_with("é…") && long.len() <= MAX_COMMAND_LINE + '…'.len_utf8());
    }
}
