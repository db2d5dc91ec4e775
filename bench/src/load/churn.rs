//! Connection churn: connect, one byte each way, close. Both ends in one thread: on loopback the kernel
//! finishes the handshake inside connect() and delivers inside send(), so nothing ever waits and one core does
//! all the work.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::stats::quantile;

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Churned {
    pub connections: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    /// Connections a second that a tenth of the short slices reach: interruptions by others hardly count here.
    pub fast_slice_rate: f64,
}

/// Connections to one address before the next: fewer than there are local ports, and closed ones stay in
/// TIME_WAIT.
const PER_ADDRESS: u64 = 8192;
const SLICE: u64 = 500;

pub fn run(seconds: f64, connections: u64) -> Result<Churned> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listening")?;
    let port = listener.local_addr()?.port();
    let start = Instant::now();
    let cpu = super::cpu_seconds()?;
    let mut slices = Vec::new();
    let mut done = 0;
    while done < connections && start.elapsed().as_secs_f64() < seconds {
        let slice = Instant::now();
        for _ in 0..SLICE {
            let address = done / PER_ADDRESS;
            one(&listener, Ipv4Addr::new(127, 0, (address / 250) as u8, (address % 250 + 1) as u8), port)?;
            done += 1;
        }
        slices.push(SLICE as f64 / slice.elapsed().as_secs_f64());
    }
    slices.sort_by(f64::total_cmp);
    Ok(Churned {
        connections: done,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: super::cpu_seconds()? - cpu,
        fast_slice_rate: quantile(&slices, 0.9),
    })
}

fn one(listener: &TcpListener, address: Ipv4Addr, port: u16) -> Result<()> {
    let mut client =
        TcpStream::connect((address, port)).with_context(|| format!("connecting to {address}"))?;
    let (mut server, _) = listener.accept()?;
    let mut byte = [0];
    client.write_all(b"?")?;
    server.read_exact(&mut byte)?;
    server.write_all(b"!")?;
    client.read_exact(&mut byte)?;
    drop(client);
    drop(server);
    Ok(())
}
