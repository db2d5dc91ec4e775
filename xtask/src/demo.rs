//! `cargo xtask demo`: three connections that fail, each for another reason.

mod net;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::{build, cmd, setup};
use net::Network;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// netdiag is built already
    #[arg(long, hide = true)]
    built: bool,
}

/// A network with one fault.
struct Fault {
    title: &'static str,
    /// The network in words, and how it was broken.
    story: &'static [&'static str],
    break_it: fn(&Network) -> Result<()>,
    url: &'static str,
    /// The exit status of curl that shows that the fault is there.
    curl_status: i32,
}

const FAULTS: &[Fault] = &[
    Fault {
        title: "1. refused",
        story: &[
            "Two hosts, 10.77.0.1 and 10.77.0.2, joined by a cable (veth).",
            "Nothing listens on port 8080 of 10.77.0.2.",
        ],
        break_it: |_| Ok(()),
        url: "http://10.77.0.2:8080/",
        curl_status: 7,
    },
    Fault {
        title: "2. silently dropped",
        story: &[
            "The same two hosts, and on the first a firewall:",
            "nft add rule inet filter output ip daddr 10.77.0.2 tcp dport 8080 drop",
        ],
        break_it: |network| {
            network.nft("add table inet filter")?;
            network
                .nft("add chain inet filter output { type filter hook output priority 0; policy accept; }")?;
            network.nft("add rule inet filter output ip daddr 10.77.0.2 tcp dport 8080 drop")
        },
        url: "http://10.77.0.2:8080/",
        curl_status: 28,
    },
    Fault {
        title: "3. no route",
        story: &[
            "The same two hosts. The first has the route 10.77.0.0/24 and no default route;",
            "the address asked for, 192.0.2.10, is elsewhere.",
        ],
        break_it: |_| Ok(()),
        url: "http://192.0.2.10/",
        curl_status: 7,
    },
];

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: nix::libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

pub fn main(args: &Args) -> Result<ExitCode> {
    if !args.built {
        setup::ensure(setup::Level::Demo)?;
        build::netdiag(true)?;
    }
    if !cmd::is_root() {
        let status = cmd::status(cmd::as_root(std::env::current_exe()?)?.args(["demo", "--built"]))?;
        return Ok(ExitCode::from(cmd::exit_code(status)));
    }
    for caught in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { signal(caught, SigHandler::Handler(stop)) }?;
    }
    let netdiag = build::binary(true);
    let mut good = true;
    for fault in FAULTS {
        good &= show(fault, &netdiag)?;
        if STOP.load(Ordering::Relaxed) {
            bail!("interrupted; the namespaces are removed");
        }
    }
    Ok(ExitCode::from(u8::from(!good)))
}

/// Builds the network, lets netdiag watch curl in it, and removes it.
fn show(fault: &Fault, netdiag: &Path) -> Result<bool> {
    println!("\n=== {}", fault.title);
    fault.story.iter().for_each(|line| println!("    {line}"));
    let network = Network::new()?;
    (fault.break_it)(&network)?;
    if STOP.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let curl = ["curl", "-sS", "--max-time", "4", fault.url];
    println!("    $ netdiag run -- {}\n", curl.join(" "));
    // Not `ip netns exec`: that mounts a /sys of its own, without tracefs.
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", network.client_path())).arg(netdiag).args(["run", "--"]).args(curl);
    let status = cmd::status(nsenter.env("no_proxy", "*"))?;
    if status.code() != Some(fault.curl_status) && !STOP.load(Ordering::Relaxed) {
        eprintln!("xtask: expected curl's exit status {}, got {status}", fault.curl_status);
        return Ok(false);
    }
    Ok(true)
}
