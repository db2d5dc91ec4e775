//! `cargo xtask dist`: a static binary, and packages of it, which crate `netdiag-dist` makes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::vm::programs;
use crate::{cmd, setup};

#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Package this program instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// # Errors
/// When something cannot be built, or what was built does not do what it should.
pub fn main(args: &Args) -> Result<ExitCode> {
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            setup::ensure(setup::Level::Build)?;
            programs::netdiag(&crate::root().join("target/vm/build"))?
        }
    };
    let dist = crate::root().join("target/dist");
    let mut packages = cmd::cargo();
    packages.args(["run", "--quiet", "--package", "netdiag-dist", "--"]).arg(binary).arg(dist);
    let status = cmd::status(&mut packages)?;
    Ok(ExitCode::from(cmd::exit_code(status)))
}
