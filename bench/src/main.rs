//! `cargo xtask bench`: what netdiag costs, measured.

mod agent;
mod bpf;
mod context;
mod load;
mod peers;
mod report;
mod stats;
mod suite;
mod tracer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use context::{Context, go_on, tell};
use report::Row;
use report::machine::Machine;
use suite::{BENCHMARKS, Benchmark};

/// Measure what netdiag costs, in network namespaces, and compare it with its targets.
///
/// Exit status: 0 done (targets may be missed: the table says so), 2 something could not be measured.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", version, max_term_width = 100)]
struct Cli {
    /// Pairs of runs without and with netdiag [default: 9, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..1000))]
    pairs: Option<u16>,
    /// Fewer and shorter runs: does it work, and roughly how fast
    #[arg(long)]
    quick: bool,
    /// Only these benchmarks: churn, programs, packets, drops, ruleset, replay, memory, start, idle, peers; and two that run
    /// only if they are named: cycles (3 min), soak (10 min)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// A table for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Write the results to docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Install Debian's bpftrace and libbpf-tools first; without it, those that are installed are compared
    #[arg(long)]
    with_peers: bool,
    /// The netdiag to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/netdiag")]
    netdiag: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A load generator
    #[command(hide = true)]
    Load(load::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Load(args)) => load::main(args).map(|()| ExitCode::SUCCESS),
        None => bench(&cli),
    };
    result.unwrap_or_else(|error| {
        tell(format_args!("{error:#}"));
        ExitCode::from(2)
    })
}

/// The root of the workspace.
fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

fn bench(cli: &Cli) -> Result<ExitCode> {
    let chosen = choose(&cli.only)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root: `cargo xtask bench` takes care of it");
    }
    let netdiag =
        cli.netdiag.canonicalize().with_context(|| format!("no netdiag at {}", cli.netdiag.display()))?;
    context::catch_signals()?;
    context::mount_tracefs()?;
    let pairs = cli.pairs.map_or(if cli.quick { 3 } else { 9 }, usize::from);
    let context = Context::new(netdiag, pairs, cli.quick)?;
    let machine = Machine::read(root(), command_line());
    if cli.format == Format::Json {
        print(&json!({ "kind": "machine", "machine": machine }))?;
    }
    let (rows, complete) = measure(&context, &chosen, cli.format)?;
    if cli.format == Format::Text {
        let mut out = std::io::stdout();
        out.write_all(report::table(&rows).as_bytes())?;
    }
    if cli.write {
        let path = root().join("docs/benchmarks.md");
        std::fs::write(&path, report::page::page(&machine, &chosen, &rows))
            .with_context(|| format!("writing {}", path.display()))?;
        tell(format_args!("wrote docs/benchmarks.md"));
    }
    Ok(ExitCode::from(if complete { 0 } else { 2 }))
}

/// Runs the benchmarks; one that fails is a row, and the others go on. False: something failed.
fn measure(context: &Context, chosen: &[&Benchmark], format: Format) -> Result<(Vec<Row>, bool)> {
    let expected: f64 = chosen.iter().map(|benchmark| (benchmark.seconds)(context)).sum();
    tell(format_args!("about {}", duration(expected)));
    let start = Instant::now();
    let mut left = expected;
    let mut rows = Vec::new();
    let mut complete = true;
    for (number, benchmark) in chosen.iter().enumerate() {
        tell(format_args!(
            "{} ({} of {}, about {} left)",
            benchmark.name,
            number + 1,
            chosen.len(),
            duration(left)
        ));
        let own = match (benchmark.run)(context) {
            Ok(own) => own,
            Err(error) => {
                go_on()?;
                complete = false;
                tell(format_args!("{}: {error:#}", benchmark.name));
                vec![Row::skipped(benchmark.name, benchmark.title, format!("failed: {error:#}"))]
            }
        };
        if format == Format::Json {
            for row in &own {
                print(&json!({ "kind": "result", "result": row }))?;
            }
        }
        rows.extend(own);
        left -= (benchmark.seconds)(context);
    }
    tell(format_args!("done in {}", duration(start.elapsed().as_secs_f64())));
    Ok((rows, complete))
}

fn print(value: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout();
    Ok(writeln!(out, "{value}")?)
}

fn choose(only: &[String]) -> Result<Vec<&'static Benchmark>> {
    if let Some(unknown) = only.iter().find(|name| BENCHMARKS.iter().all(|b| b.name != name.as_str())) {
        let names: Vec<&str> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
        bail!("there is no benchmark `{unknown}`; there are {}", names.join(", "));
    }
    let wanted = |benchmark: &&Benchmark| {
        if only.is_empty() { !benchmark.by_name } else { only.iter().any(|name| name == benchmark.name) }
    };
    Ok(BENCHMARKS.iter().filter(wanted).collect())
}

/// As one would type it, without the path of this program and of netdiag.
fn command_line() -> String {
    let mut words: Vec<String> = vec!["cargo xtask bench".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--netdiag" {
            arguments.next();
            continue;
        }
        words.push(argument);
    }
    words.join(" ")
}

/// "3 min 20 s"
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        assert!(BENCHMARKS.iter().all(|benchmark| help.contains(benchmark.name)), "{help}");
    }

    #[test]
    fn benchmarks_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), BENCHMARKS.iter().filter(|one| !one.by_name).count());
        assert_eq!(choose(&["idle".into(), "churn".into()]).unwrap()[0].name, "churn");
        assert!(choose(&["nothing".into()]).is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(200.0), "3 min 20 s");
    }
}
