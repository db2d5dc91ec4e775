//! Child processes with captured output, a time limit, and no way to outlive the test.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long the pipes may stay open after the process itself ended (a grandchild holds them).
const PIPE_GRACE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(3);

/// How many times slower than usual this machine is: `NETDIAG_TEST_SLOWNESS`, of an emulated processor.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let value = std::env::var("NETDIAG_TEST_SLOWNESS").ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
});

/// How long to wait at most on this machine; no scenario passes because of a limit.
pub fn patience(limit: Duration) -> Duration {
    limit.saturating_mul(*SLOWNESS)
}

/// Whether this machine is known to be slow.
pub fn is_slow() -> bool {
    *SLOWNESS > 1
}

/// What a finished process left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
    command: String,
}

impl Output {
    /// Its exit code, or 128+N if signal N ended it, as a shell counts.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Requires that either stream contains `text`.
    ///
    /// # Errors
    /// With both streams in the message.
    pub fn says(&self, text: &str) -> Result<&Self> {
        ensure!(self.stdout.contains(text) || self.stderr.contains(text), "expected {text:?} from {self}");
        Ok(self)
    }

    /// Requires an exit code.
    ///
    /// # Errors
    /// With both streams in the message.
    pub fn exits(&self, code: i32) -> Result<&Self> {
        ensure!(self.code() == code, "expected exit code {code} from {self}");
        Ok(self)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ({} after {:.3} s)", self.command, self.status, self.elapsed.as_secs_f64())?;
        writeln!(f, "-- stdout --\n{}", self.stdout.trim_end())?;
        write!(f, "-- stderr --\n{}", self.stderr.trim_end())
    }
}

/// A running child in its own process group; the group is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    started: Instant,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    finished: bool,
}

impl Process {
    /// Starts `command` with both output streams captured and no input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let name = describe(&command);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let stdout = Stream::read(child.stdout.take());
        let stderr = Stream::read(child.stderr.take());
        Ok(Self { child, command: name, started: Instant::now(), stdout, stderr, finished: false })
    }

    /// The process's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until a line of standard output starts with `prefix`.
    ///
    /// # Errors
    /// When the stream ends or `limit` passes first.
    pub fn wait_for_line(&self, prefix: &str, limit: Duration) -> Result<()> {
        self.wait_in(&self.stdout, prefix, limit)
    }

    /// As [`Self::wait_for_line`], on standard error.
    ///
    /// # Errors
    /// When the stream ends or `limit` passes first.
    pub fn wait_for_error_line(&self, prefix: &str, limit: Duration) -> Result<()> {
        self.wait_in(&self.stderr, prefix, limit)
    }

    fn wait_in(&self, stream: &Stream, prefix: &str, limit: Duration) -> Result<()> {
        let limit = patience(limit);
        // Of a line that is not complete, more may be read as soon as the caller asks for it.
        let is_there = |text: &str| {
            text.split_inclusive('\n').any(|line| line.ends_with('\n') && line.starts_with(prefix))
        };
        if stream.wait_until(limit, is_there) {
            return Ok(());
        }
        bail!(
            "{} did not print a line starting with {prefix:?} within {limit:?}\n-- stdout --\n{}\n-- stderr --\n{}",
            self.command,
            self.stdout(),
            self.stderr()
        )
    }

    /// Sends a signal to the process (not to its group).
    ///
    /// # Errors
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.raw_pid(), signal).with_context(|| format!("{signal} to {}", self.command))
    }

    /// Waits for the end and collects the output.
    ///
    /// # Errors
    /// When it does not end within `limit`: it is killed then, and its output is in the message.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(self.collect(status));
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(POLL);
        }
        self.kill_group();
        let status = self.child.wait()?;
        let output = self.collect(status);
        bail!("did not end within {limit:?}, killed: {output}")
    }

    fn collect(&mut self, status: ExitStatus) -> Output {
        self.finished = true;
        let elapsed = self.started.elapsed();
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        Output { status, stdout, stderr, elapsed, command: self.command.clone() }
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn kill_group(&self) {
        // The group may be gone already, which is as good.
        let _ = killpg(self.raw_pid(), Signal::SIGKILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After the leader was reaped the number could belong to somebody else, unless the
        // group lives on; then `wait` left it to the namespace's own clean-up.
        if !self.finished {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started or takes longer than `limit`.
pub fn run(command: Command, limit: Duration) -> Result<Output> {
    Process::spawn(command)?.wait(limit)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[derive(Debug, Default)]
struct Stream {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Stream {
    fn read(pipe: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let stream = Arc::new(Self::default());
        let writer = Arc::clone(&stream);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            if let Some(mut pipe) = pipe {
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    writer.lock().0.extend_from_slice(&buffer[..length]);
                    writer.changed.notify_all();
                }
            }
            writer.lock().1 = true;
            writer.changed.notify_all();
        });
        stream
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().0).into_owned()
    }

    /// True once `found` holds; false when the stream ended or the time is over.
    fn wait_until(&self, limit: Duration, found: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if found(&String::from_utf8_lossy(&state.0)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finish(&self) -> String {
        let deadline = Instant::now() + PIPE_GRACE;
        let mut state = self.lock();
        while !state.1 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        String::from_utf8_lossy(&state.0).into_owned()
    }
}

/// Whether a process lives whose command line has these words: the first at the end of its program's path,
/// the others as arguments.
pub fn any_with(words: &[&str]) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { return false };
        let line = String::from_utf8_lossy(&line);
        let mut arguments = line.split('\0');
        let program = arguments.next().unwrap_or_default();
        let rest: Vec<&str> = arguments.collect();
        words.first().is_some_and(|first| program.ends_with(first))
            && words.iter().skip(1).all(|word| rest.contains(word))
    })
}
