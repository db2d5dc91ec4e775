//! One TCP connection, as fast as it goes.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const BUFFER: usize = 128 << 10;

/// What went through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Moved {
    pub bytes: u64,
    pub seconds: f64,
}

/// Says `"ready"` when it listens.
pub fn sink(listen: SocketAddrV4) -> Result<Moved> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    super::say(&"ready")?;
    let (mut stream, _) = listener.accept()?;
    let start = Instant::now();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    Ok(Moved { bytes, seconds: start.elapsed().as_secs_f64() })
}

pub fn send(to: SocketAddrV4, seconds: f64) -> Result<Moved> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    let buffer = vec![0; BUFFER];
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed().as_secs_f64() < seconds {
        stream.write_all(&buffer)?;
        bytes += buffer.len() as u64;
    }
    Ok(Moved { bytes, seconds: start.elapsed().as_secs_f64() })
}
