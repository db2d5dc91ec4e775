//! The project's own commands: `cargo xtask setup | build | run | test | vm | demo | bench | dist`.

mod bench;
mod build;
mod cmd;
mod count;
mod demo;
mod dist;
mod run;
mod setup;
mod test;
mod vm;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run and test netdiag.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what compiling and testing need: an eBPF compiler and linker, and network tools
    Setup(setup::Args),
    /// Build the netdiag binary
    Build(build::Args),
    /// Build netdiag and run it as root: cargo xtask run -- run -- curl http://10.1.2.3:8080/
    Run(run::Args),
    /// Run every check and test; the last line is "N passed, N failed"
    Test(test::Args),
    /// Run scenarios on Debian's kernels, in virtual machines
    Vm(vm::Args),
    /// Break three networks in namespaces and let netdiag say why
    Demo(demo::Args),
    /// Measure what netdiag costs, beside other tools: cargo xtask bench --quick
    Bench(bench::Args),
    /// Make what is given to others: a static binary and a Debian package, tried in a root of its own
    Dist(dist::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Setup(args) => setup::main(&args),
        Command::Build(args) => build::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Dist(args) => dist::main(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(2)
    })
}

/// The root of the workspace.
fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}
