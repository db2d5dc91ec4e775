//! Starts a virtual machine and waits for its end, not for ever.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::cmd;

pub const QEMU: &str = "qemu-system-x86_64";
/// A panic ends the machine. The mitigations cost an emulated processor much time and change nothing here: the
/// verifier does without them for privileged programs.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nowatchdog";
const MEMORY_MB: u32 = 2048;
const POLL: Duration = Duration::from_millis(100);
/// How long the kernel has until the first process says something.
const BOOT: Duration = Duration::from_secs(120);

/// What one virtual machine is started with.
#[derive(Debug)]
pub struct Machine {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The first serial port: the kernel's messages, and what programs write to stderr.
    pub console: PathBuf,
    /// The second one: results only, so that no kernel message splits a line of them.
    pub results: PathBuf,
    pub deadline: Duration,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It switched itself off, or QEMU ended for another reason; the results tell.
    Off,
    /// Nothing came from the first process.
    NoBoot,
    /// The deadline passed.
    Deadline,
}

/// Whether this machine can run others in hardware. A device alone is no proof: some hypervisors offer one that
/// only their own guests can use.
pub fn has_kvm() -> bool {
    let opens = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") && opens()
}

/// How many processors a virtual machine has. An emulated one has one: of two, one may run a breakpoint that the
/// other has just removed again (the kernel patches its code whenever a tracepoint is switched), and the kernel
/// panics. It is the emulator's fault and cannot happen in hardware.
pub fn processors() -> usize {
    if has_kvm() { 2 } else { 1 }
}

impl Machine {
    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut qemu = Command::new(cmd::find(QEMU).unwrap_or_else(|| QEMU.into()));
        // microvm would be smaller, but has no timer that the clock can be calibrated with under emulation.
        qemu.args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        if has_kvm() {
            qemu.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]);
        }
        qemu.args(["-smp", &processors().to_string(), "-m", &MEMORY_MB.to_string(), "-kernel"])
            .arg(&self.kernel);
        qemu.arg("-initrd").arg(&self.initramfs);
        qemu.args(["-append", COMMAND_LINE]);
        for port in [&self.console, &self.results] {
            qemu.arg("-serial").arg(format!("file:{}", port.display()));
        }
        qemu
    }

    /// Runs it; `progress` is called with each line of the results as it comes.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<End> {
        let _ = std::fs::remove_file(&self.results);
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        // SAFETY: prctl() is one system call, and allowed between fork and exec.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let mut child = Running(command.spawn().context("cannot start QEMU")?);
        let start = Instant::now();
        let mut results = Lines::default();
        loop {
            let ended = child.0.try_wait()?.is_some();
            results.read(&self.results, &mut progress);
            if ended {
                return Ok(End::Off);
            }
            if start.elapsed() > self.deadline {
                return Ok(End::Deadline);
            }
            if results.at == 0 && start.elapsed() > BOOT {
                return Ok(End::NoBoot);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A QEMU that ends with this value; the signal above ends it when this whole program is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a file that grows.
#[derive(Debug, Default)]
struct Lines {
    at: u64,
    rest: Vec<u8>,
}

impl Lines {
    fn read(&mut self, path: &Path, progress: &mut impl FnMut(&str)) {
        let Ok(mut file) = File::open(path) else { return };
        if file.seek(SeekFrom::Start(self.at)).is_err() {
            return;
        }
        let Ok(read) = file.read_to_end(&mut self.rest) else { return };
        self.at += read as u64;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            progress(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn passes_on_whole_lines() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for part in ["one\ntw", "o\r\nthr"] {
            file.write_all(part.as_bytes()).expect("it can be written");
            lines.read(file.path(), &mut |line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["one", "two"]);
    }
}
