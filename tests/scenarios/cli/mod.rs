//! The command line keeps its promises: it says what is wrong with its input, it is a good host to the
//! command that it runs, and it leaves nothing behind.

mod command;
mod cost;
mod foreign;
mod input;
mod life;
mod output;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::net::Namespace;
use netdiag_tests::netdiag::{binary, options};
use netdiag_tests::process::{Output, run};
use netdiag_tests::scenario::{Need, Scenario};

const LIMIT: Duration = Duration::from_secs(30);
const NO_LISTENER: &str = "refused.no-listener";
const PYTHON: &[Need] = &[Need::Python];
const BPFTOOL: &[Need] = &[Need::Tool("bpftool")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::healthy("cli_names_the_missing_capability", input::names_the_missing_capability)
        .needs(&[Need::Tool("setpriv")]),
    Scenario::healthy("cli_without_btf", input::without_btf),
    Scenario::healthy("cli_locked_down", input::locked_down).only_in("locked-down"),
    Scenario::healthy("cli_refuses_an_old_kernel", input::refuses_an_old_kernel).only_in("too-old"),
    Scenario::healthy("cli_foreign_tc_programs_go_on", foreign::go_on),
    Scenario::healthy("cli_shows_where_a_filter_is_wrong", input::shows_where_a_filter_is_wrong),
    Scenario::healthy("cli_suggests_a_code", input::suggests_a_code),
    Scenario::healthy("cli_refuses_nonsense", input::refuses_nonsense),
    Scenario::healthy("cli_command_cannot_start", input::command_cannot_start),
    Scenario::healthy("cli_output_cannot_be_written", input::output_cannot_be_written),
    Scenario::healthy("cli_closed_pipe", input::closed_pipe),
    Scenario::healthy("cli_passes_the_exit_status_on", command::passes_the_exit_status_on),
    Scenario::healthy("cli_leaves_the_streams_alone", command::leaves_the_streams_alone),
    Scenario::healthy("cli_command_inherits_nothing", command::inherits_nothing),
    Scenario::healthy("cli_signals_reach_the_command", command::signals_reach_the_command),
    Scenario::healthy("cli_follows_fork", command::follows_fork).needs(PYTHON),
    Scenario::healthy("cli_follows_exec", command::follows_exec),
    Scenario::healthy("cli_follows_setsid", command::follows_setsid).needs(&[Need::Tool("setsid")]),
    Scenario::healthy("cli_follows_a_daemon", command::follows_a_daemon).needs(&[Need::Tool("setsid")]),
    Scenario::healthy("cli_follows_ip_netns_exec", command::follows_ip_netns_exec),
    Scenario::healthy("cli_run_tells_of_its_command_only", command::tells_of_its_command_only),
    Scenario::healthy("cli_colour_on_a_terminal_only", output::colour_on_a_terminal_only)
        .needs(&[Need::Tool("script")]),
    Scenario::healthy("cli_text_tells_the_same", output::text_tells_the_same),
    Scenario::healthy("cli_filter_leaves_others_out", output::filter_leaves_others_out),
    Scenario::healthy("cli_all_tells_of_healthy_connections", output::all_tells_of_healthy_connections),
    Scenario::healthy("cli_evidence_is_saved", output::evidence_is_saved),
    Scenario::healthy("cli_repeats_are_counted", output::repeats_are_counted),
    Scenario::healthy("cli_stats_are_shown", cost::stats_are_shown),
    Scenario::healthy("cli_what_is_not_counted_is_null", cost::what_is_not_counted_is_null),
    Scenario::healthy("cli_stats_as_text", cost::stats_as_text),
    Scenario::healthy("cli_two_at_once", life::two_at_once),
    Scenario::healthy("cli_ctrl_c_leaves_nothing", life::ctrl_c_leaves_nothing).needs(BPFTOOL),
    Scenario::healthy("cli_sigterm_leaves_nothing", life::sigterm_leaves_nothing).needs(BPFTOOL),
    Scenario::healthy("cli_kill_leaves_nothing", life::kill_leaves_nothing).needs(BPFTOOL),
    Scenario::healthy("cli_killed_run_leaves_nothing", life::killed_run_leaves_nothing).needs(BPFTOOL),
    Scenario::healthy("cli_watch_ends_by_itself", life::watch_ends_by_itself),
    Scenario::healthy("cli_namespaces_are_let_go", life::namespaces_are_let_go),
];

/// netdiag on the host with these arguments.
fn netdiag(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary().context("no netdiag binary")?);
    command.args(options()).args(arguments).env("NO_COLOR", "1");
    Ok(command)
}

/// [`netdiag`], inside.
fn netdiag_inside(namespace: &Namespace, arguments: &[&str]) -> Result<Command> {
    let mut command = namespace.command(&binary().context("no netdiag binary")?.to_string_lossy());
    command.args(options()).args(arguments).env("NO_COLOR", "1");
    Ok(command)
}

fn run_netdiag(arguments: &[&str]) -> Result<Output> {
    run(netdiag(arguments)?, LIMIT)
}

/// One line on standard error, begun with the program's name, and nothing on standard output.
fn one_line(output: &Output) -> Result<()> {
    let single = output.stderr.lines().count() == 1 && output.stderr.starts_with("netdiag: ");
    ensure!(single && output.stdout.is_empty(), "expected one line on standard error from {output}");
    Ok(())
}
