//! Gets a compiler and a linker for eBPF, and records the choice for netdiag-user's build script.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::pair::{Compiler, Linker, Pair, choose};
use super::{find, packages};
use crate::cmd;

/// The release of bpf-linker that is built here, and the LLVM versions that it can be built with.
const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: &[u32] = &[21, 22, 23];

/// Debian's current Rust, kept up to date in its stable releases for building browsers.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

type GetCompiler = fn() -> Result<()>;

/// The ways to a compiler, the preferred first: what is installed, then the smallest download.
const COMPILERS: &[(&str, GetCompiler)] = &[
    ("installed", || Ok(())),
    ("rustup component rust-src", add_sources),
    ("rustup's oldest release that netdiag supports", add_oldest),
    ("rustup nightly", add_nightly),
    ("Debian's rustc-web", || packages::install(DEBIAN_RUST)),
];

/// A part of a rustup toolchain that the lints need.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    pub name: &'static str,
    subcommand: &'static str,
}

pub const COMPONENTS: &[Component] =
    &[Component { name: "rustfmt", subcommand: "fmt" }, Component { name: "clippy", subcommand: "clippy" }];

pub fn has_component(component: &Component) -> bool {
    cmd::output(cmd::cargo().args([component.subcommand, "--version"])).is_some()
}

