//! Which tools, and how they are started and stopped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::events::{Counting, Expected, Seen, count};
use crate::bpf::programs_of;
use crate::context::pause;
use crate::tracer::die_with_parent;

/// A tool that sees some of what netdiag sees.
#[derive(Debug)]
pub struct Peer {
    pub title: &'static str,
    pub package: &'static str,
    what: What,
    counting: Counting,
    expected: Expected,
}

#[derive(Debug)]
enum What {
    /// A program of its own.
    Program(&'static str),
    /// A program for bpftrace that comes with it.
    Installed(&'static str),
    /// A program for bpftrace of our own.
    Script(&'static str),
}

const LIBBPF_TOOLS: &str = "libbpf-tools";
const BPFTRACE: &str = "bpftrace";

/// In the order of the table.
pub const PEERS: &[Peer] = &[
    Peer {
        title: "tcpstates (libbpf-tools): prints each state change",
        package: LIBBPF_TOOLS,
        what: What::Program("tcpstates"),
        counting: Counting::Lines { words: 9 },
        expected: Expected::Transitions,
    },
    Peer {
        title: "tcplife (libbpf-tools): prints each connection's end",
        package: LIBBPF_TOOLS,
        what: What::Program("tcplife"),
        counting: Counting::Lines { words: 8 },
        expected: Expected::Ends,
    },
    Peer {
        title: "bpftrace, own script: prints each state change",
        package: BPFTRACE,
        what: What::Script(
            "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ \
             { printf(\"%d %s %d %d %d %d\\n\", pid, comm, args->sport, args->dport, args->oldstate, args->newstate); }",
        ),
        counting: Counting::Lines { words: 6 },
        expected: Expected::Transitions,
    },
    Peer {
        title: "bpftrace, own script: counts state changes",
        package: BPFTRACE,
        what: What::Script(
            "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ { @[args->newstate] = count(); }",
        ),
        counting: Counting::Map,
        expected: Expected::Transitions,
    },
    Peer {
        title: "tcpretrans.bt (bpftrace)",
        package: BPFTRACE,
        what: What::Installed("tcpretrans.bt"),
        counting: Counting::Lines { words: 6 },
        expected: Expected::None,
    },
    Peer {
        title: "tcpretrans, own script for bpftrace: prints each retransmit",
        package: BPFTRACE,
        what: What::Script(
            "tracepoint:tcp:tcp_retransmit_skb \
             { printf(\"%d %s %d %d %d\\n\", pid, comm, args->sport, args->dport, args->state); }",
        ),
        counting: Counting::Lines { words: 5 },
        expected: Expected::None,
    },
    Peer {
        title: "tcpdrop.bt (bpftrace)",
        package: BPFTRACE,
        what: What::Installed("tcpdrop.bt"),
        counting: Counting::Lines { words: 6 },
        expected: Expected::None,
    },
    Peer {
        title: "tcpdrop, own script for bpftrace: prints each dropped IPv4 packet with its stack",
        package: BPFTRACE,
        what: What::Script(
            "tracepoint:skb:kfree_skb /args->protocol == 0x800/ \
             { printf(\"%d %s %d\\n%s\\n\", pid, comm, args->reason, kstack); }",
        ),
        counting: Counting::Lines { words: 3 },
        expected: Expected::None,
    },
];

/// A peer at work.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// CPU time until it was ready: compiling and loading.
    spent: f64,
    directory: TempDir,
}

/// Whether it came so far.
#[derive(Debug)]
pub enum Started {
    Yes(Running),
    No(String),
}

const OUTPUT: &str = "out";
const ERRORS: &str = "err";

impl Peer {
    /// Where it is installed.
    pub fn program(&self) -> Option<PathBuf> {
        let find = netdiag_tests::tools::find;
        match self.what {
            What::Program(name) => find(name),
            What::Installed(name) => find(BPFTRACE).and_then(|_| find(name)),
            What::Script(_) => find(BPFTRACE),
        }
    }

    fn command(&self) -> Command {
        let bpftrace = || Command::new(netdiag_tests::tools::path(BPFTRACE));
        match self.what {
            What::Program(name) => Command::new(netdiag_tests::tools::path(name)),
            What::Installed(name) => {
                let mut command = bpftrace();
                command.arg(netdiag_tests::tools::path(name));
                command
            }
            What::Script(text) => {
                let mut command = bpftrace();
                command.args(["-e", text]);
                command
            }
        }
    }

    /// Starts it with its output in files, and waits until its programs are attached.
    ///
    /// # Errors
    /// When it cannot be started at all, or the user interrupts.
    pub fn start(&self) -> Result<Started> {
        const LIMIT: Duration = Duration::from_secs(15);
        let directory = TempDir::new()?;
        let file = |name| File::create(directory.path().join(name)).context("a file for a peer's output");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(file(OUTPUT)?).stderr(file(ERRORS)?).process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("starting {}", self.title))?;
        let mut running = Running { child, spent: 0.0, directory };
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            pause(Duration::from_millis(50))?;
            if running.child.try_wait()?.is_some() {
                return Ok(Started::No(running.complaint()));
            }
            if running.has_programs() {
                // Loaded; attaching, and a failure of that, comes right after.
                pause(Duration::from_millis(600))?;
                if running.child.try_wait()?.is_some() {
                    return Ok(Started::No(running.complaint()));
                }
                running.spent = cpu_seconds(running.child.id()).unwrap_or(0.0);
                return Ok(Started::Yes(running));
            }
        }
        Ok(Started::No("it loads no program".to_owned()))
    }
}

impl Running {
    fn has_programs(&self) -> bool {
        programs_of(self.child.id()).is_ok_and(|programs| !programs.0.is_empty())
    }

    /// What it wrote, on one line.
    fn complaint(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let text = read(ERRORS) + &read(OUTPUT);
        let meant = |line: &&str| !line.trim().is_empty() && !line.contains("RLIMIT_MEMLOCK");
        let lines: Vec<&str> = text.lines().filter(meant).collect();
        let error = lines.iter().find(|line| line.to_lowercase().contains("error")).or(lines.first());
        let said = error.map_or("it ended without a word", |line| line.trim());
        // The kernel refuses kprobes where it was built without them.
        if text.contains("kprobe") || text.contains("kfunc") || text.contains("perf_event") {
            return format!("no kprobes ({said})");
        }
        said.to_owned()
    }

    fn written(&self) -> u64 {
        std::fs::metadata(self.directory.path().join(OUTPUT)).map_or(0, |file| file.len())
    }

    /// Lets it catch up, ends it and counts its events.
    pub fn stop(mut self, peer: &Peer, connections: u64, seconds: f64, transitions: f64) -> Result<Seen> {
        const CATCH_UP: Duration = Duration::from_secs(8);
        let start = Instant::now();
        let mut written = self.written();
        loop {
            pause(Duration::from_millis(250))?;
            let now = self.written();
            if now == written || start.elapsed() > CATCH_UP {
                break;
            }
            written = now;
        }
        let cpu_seconds = cpu_seconds(self.child.id()).unwrap_or(0.0) - self.spent;
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT);
        let end = Instant::now() + CATCH_UP;
        while self.child.try_wait()?.is_none() && Instant::now() < end {
            pause(Duration::from_millis(20))?;
        }
        let events = count(&self.directory.path().join(OUTPUT), peer.counting)?;
        Ok(Seen { expected: peer.expected.of(connections, transitions), events, cpu_seconds, seconds })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process and its ended threads (proc(5), fields 14 and 15 of stat).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(ticks as f64 / per_second as f64)
}
