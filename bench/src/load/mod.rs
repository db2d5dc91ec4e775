//! The load generators: hidden subcommands of this program, run as children of it. Each ends with one JSON
//! object on standard output.

pub mod bulk;
pub mod churn;
pub mod fail;
pub mod flood;
pub mod open;

use std::io::Write;
use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stay on this CPU
    #[arg(long)]
    cpu: Option<usize>,
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, clap::Subcommand)]
enum Load {
    /// Open and close connections on loopback
    Churn {
        #[arg(long, default_value_t = f64::MAX)]
        seconds: f64,
        #[arg(long, default_value_t = u64::MAX)]
        connections: u64,
    },
    /// Take one connection and all that comes
    Sink {
        #[arg(long)]
        listen: SocketAddrV4,
    },
    /// Send to a sink
    Bulk {
        #[arg(long)]
        to: SocketAddrV4,
        #[arg(long)]
        seconds: f64,
    },
    /// Send SYNs and datagrams that are dropped
    Flood {
        #[arg(long)]
        seconds: f64,
        /// Datagrams go here
        #[arg(long)]
        udp: SocketAddrV4,
        /// SYNs go here
        #[arg(long)]
        syn: SocketAddrV4,
    },
    /// Connect to closed ports, one after the other
    Refused {
        #[arg(long)]
        first: SocketAddrV4,
        #[arg(long)]
        count: u16,
        #[arg(long)]
        interval_ms: u64,
    },
    /// Fail in several ways, one after the other
    Fail {
        #[arg(long)]
        seconds: f64,
        /// A port where packets are dropped
        #[arg(long)]
        dropped: SocketAddrV4,
        /// Milliseconds between two failures
        #[arg(long, default_value_t = 0)]
        interval_ms: u64,
    },
    /// Hold connections open until the parent ends this
    Open {
        #[arg(long)]
        connections: u64,
    },
}

/// Runs one load generator.
///
/// # Errors
/// When its sockets cannot be made, or a connection that must work does not.
pub fn main(args: Args) -> Result<()> {
    // A child must not outlive the benchmark, however that ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("staying on CPU {cpu}"))?;
    }
    match args.load {
        Load::Churn { seconds, connections } => say(&churn::run(seconds, connections)?),
        Load::Sink { listen } => say(&bulk::sink(listen)?),
        Load::Bulk { to, seconds } => say(&bulk::send(to, seconds)?),
        Load::Flood { seconds, udp, syn } => say(&flood::run(seconds, udp, syn)?),
        Load::Refused { first, count, interval_ms } => say(&fail::refused(first, count, interval_ms)),
        Load::Fail { seconds, dropped, interval_ms } => say(&fail::run(seconds, dropped, interval_ms)?),
        Load::Open { connections } => open::run(connections),
    }
}

/// Writes one line for the parent.
fn say(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

/// User and system time of this process so far, in seconds.
///
/// # Errors
/// Never on Linux.
pub fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
