//! The programs that run in the virtual machine, linked statically.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cmd;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are after [`build`].
#[derive(Debug)]
pub struct Programs {
    /// The program under test.
    pub netdiag: PathBuf,
    /// The scenarios, as a test program.
    pub scenarios: PathBuf,
    /// The first process of the virtual machine.
    pub init: PathBuf,
    /// Clients and servers of the scenarios.
    pub helpers: Vec<PathBuf>,
}

/// Compiles them, in a target directory of their own: other flags would make cargo compile all anew.
///
/// # Errors
/// When they do not compile.
pub fn build(directory: &Path) -> Result<Programs> {
    println!("vm: building static binaries");
    let netdiag = netdiag(directory)?;
    cmd::run(&mut cargo(directory, &["build", "--package", "netdiag-tests", "--bins"]))?;
    let mut tests =
        cargo(directory, &["test", "--package", "netdiag-tests", "--test", "scenarios", "--no-run"]);
    tests.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = tests.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the scenarios do not compile");
    }
    let scenarios =
        test_program(&String::from_utf8_lossy(&output.stdout)).context("cargo named no test program")?;
    let release = directory.join(TARGET).join("release");
    Ok(Programs {
        netdiag,
        scenarios,
        init: release.join("nd-init"),
        helpers: ["nd-client", "nd-server"].map(|name| release.join(name)).to_vec(),
    })
}

/// netdiag alone, which needs nothing but a kernel.
///
/// # Errors
/// When it does not compile.
pub fn netdiag(directory: &Path) -> Result<PathBuf> {
    share_bpf(directory)?;
    cmd::run(&mut cargo(directory, &["build", "--package", "netdiag-user", "--bin", "netdiag"]))?;
    Ok(directory.join(TARGET).join("release/netdiag"))
}

fn cargo(directory: &Path, args: &[&str]) -> Command {
    let mut cargo = cmd::cargo();
    cargo.args(args).args(["--release", "--target", TARGET]).env("CARGO_TARGET_DIR", directory);
    cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    cargo
}

/// netdiag's build script puts the eBPF object beside the profiles of its target: let that be the directory
/// that the other builds have, which holds the same object.
fn share_bpf(directory: &Path) -> Result<()> {
    let own = directory.join(TARGET).join("bpf");
    let shared = crate::root().join("target/bpf");
    if own.symlink_metadata().is_err() && shared.is_dir() {
        std::fs::create_dir_all(directory.join(TARGET))?;
        std::os::unix::fs::symlink(shared, own)?;
    }
    Ok(())
}

/// The executable in cargo's messages.
fn test_program(messages: &str) -> Option<PathBuf> {
    let values = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = values.filter(|value| value["target"]["name"] == "scenarios");
    programs.find_map(|value| value["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_test_program() {
        let messages = r#"{"target": {"name": "netdiag_tests"}, "executable": null}
{"target": {"name": "scenarios"}, "executable": "/t/scenarios-1"}
{"reason": "build-finished"}"#;
        assert_eq!(test_program(messages), Some("/t/scenarios-1".into()));
    }
}
