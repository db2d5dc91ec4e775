//! Command lines of real clients. Each is a plain list of words, to run inside a namespace with
//! [`crate::net::Namespace::run`] or under netdiag with [`crate::netdiag::Run`].

use std::net::SocketAddr;

use anyhow::Result;

use crate::tools::own_binary;

/// A command line.
pub type Command = Vec<String>;

fn words(words: &[&str]) -> Command {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// `curl`, which connects without blocking and gives up after `seconds`.
/// Exit codes: 7 could not connect, 28 timed out, 52 empty answer, 56 receive failed.
pub fn curl(address: SocketAddr, seconds: f64) -> Command {
    let mut command = words(&["curl", "--silent", "--show-error", "--no-progress-meter"]);
    command.extend(["--max-time".to_owned(), seconds.to_string(), format!("http://{address}/")]);
    command
}

/// `nc`, which sends nothing and gives up after so many seconds.
pub fn nc(address: SocketAddr, seconds: u32) -> Command {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    words(&["nc", "-v", "-n", "-z", "-w", &seconds.to_string(), &ip, &port])
}

/// Python's blocking `socket.connect`, then `send` bytes out and an answer in; with a limit it is
/// Python's `settimeout`. It prints the errno's name, or `timeout` for Python's own, and exits with 1.
pub fn python(address: SocketAddr, limit: Option<f64>, send: usize) -> Command {
    const SCRIPT: &str = "
import errno, socket, sys
host, port, limit, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
if limit > 0: s.settimeout(limit)
try:
    s.connect((host, port))
    print('connected')
    if size:
        s.sendall(b'x' * size)
        print('received', len(s.recv(65536)))
except OSError as e:
    print(errno.errorcode.get(e.errno, 'timeout'))
    sys.exit(1)
";
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    words(&["python3", "-c", SCRIPT, &ip, &port, &limit.unwrap_or(0.0).to_string(), &send.to_string()])
}

/// `nd-client` with these steps ([`crate::steps`]), separated by spaces.
///
/// # Errors
/// When it was not built.
pub fn steps(steps: &str) -> Result<Command> {
    own("nd-client", steps)
}

/// One of the programs of this crate with these steps.
///
/// # Errors
/// When it was not built.
pub fn own(binary: &str, steps: &str) -> Result<Command> {
    let mut command = vec![own_binary(binary)?.display().to_string()];
    command.extend(steps.split_whitespace().map(str::to_owned));
    Ok(command)
}

/// `nd-client connect=ADDRESS`, which blocks until the kernel says something.
///
/// # Errors
/// When it was not built.
pub fn connect(address: SocketAddr) -> Result<Command> {
    steps(&format!("tcp connect={address}"))
}

/// The command as a grandchild: a shell starts a shell in the background, which runs it.
pub fn grandchild(command: &[String]) -> Command {
    let mut shell = words(&["sh", "-c", "sh -c '\"$@\"; exit $?' inner \"$@\" & wait $!", "outer"]);
    shell.extend_from_slice(command);
    shell
}
