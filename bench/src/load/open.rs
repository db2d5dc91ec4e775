//! Many open connections on loopback, both ends in this process.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// What one process can hold: half of the files that it may have open, and some to spare.
pub fn most() -> Result<u64> {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(files.saturating_sub(64) / 2)
}

/// All are open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    pub open: u64,
}

/// Fewer than there are local ports.
const PER_ADDRESS: u64 = 20_000;
/// If the parent forgets.
const HELD: Duration = Duration::from_secs(120);

pub fn run(connections: u64) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let mut held = Vec::new();
    for number in 0..connections {
        let address = Ipv4Addr::new(127, 0, 1, (number / PER_ADDRESS + 1) as u8);
        held.push(TcpStream::connect((address, port)).with_context(|| format!("connection {number}"))?);
        held.push(listener.accept()?.0);
    }
    super::say(&Opened { open: connections })?;
    std::thread::sleep(HELD);
    Ok(())
}