/// Adds what the lints need to the active toolchain.
pub fn components() -> Result<()> {
    let missing: Vec<&str> =
        COMPONENTS.iter().filter(|part| !has_component(part)).map(|part| part.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: rustup component add {}", missing.join(" "));
    cmd::run(rustup(120).args(["component", "add"]).args(&missing).current_dir(crate::root()))
        .with_context(|| format!("the lints need {}", missing.join(" and ")))
}

fn rustup(seconds: u32) -> Command {
    let mut rustup = cmd::limited(seconds, "rustup");
    rustup.env("RUSTUP_MAX_RETRIES", "1");
    rustup
}

/// A compiler and linker that fit: those on the machine if there are any, else what can be installed.
///
/// # Errors
/// When neither rustup nor Debian's packages lead to a pair.
pub fn pair() -> Result<Pair> {
    // LLVM versions for which no linker was to be had.
    let mut without_linker = BTreeSet::new();
    for (name, get_compiler) in COMPILERS {
        if let Err(error) = get_compiler() {
            println!("setup: {name}: {error:#}");
            continue;
        }
        let compilers = find::compilers();
        if let Some(pair) = choose(&compilers, &find::linkers()) {
            return Ok(pair);
        }
        let Some(llvm) = compilers.iter().map(|compiler| compiler.llvm).min() else { continue };
        if !without_linker.insert(llvm) {
            continue;
        }
        match install_linker(llvm) {
            Ok(()) => match choose(&find::compilers(), &find::linkers()) {
                Some(pair) => return Ok(pair),
                None => println!("setup: the new bpf-linker does not fit LLVM {llvm}"),
            },
            Err(error) => {
                println!("setup: bpf-linker for LLVM {llvm}: {error:#}");
            }
        }
    }
    bail!(
        "no compiler for eBPF with a bpf-linker that fits it: see docs/building.md, and above what was tried"
    )
}

/// The sources of `core` for the toolchain that builds the rest: a few megabytes.
fn add_sources() -> Result<()> {
    let toolchain = find::active_toolchain().context("no rustup here")?;
    println!("setup: rustup component add rust-src --toolchain {toolchain}");
    cmd::run(rustup(120).args(["component", "add", "rust-src", "--toolchain", &toolchain]))
}

/// An older release has an older LLVM, which a distribution's packages are more likely to match.
fn add_oldest() -> Result<()> {
    add_toolchain(env!("CARGO_PKG_RUST_VERSION"))
}

fn add_nightly() -> Result<()> {
    if !find::compilers().is_empty() {
        bail!("no use: its LLVM is not older than the ones that lack a linker");
    }
    add_toolchain("nightly")
}

fn add_toolchain(name: &str) -> Result<()> {
    let args =
        format!("toolchain install {name} --profile minimal --component rust-src,clippy --no-self-update");
    println!("setup: rustup {args}");
    cmd::run(rustup(600).args(args.split(' ')))
}

/// Builds a bpf-linker with an LLVM that is not older than `wanted`.
fn install_linker(wanted: u32) -> Result<()> {
    let fitting = || BPF_LINKER_LLVM.iter().copied().filter(move |llvm| *llvm >= wanted);
    let installed = || fitting().find(|llvm| llvm_prefix(*llvm).join("include/llvm-c/Core.h").is_file());
    let llvm = match installed() {
        Some(llvm) => llvm,
        None => {
            let package = |llvm: u32| format!("llvm-{llvm}-dev");
            let offered = || fitting().find(|llvm| packages::available(&package(*llvm)));
            let llvm = match offered() {
                Some(llvm) => llvm,
                None => {
                    packages::update()?;
                    offered().with_context(|| format!("no package llvm-N-dev with N from {wanted} on"))?
                }
            };
            packages::install(&[&package(llvm)])?;
            llvm
        }
    };
    let feature = format!("llvm-{llvm}");
    let mut cargo = cmd::limited(1500, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"]);
    cargo.args(["--features", &feature]);
    if find::cargo_home().join("bin/bpf-linker").exists() {
        // Somebody else may need the one that is there.
        cargo.arg("--force").arg("--root").arg(find::own_tools());
    }
    println!("setup: cargo install bpf-linker {BPF_LINKER} with LLVM {llvm} (about a minute)");
    cargo.env("LLVM_PREFIX", llvm_prefix(llvm)).env("CARGO_NET_RETRY", "1");
    cmd::run(&mut cargo)
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// The file that tells netdiag-user's build script what to use.
fn record_path() -> PathBuf {
    crate::root().join("target/netdiag-toolchain")
}

/// Writes the choice down.
pub fn record(pair: &Pair) -> Result<()> {
    let path = record_path();
    let write = || {
        std::fs::create_dir_all(crate::root().join("target"))?;
        std::fs::write(&path, to_text(pair))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The choice made earlier, if it still holds on this machine.
pub fn recorded() -> Option<Pair> {
    let text = std::fs::read_to_string(record_path()).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let toolchain = Some(value("toolchain")?).filter(|name| !name.is_empty()).map(str::to_owned);
    let sysroot = Path::new(value("rustc")?).parent()?.parent()?;
    let compiler: Compiler = find::compiler(toolchain, sysroot)?;
    let linker: Linker = find::linker(Path::new(value("linker")?))?;
    let pair = choose(&[compiler], &[linker])?;
    // An update of the toolchain can change its version in place.
    (text == to_text(&pair)).then_some(pair)
}

fn to_text(Pair { compiler, linker }: &Pair) -> String {
    format!(
        "# Written by `cargo xtask setup`, read by netdiag-user/build.rs.\n\
         toolchain={}\nrelease={}\ncargo={}\nrustc={}\nbootstrap={}\nlinker={}\n",
        compiler.toolchain.as_deref().unwrap_or_default(),
        compiler.release,
        compiler.cargo().display(),
        compiler.rustc().display(),
        if compiler.nightly { "" } else { "1" },
        linker.path.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_says_what_the_build_script_needs() {
        let compiler = Compiler {
            toolchain: Some("stable".into()),
            sysroot: "/opt/rust".into(),
            release: "1.95.0".into(),
            llvm: 22,
            nightly: false,
        };
        let linker = Linker { path: "/opt/bpf-linker".into(), llvm: 22 };
        let text = to_text(&Pair { compiler, linker });
        for line in [
            "cargo=/opt/rust/bin/cargo",
            "rustc=/opt/rust/bin/rustc",
            "bootstrap=1",
            "linker=/opt/bpf-linker",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} not in {text}");
        }
    }
}
