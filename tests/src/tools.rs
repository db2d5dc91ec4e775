//! Finding and running the command-line tools that set a scene.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const SYSTEM_DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"];

/// The path of a tool, or `None` where it is not installed.
///
/// The system directories come before `PATH`: in a small VM `ip` on the `PATH` may be busybox's,
/// which knows neither namespaces nor batches.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    SYSTEM_DIRECTORIES
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Like [`find`], with the bare name (and so a clear error at start) where the tool is missing.
pub fn path(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| PathBuf::from(name))
}

/// Runs a tool in the caller's own namespace with `stdin` as its input; its standard output.
///
/// # Errors
/// When it cannot be started or fails; the message has its standard error and the input.
pub fn feed(name: &str, arguments: &[&str], stdin: &str) -> Result<String> {
    let mut command = Command::new(path(name));
    command.args(arguments);
    feed_command(command, stdin)
}

/// [`feed`] for a prepared command.
///
/// # Errors
/// As [`feed`].
pub fn feed_command(mut command: Command, stdin: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A tool that stops reading early says why on its standard error.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        if stdin.is_empty() { String::new() } else { format!("its input was:\n{stdin}") }
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One of this crate's own binaries: `NETDIAG_TEST_BINARIES` if set, else beside the running test.
///
/// # Errors
/// When it is in neither place.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("NETDIAG_TEST_BINARIES") {
        return Ok(Path::new(&directory).join(name));
    }
    let exe = std::env::current_exe()?;
    // target/PROFILE/deps/scenarios-HASH: the binaries are one directory up.
    for directory in exe.ancestors().skip(1).take(2) {
        let candidate = directory.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not beside {}; build it with `cargo build --package netdiag-tests`", exe.display())
}
/// Loads the module by which connection tracking answers: netdiag asks it where it is there and loads none itself.
/// Does nothing where it is built in, or cannot be loaded.
pub fn load_conntrack_netlink() {
    let _ = Command::new(path("modprobe")).args(["-q", "nf_conntrack_netlink"]).status();
}
