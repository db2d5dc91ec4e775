//! `cargo xtask run`

use std::process::ExitCode;

use anyhow::Result;

use crate::{build, cmd, setup};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Arguments for netdiag
    #[arg(last = true)]
    args: Vec<std::ffi::OsString>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Level::Build)?;
    build::netdiag(true)?;
    let status = cmd::status(cmd::as_root(build::binary(true))?.args(&args.args))?;
    Ok(ExitCode::from(cmd::exit_code(status)))
}
