//! Runs a tool that lists rules, with a deadline.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A ruleset of ten thousand rules takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(3);
const MAX_OUTPUT: usize = 32 << 20;
/// The system's own tools, wherever the user's PATH leads.
pub(super) const PATH: &str =
    "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:/run/current-system/sw/bin";

/// What the command writes to its standard output; `None` if it is not there, fails, or takes too long.
pub(super) fn output(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let text = child.stdout.take().and_then(read_all);
    finish(child, text.is_none())?;
    text
}

fn read_all(mut from: ChildStdout) -> Option<String> {
    let end = Instant::now() + DEADLINE;
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = end.checked_duration_since(Instant::now())?;
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut wanted = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, timeout) {
            Ok(0) => return None,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
        match from.read(&mut buffer) {
            Ok(0) => return String::from_utf8(all).ok(),
            Ok(read) if all.len() + read <= MAX_OUTPUT => all.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Waits for a command that has closed its output; `None` if it failed.
fn finish(mut child: Child, stop: bool) -> Option<()> {
    if stop {
        // Gone already is what is wanted.
        let _ = child.kill();
    }
    child.wait().ok().filter(std::process::ExitStatus::success).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_succeeds_has_output() {
        assert_eq!(output(&["echo", "a", "b"]).as_deref(), Some("a b\n"));
        assert_eq!(output(&["true"]).as_deref(), Some(""));
        assert_eq!(output(&["false"]), None);
        assert_eq!(output(&["netdiag-no-such-command"]), None);
        assert_eq!(output(&[]), None);
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let start = Instant::now();
        assert_eq!(output(&["sleep", "60"]), None);
        assert!(start.elapsed() < DEADLINE * 3);
    }
}
