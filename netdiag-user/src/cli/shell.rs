//! `netdiag completions` and `netdiag man`.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs, Global};
use super::sink;

pub fn completions(args: CompletionsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "netdiag", &mut out);
    sink::open(global, sink::Stream::Stdout)?.write_all(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// One page with a section for each subcommand.
pub fn man(global: &Global) -> anyhow::Result<ExitCode> {
    let mut out = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        // What every command has is told once, above.
        let subcommand = subcommand.clone().mut_args(|arg| {
            let everywhere = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(everywhere)
        });
        let name = format!("netdiag {}", subcommand.get_name());
        let page = clap_mangen::Man::new(subcommand.bin_name(&name).display_name(&name));
        writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
        page.render_synopsis_section(&mut out)?;
        page.render_description_section(&mut out)?;
        page.render_options_section(&mut out)?;
        page.render_extra_section(&mut out)?;
    }
    sink::open(global, sink::Stream::Stdout)?.write_all(&out)?;
    Ok(ExitCode::SUCCESS)
}
