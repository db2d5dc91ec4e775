//! Processes in a container: in a pid and mount namespace of their own, and in a control group that is named as
//! container engines name theirs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::net::Namespace;
use crate::process::{Process, patience};
use crate::tools;

const START: Duration = Duration::from_secs(10);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The runtime `crun`, which podman uses, in `/docker/ID`.
    Crun,
    /// unshare(1), in `docker-ID.scope`.
    Unshare,
}

/// Ended and removed when it is dropped.
#[derive(Debug)]
pub struct Container {
    by: By,
    id: String,
    process: Option<Process>,
    /// The unified hierarchy.
    groups: TempDir,
    /// `config.json`, root and state of the runtime.
    bundle: TempDir,
}

impl Container {
    /// Starts a command in a new container; in a new network namespace, with loopback up, where none is given.
    ///
    /// # Errors
    /// When cgroup2 cannot be mounted, or the container cannot be made.
    pub fn start(by: By, namespace: Option<&Namespace>, words: &[String]) -> Result<Self> {
        let groups = tempfile::tempdir()?;
        mount(Some("none"), groups.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .context("mounting cgroup2")?;
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // The first twelve digits are what people see of it.
        let id = format!("{:06x}{count:06x}{:052x}", std::process::id(), 0xc0ffee);
        let mut container = Self { by, id, process: None, groups, bundle: tempfile::tempdir()? };
        let command = match by {
            By::Crun => container.crun(namespace, words)?,
            By::Unshare => container.unshare(namespace, words)?,
        };
        container.process = Some(Process::spawn(command)?);
        Ok(container)
    }

    /// Sixty-four hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until a line of its standard output starts with `prefix`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_line(&self, prefix: &str) -> Result<()> {
        self.process.as_ref().context("it was ended")?.wait_for_line(prefix, START)
    }

    /// The number that its first process has outside.
    ///
    /// # Errors
    /// When there is none.
    pub fn pid(&self) -> Result<u32> {
        let start = Instant::now();
        loop {
            if let Some(pid) = self.first_process() {
                return Ok(pid);
            }
            ensure!(start.elapsed() < patience(START), "no process in container {}", self.id);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn first_process(&self) -> Option<u32> {
        let pids = std::fs::read_dir("/proc")
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside = |pid: &u32| {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let first =
                read("status").lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
            // Before it is executed the runtime's own program is there.
            let ours = !["crun", "unshare"].iter().any(|name| read("comm").starts_with(name));
            first && ours && read("cgroup").contains(&self.id)
        };
        pids.into_iter().find(inside)
    }

    /// Ends it, and waits until it and its control group are gone.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(mut self) -> Result<()> {
        self.kill();
        let groups = self.group();
        ensure!(!groups.exists(), "{} is still there", groups.display());
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(pid) = self.first_process() {
            // The others of its pid namespace end with it.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        if let Some(process) = self.process.take() {
            let _ = process.wait(START);
        }
        // A member that is just ending may still hold it.
        for _ in 0..200 {
            if !self.group().exists() || std::fs::remove_dir(self.group()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn group(&self) -> PathBuf {
        match self.by {
            By::Crun => self.groups.path().join("docker").join(&self.id),
            By::Unshare => self.groups.path().join(format!("docker-{}.scope", self.id)),
        }
    }

    fn unshare(&self, namespace: Option<&Namespace>, words: &[String]) -> Result<Command> {
        const JOIN: &str = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let group = self.group();
        std::fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let mut command = namespace.map_or_else(|| Command::new("sh"), |namespace| namespace.command("sh"));
        command.args(["-c", JOIN]).arg(group).args(["unshare", "--pid", "--fork", "--mount-proc"]);
        if namespace.is_none() {
            command.arg("--net").args(["sh", "-c", "ip link set lo up; exec \"$@\"", "sh"]);
        }
        command.args(words);
        Ok(command)
    }

    /// It wants the unified hierarchy alone at its usual place, which not every machine has.
    fn crun(&self, namespace: Option<&Namespace>, words: &[String]) -> Result<Command> {
        const SCRIPT: &str =
            "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
        let bundle = self.bundle.path();
        std::fs::create_dir_all(bundle.join("rootfs/dev"))?;
        let config = self.config(namespace, words)?;
        std::fs::write(bundle.join("config.json"), serde_json::to_string(&config)?)?;
        let mut command = Command::new(tools::path("unshare"));
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(tools::path("crun")).arg("--root");
        command.arg(bundle.join("state")).args(["--cgroup-manager=cgroupfs", "run", "--bundle"]).arg(bundle);
        command.arg(&self.id);
        Ok(command)
    }

    /// See the runtime specification of the Open Container Initiative.
    fn config(&self, namespace: Option<&Namespace>, words: &[String]) -> Result<Value> {
        let own = tools::own_binary("nd-client")?;
        let build = own.parent().context("where the test programs are")?;
        // The paths outside are those inside, so that a program is found by its own.
        let system = ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(Path::new);
        let shared = system.into_iter().filter(|path| path.exists()).chain([build]);
        let bind = |path: &Path| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]});
        let proc = json!({"destination": "/proc", "type": "proc", "source": "proc"});
        let mounts: Vec<Value> = std::iter::once(proc).chain(shared.map(bind)).collect();
        let network = match namespace {
            Some(namespace) => json!({"type": "network", "path": format!("/run/netns/{}", namespace.name())}),
            None => json!({"type": "network"}),
        };
        let other = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
        let namespaces: Vec<Value> = other.into_iter().chain([network]).collect();
        Ok(json!({
            "ociVersion": "1.0.0",
            "hostname": "web",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "args": words,
            },
            "mounts": mounts,
            "linux": {"cgroupsPath": format!("/docker/{}", self.id), "namespaces": namespaces},
        }))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
        // The last container takes the directory of all.
        let _ = std::fs::remove_dir(self.groups.path().join("docker"));
        let _ = umount2(self.groups.path(), MntFlags::MNT_DETACH);
    }
}
