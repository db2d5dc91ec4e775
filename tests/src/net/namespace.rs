//! One network namespace, gone with everything in it when it is dropped.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Output, Process, run};
use crate::tools;

const DIRECTORY: &str = "/run/netns";
const RUN_LIMIT: Duration = Duration::from_secs(40);

static COUNTER: AtomicU32 = AtomicU32::new(0);
/// Which thread made which namespace (by inode), so that a watchdog can end what hangs in them.
static OWNERS: Mutex<Vec<(ThreadId, u64)>> = Mutex::new(Vec::new());

/// A named network namespace. Dropping it kills every process left inside and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    inode: u64,
}

impl Namespace {
    /// Makes `nd-PID-N-LABEL` with its loopback up.
    ///
    /// # Errors
    /// When `ip` fails (not root, no such tool).
    pub fn new(label: &str) -> Result<Self> {
        let [namespace] = Self::several([label])?;
        Ok(namespace)
    }

    /// Makes several at once, which is faster than one by one.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn several<const N: usize>(labels: [&str; N]) -> Result<[Self; N]> {
        let names = labels.map(|label| {
            format!("nd-{}-{}-{label}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
        });
        let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        tools::feed("ip", &["-batch", "-"], &batch)?;
        let opened: Vec<Self> = names.into_iter().map(Self::open).collect::<Result<_>>()?;
        for namespace in &opened {
            namespace.prepare()?;
        }
        opened.try_into().map_err(|_| anyhow!("a namespace went missing"))
    }

    fn open(name: String) -> Result<Self> {
        let file = File::open(Path::new(DIRECTORY).join(&name)).with_context(|| format!("opening {name}"))?;
        let inode = file.metadata()?.ino();
        owners().push((std::thread::current().id(), inode));
        Ok(Self { name, file, inode })
    }

    /// A new namespace inherits the host's IPv4 settings: set those that scenarios rely on.
    fn prepare(&self) -> Result<()> {
        self.enter(|| -> Result<()> {
            for scope in ["all", "default"] {
                write_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
                write_sysctl(&format!("net.ipv4.conf.{scope}.log_martians"), "0")?;
                // Without IPv6 there are no such files, and scenarios that need it are skipped.
                let _ = write_sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0");
                let _ = write_sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0");
            }
            Ok(())
        })??;
        self.ip("link set lo up")
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inode number that identifies it, as in `/proc/PID/ns/net`.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs one `ip` command inside; words are split at white space.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        tools::feed("ip", &words, "").map(drop)
    }

    /// Runs many `ip` commands inside, one a line, in one process.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let batch: String = lines.lines().map(|line| format!("{}\n", line.trim())).collect();
        tools::feed("ip", &["-n", &self.name, "-batch", "-"], &batch).map(drop)
    }

    /// Runs one `tc` command inside.
    ///
    /// # Errors
    /// When `tc` refuses it.
    pub fn tc(&self, arguments: &str) -> Result<()> {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        tools::feed("tc", &words, "").map(drop)
    }

    /// Loads an nftables script inside.
    ///
    /// # Errors
    /// When `nft` refuses it.
    pub fn nft(&self, script: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        tools::feed_command(command, script).map(drop)
    }

    /// Sets `net.ipv4.tcp_syn_retries` and the like, in this namespace only.
    ///
    /// # Errors
    /// When there is no such setting, or it does not take the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.enter(|| write_sysctl(name, value))?
    }

    /// After how many retransmitted SYNs `connect` gets ETIMEDOUT: 1 means after 3 s, 2 after 7 s.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub fn syn_retries(&self, count: u8) -> Result<()> {
        // From Linux 6.5 so many more, 1 s apart, come first.
        let _ = self.sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
        self.sysctl("net.ipv4.tcp_syn_retries", &count.to_string())
    }

    /// A command that will run inside. Unlike `ip netns exec` it keeps the host's mounts, so
    /// tracefs and bpffs stay visible.
    pub fn command(&self, program: &str) -> Command {
        let mut command =
            Command::new(if program.contains('/') { program.into() } else { tools::path(program) });
        let fd = self.file.as_raw_fd();
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe and
        // allocates nothing; the descriptor is open in the child because `self.file` lives until
        // spawn (close-on-exec acts later).
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(fd), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
        command
    }

    fn command_line<S: AsRef<str>>(&self, words: &[S]) -> Result<Command> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = self.command(program.as_ref());
        command.args(arguments.iter().map(AsRef::as_ref));
        Ok(command)
    }

    /// Runs a command inside to its end (at most 40 s).
    ///
    /// # Errors
    /// When it cannot be started or does not end; not when it fails.
    pub fn run<S: AsRef<str>>(&self, words: &[S]) -> Result<Output> {
        run(self.command_line(words)?, RUN_LIMIT)
    }

    /// Starts a command inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<S: AsRef<str>>(&self, words: &[S]) -> Result<Process> {
        Process::spawn(self.command_line(words)?)
    }

    /// Runs `action` on a thread that is inside, so sockets made there belong to the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or `action` panics.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering {}", self.name))?;
                Ok(action())
            });
            thread.join().map_err(|_| anyhow!("panicked inside {}", self.name))?
        })
    }

    /// Addresses, routes, sockets, queueing and firewall, for a failure message.
    pub fn state(&self) -> String {
        const VIEWS: [&[&str]; 8] = [
            &["ip", "addr"],
            &["ip", "route", "show", "table", "all"],
            &["ip", "-6", "route"],
            &["ip", "neigh"],
            &["ss", "-tuanpo"],
            &["tc", "qdisc"],
            &["nft", "-a", "list", "ruleset"],
            &["nstat", "-s"],
        ];
        let mut text = String::new();
        for view in VIEWS.iter().filter(|view| tools::find(view[0]).is_some()) {
            let output = self.run(view).map_or_else(|error| format!("{error:#}"), |output| output.stdout);
            let lines =
                output.lines().filter(|line| !line.starts_with("local ") && !line.contains("table local"));
            let body: String = lines.map(|line| format!("    {line}\n")).collect();
            text.push_str(&format!("  {}: {}\n{body}", self.name, view.join(" ")));
        }
        text
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        owners().retain(|(_, inode)| *inode != self.inode);
        kill_processes(self.inode);
        remove(&self.name);
    }
}

