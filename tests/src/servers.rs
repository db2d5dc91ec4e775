//! Servers in a namespace, ready when the function returns.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::clients::own;
use crate::net::Namespace;
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(5);

/// `nd-server` with these steps ([`crate::steps`]), once it says that it listens.
///
/// # Errors
/// When it was not built or does not listen.
pub fn steps(namespace: &Namespace, steps: &str) -> Result<Process> {
    let server = namespace.spawn(&own("nd-server", steps)?)?;
    server.wait_for_line("listening", START_LIMIT)?;
    Ok(server)
}

/// Echoes on every connection.
///
/// # Errors
/// As [`steps`].
pub fn echo(namespace: &Namespace, address: SocketAddr) -> Result<Process> {
    steps(namespace, &format!("tcp reuseaddr bind={address} listen=128 echo"))
}

/// Echoes datagrams.
///
/// # Errors
/// As [`steps`].
pub fn echo_udp(namespace: &Namespace, address: SocketAddr) -> Result<Process> {
    steps(namespace, &format!("udp bind={address} echo"))
}

/// Answers any HTTP request with 200 and closes.
///
/// # Errors
/// As [`steps`].
pub fn http(namespace: &Namespace, address: SocketAddr) -> Result<Process> {
    steps(namespace, &format!("tcp reuseaddr bind={address} listen=128 http"))
}

/// Listens and never accepts; `backlog` + 1 connections fill its queue.
///
/// # Errors
/// As [`steps`].
pub fn never_accepts(namespace: &Namespace, address: SocketAddr, backlog: u16) -> Result<Process> {
    steps(namespace, &format!("tcp reuseaddr bind={address} listen={backlog} wait"))
}

/// Accepts one connection, waits for `bytes` of it and closes without reading them.
///
/// # Errors
/// As [`steps`].
pub fn closes_unread(namespace: &Namespace, address: SocketAddr, bytes: usize) -> Result<Process> {
    steps(namespace, &format!("tcp reuseaddr bind={address} listen=8 accept await-unread={bytes} close wait"))
}
