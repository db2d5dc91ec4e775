//! One file per subcommand; thin.

mod agent;
pub mod args;
mod ask;
mod doctor;
mod drops;
mod events;
mod explain;
mod history;
mod past_drops;
mod port;
mod run;
mod shell;
mod sink;
mod sockets;
mod status;
mod timewait;
mod watch;

use std::process::ExitCode;

use anyhow::anyhow;
use args::{Cli, Command};
use netdiag::engine::Engine;
use netdiag::filter::Filter;

/// What a subcommand could not do; exit status 2.
pub const FAILED: u8 = 2;

pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(args, &cli.global),
        Command::Watch(args) => watch::watch(args, &cli.global),
        Command::Drops(args) => drops::drops(args, &cli.global),
        Command::Sockets(args) => sockets::sockets(args, &cli.global),
        Command::Timewait(args) => timewait::timewait(args, &cli.global),
        Command::Port(args) => port::port(&args, &cli.global),
        Command::Agent(args) => agent::agent(args, &cli.global),
        Command::History(args) => history::history(args, &cli.global),
        Command::Explain(args) => explain::explain(args, &cli.global),
        Command::Doctor(args) => doctor::doctor(&args, &cli.global),
        Command::Completions(args) => shell::completions(args, &cli.global),
        Command::Man => shell::man(&cli.global),
    }
}

/// The words of a FILTER; `None` if there are none. What is wrong with it is said with a pointer to the place.
pub fn filter(words: &[String]) -> anyhow::Result<Option<Filter>> {
    Filter::from_args(words).map_err(|error| anyhow!("{error}\n{}", error.pointer()))
}

/// `--trace-rules`. It does something to the machine, so it says so.
fn trace_rules(engine: &mut Engine) {
    engine.trace_rules();
    say(format_args!(
        "--trace-rules: where the kernel does not name a rule itself, a table netdiag_trace_PID is added to nftables \
         for as long as netdiag runs"
    ));
}

/// A line on standard error for people. That nobody may read it is no error.
pub fn line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The same, said by netdiag.
pub fn say(text: std::fmt::Arguments<'_>) {
    line(&format!("netdiag: {text}"));
}
