//! `cargo xtask setup`: everything that building and testing need and Rust's stable toolchain has not.

mod find;
mod install;
mod packages;
mod pair;

use std::process::ExitCode;

use anyhow::Result;

use crate::cmd;
pub use install::recorded;
use pair::Pair;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Install nothing; exit with status 1 if something is missing
    #[arg(long)]
    check: bool,
}

/// For what the machine must be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Compiling netdiag.
    Build,
    /// The demo too.
    Demo,
    /// The tests and lints too.
    Test,
    /// The virtual machines too.
    Vm,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    if args.check {
        return Ok(check());
    }
    let known = recorded();
    ensure(Level::Test)?;
    if known.is_some() {
        report_pair(known.as_ref());
    }
    println!("setup: everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Makes the machine ready; says only what it changes.
///
/// # Errors
/// When something needed cannot be had; the message names it.
pub fn ensure(level: Level) -> Result<()> {
    packages::ensure(level)?;
    if level >= Level::Test {
        install::components()?;
    }
    if recorded().is_none() {
        let pair = install::pair()?;
        report_pair(Some(&pair));
        install::record(&pair)?;
    }
    Ok(())
}

/// Installs the tools that the benchmarks compare netdiag with.
pub fn peers() -> Result<()> {
    let missing: Vec<&str> = [("bpftrace", "bpftrace"), ("tcpstates", "libbpf-tools")]
        .into_iter()
        .filter(|(program, _)| cmd::find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() { Ok(()) } else { packages::install(&missing) }
}

fn check() -> ExitCode {
    let mut complete = true;
    for tool in packages::needed(Level::Test) {
        let found = cmd::find(tool.program);
        complete &= found.is_some();
        match found {
            Some(path) => println!("ok       {:<10} {}", tool.program, path.display()),
            None => println!("missing  {:<10} package {}", tool.program, tool.package),
        }
    }
    for component in install::COMPONENTS {
        let there = install::has_component(component);
        complete &= there;
        println!("{}  {}", if there { "ok     " } else { "missing" }, component.name);
    }
    let compilers = find::compilers();
    let linkers = find::linkers();
    compilers.iter().for_each(|compiler| println!("found    {compiler}"));
    linkers.iter().for_each(|linker| println!("found    {linker}"));
    let pair = recorded().or_else(|| pair::choose(&compilers, &linkers));
    complete &= pair.is_some();
    report_pair(pair.as_ref());
    println!(
        "setup: {}",
        if complete { "everything is there" } else { "incomplete; run `cargo xtask setup`" }
    );
    ExitCode::from(u8::from(!complete))
}

fn report_pair(pair: Option<&Pair>) {
    match pair {
        Some(pair) => println!("eBPF     {}\n         {}", pair.compiler, pair.linker),
        None => println!("missing  a compiler for eBPF and a bpf-linker that fits it"),
    }
}
