//! Debian packages.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::Level;
use crate::cmd;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
    level: Level,
}

const TOOLS: &[Tool] = &[
    Tool { program: "cc", package: "gcc", level: Level::Build },
    Tool { program: "ip", package: "iproute2", level: Level::Demo },
    Tool { program: "nft", package: "nftables", level: Level::Demo },
    Tool { program: "curl", package: "curl", level: Level::Demo },
    Tool { program: "bpftool", package: "bpftool", level: Level::Test },
    Tool { program: "iptables", package: "iptables", level: Level::Test },
    Tool { program: "nc", package: "netcat-openbsd", level: Level::Test },
    Tool { program: "python3", package: "python3", level: Level::Test },
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", level: Level::Vm },
    Tool { program: "depmod", package: "kmod", level: Level::Vm },
    Tool { program: "xz", package: "xz-utils", level: Level::Vm },
];

/// The programs that must be there.
pub fn needed(level: Level) -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().filter(move |tool| tool.level <= level)
}

/// Installs the packages of the programs that are missing.
pub fn ensure(level: Level) -> Result<()> {
    let missing: Vec<&str> =
        needed(level).filter(|tool| cmd::find(tool.program).is_none()).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing).with_context(|| format!("missing packages: {}", missing.join(" ")))
}

/// Installs packages, with fresh package lists if those on the machine do not do.
///
/// # Errors
/// When apt-get cannot; the message holds what to do by hand.
pub fn install(packages: &[&str]) -> Result<()> {
    if cmd::find("apt-get").is_none() {
        bail!("no apt-get here: install {} by your system's own means", packages.join(" "));
    }
    println!("setup: apt-get install {}", packages.join(" "));
    if !packages.iter().all(|package| available(package)) || apt_install(packages).is_err() {
        update()?;
        apt_install(packages)?;
    }
    Ok(())
}

/// Whether the package lists on the machine have it.
pub fn available(package: &str) -> bool {
    let policy =
        cmd::output(std::process::Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"));
    policy.is_some_and(|text| text.contains("Candidate: ") && !text.contains("Candidate: (none)"))
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    apt(&["update"])
}

fn apt_install(packages: &[&str]) -> Result<()> {
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut apt = cmd::as_root("env")?;
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]);
    // Without a network it must fail soon, not after minutes.
    apt.args([
        "-o",
        "Acquire::Retries=1",
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    apt.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    cmd::run(&mut apt)
}
