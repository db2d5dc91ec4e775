//! `cargo xtask bench`: builds netdiag and the benchmarks, and runs them as root.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::{build, cmd, setup};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// For the benchmarks; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Level::Demo)?;
    if args.args.iter().any(|argument| argument == "--with-peers") {
        setup::peers()?;
    }
    build::netdiag(true)?;
    cmd::run(cmd::cargo().args(["build", "--release", "--package", "netdiag-bench"]))?;
    let netdiag = build::binary(true);
    let bench = netdiag.with_file_name("netdiag-bench");
    let status = cmd::status(cmd::as_root(bench)?.arg("--netdiag").arg(netdiag).args(&args.args))?;
    Ok(ExitCode::from(cmd::exit_code(status)))
}
