//! `cargo xtask build`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::{cmd, setup};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Optimised, at target/release/netdiag
    #[arg(long)]
    release: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Level::Build)?;
    netdiag(args.release)?;
    println!("{}", binary(args.release).display());
    Ok(ExitCode::SUCCESS)
}

/// Compiles the netdiag binary, eBPF part included.
pub fn netdiag(release: bool) -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--package", "netdiag-user", "--bin", "netdiag"]);
    if release {
        cargo.arg("--release");
    }
    cmd::run(&mut cargo)
}

/// Where cargo puts the netdiag binary.
pub fn binary(release: bool) -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => crate::root().join(dir),
        None => crate::root().join("target"),
    };
    target.join(if release { "release" } else { "debug" }).join("netdiag")
}
