//! The `netdiag` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::args::Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; clap prints both to the right stream.
        Err(error) => {
            let failed = error.use_stderr();
            // Nothing sensible is left to do if even that fails.
            let _ = error.print();
            return if failed { ExitCode::from(cli::FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match cli::main(cli) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::say(format_args!("{error:#}"));
            ExitCode::from(cli::FAILED)
        }
    }
}

/// The reader has gone: that is its right.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
