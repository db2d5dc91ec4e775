//! `cargo xtask dist`: a static binary and a Debian package.

mod deb;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::vm::programs;
use crate::{cmd, setup};
use deb::Package;
use tree::Tree;

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
        Some(binary) => binary.clone(),
        None => {
            setup::ensure(setup::Level::Build)?;
            programs::netdiag(&crate::root().join("target/vm/build"))?
        }
    };
    let dist = crate::root().join("target/dist");
    std::fs::create_dir_all(&dist)?;
    let copy = dist.join(format!("netdiag-{}-x86_64-linux", env!("CARGO_PKG_VERSION")));
    std::fs::copy(&binary, &copy).with_context(|| binary.display().to_string())?;
    println!("dist: {}", copy.display());
    if !has("dpkg-deb") {
        println!("dist: no dpkg-deb: no Debian package");
        return Ok(ExitCode::SUCCESS);
    }
    let tree = Tree::make(&dist.join("root"), &copy)?;
    let package = Package::build(&tree, &dist)?;
    package.try_out(&dist.join("try"))?;
    println!("dist: {}", package.path.display());
    Ok(ExitCode::SUCCESS)
}

fn has(program: &str) -> bool {
    cmd::output(Command::new(program).arg("--version")).is_some()
}

/// What a program writes to its standard output.
fn written(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{} {arguments:?}: {}", program.display(), output.status);
    Ok(output.stdout)
}