fn owners() -> std::sync::MutexGuard<'static, Vec<(ThreadId, u64)>> {
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
}

/// Processes whose main thread is in the network namespace; never this process.
fn processes_in(inode: u64) -> Vec<Pid> {
    let wanted = PathBuf::from(format!("net:[{inode}]"));
    let own = std::process::id().cast_signed();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link == wanted))
        .map(Pid::from_raw)
        .collect()
}

fn kill_processes(inode: u64) {
    for pid in processes_in(inode) {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Ends every process in the namespaces that `thread` made.
pub(crate) fn kill_processes_of_thread(thread: ThreadId) {
    let inodes: Vec<u64> =
        owners().iter().filter(|(owner, _)| *owner == thread).map(|(_, inode)| *inode).collect();
    inodes.into_iter().for_each(kill_processes);
}

/// Removes a namespace's name, as `ip netns delete` does.
pub(crate) fn remove(name: &str) {
    let path = Path::new(DIRECTORY).join(name);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(&path);
}

/// The `nd-PID-...` namespaces whose PID passes `wanted`.
fn names_where(wanted: impl Fn(u32) -> bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            let pid = name.strip_prefix("nd-").and_then(|rest| rest.split('-').next());
            pid.and_then(|pid| pid.parse().ok()).is_some_and(&wanted)
        })
        .collect()
}

/// Namespaces that this process made and that are still there.
pub(crate) fn leftovers() -> Vec<String> {
    names_where(|pid| pid == std::process::id())
}

/// Removes what an earlier run left behind when it was killed.
pub(crate) fn remove_orphans() {
    for name in names_where(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
        if let Ok(metadata) = std::fs::metadata(Path::new(DIRECTORY).join(&name)) {
            kill_processes(metadata.ino());
        }
        remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_entered_and_removed() {
        let namespace = Namespace::new("unit").unwrap();
        let inside = namespace.enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_eq!(inside, PathBuf::from(format!("net:[{}]", namespace.inode())));
        let output = namespace.run(&["readlink", "/proc/self/ns/net"]).unwrap();
        assert_eq!(output.stdout.trim(), format!("net:[{}]", namespace.inode()));

        let path = Path::new(DIRECTORY).join(namespace.name());
        let mut sleeper = namespace.spawn(&["sleep", "100"]).unwrap();
        assert!(sleeper.is_running() && path.exists());
        drop(namespace);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!sleeper.is_running() && !path.exists());
    }

    #[test]
    fn a_setting_stays_inside() {
        let namespace = Namespace::new("sysctl").unwrap();
        let file = "/proc/sys/net/ipv4/tcp_syn_retries";
        let before = std::fs::read_to_string(file).unwrap();
        namespace.sysctl("net.ipv4.tcp_syn_retries", "3").unwrap();
        assert_eq!(namespace.run(&["cat", file]).unwrap().stdout.trim(), "3");
        assert_eq!(std::fs::read_to_string(file).unwrap(), before);
        assert!(namespace.sysctl("net.ipv4.no_such_setting", "3").is_err());
    }
}
