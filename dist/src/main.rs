//! Makes packages of a program, and tries each out: `cargo xtask dist` runs it.

mod deb;
mod rpm;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tree::Tree;

#[derive(Debug, Parser)]
struct Args {
    /// The program
    binary: PathBuf,
    /// Where to put what is made
    to: PathBuf,
}

fn main() -> Result<()> {
    let Args { binary, to } = Args::parse();
    std::fs::create_dir_all(&to)?;
    let copy = to.join(format!("netdiag-{}-x86_64-linux", env!("CARGO_PKG_VERSION")));
    std::fs::copy(&binary, &copy).with_context(|| binary.display().to_string())?;
    println!("dist: {}", copy.display());
    let tree = Tree::make(&to.join("root"), &copy)?;
    // Before the tree gets what belongs to the Debian package alone.
    let package = rpm::build(&tree, &to)?;
    rpm::try_out(&package, &tree, &to.join("try"))?;
    println!("dist: {}", package.display());
    if !has("dpkg-deb") {
        println!("dist: no dpkg-deb: no Debian package");
        return Ok(());
    }
    let package = deb::Package::build(&tree, &to)?;
    package.try_out(&to.join("try"))?;
    println!("dist: {}", package.path.display());
    Ok(())
}

/// The root of the workspace.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates are below the workspace")
}

fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a command writes to its standard output.
///
/// # Errors
/// When it does not end well; with what it said.
fn written(command: &mut Command) -> Result<Vec<u8>> {
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run `{}`", line(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed ({}): {said}", line(command), output.status);
    Ok(output.stdout)
}

/// That a program from a package is the one that was packaged, and takes the packaged configuration.
///
/// # Errors
/// When it does not run.
fn runs(program: &Path, config: &Path) -> Result<()> {
    let version = written(Command::new(program).arg("--version"))?;
    let expected = format!("netdiag {}\n", env!("CARGO_PKG_VERSION"));
    ensure!(version == expected.as_bytes(), "it says {}", String::from_utf8_lossy(&version));
    written(Command::new(program).args(["agent", "--check", "--config"]).arg(config))?;
    Ok(())
}
