//! Whose sockets: `netdiag port`, `netdiag sockets` and `netdiag timewait` against the truth, count by count, and
//! against the count of ss(8).

mod container;
pub mod open;
mod port;
mod time_wait;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::container::By;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::binary;
use netdiag_tests::process::run;
use netdiag_tests::scenario::{Need, Scenario};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(10);
const PYTHON: &[Need] = &[Need::Python];
const CRUN: &[Need] = &[Need::Tool("crun"), Need::Tool("unshare"), Need::Tool("ss")];
const UNSHARE: &[Need] = &[Need::Tool("unshare"), Need::Tool("ss")];
const SS: &[Need] = &[Need::Tool("ss")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::healthy("port_of_two_namespaces", port::of_two_namespaces),
    Scenario::healthy("port_of_nobody", port::of_nobody),
    Scenario::healthy("port_bound_elsewhere", port::bound_elsewhere).needs(PYTHON),
    Scenario::healthy("port_shared_by_workers", port::shared_by_workers).needs(PYTHON),
    Scenario::healthy("sockets_accept_queue", open::accept_queue).needs(SS),
    Scenario::healthy("sockets_accepting_process", open::accepting_process).needs(PYTHON),
    Scenario::healthy("sockets_syn_flood", || open::syn_flood(Family::V4)).needs(PYTHON),
    Scenario::healthy("sockets_syn_flood_v6", || open::syn_flood(Family::V6)).needs(PYTHON),
    Scenario::healthy("sockets_syn_flood_cookies_for_all", open::syn_flood_cookies_for_all).needs(PYTHON),
    Scenario::healthy("sockets_crowd_is_no_flood", || open::crowd_is_no_flood("1")),
    Scenario::healthy("sockets_crowd_with_cookies", || open::crowd_is_no_flood("2")),
    Scenario::healthy("sockets_receive_queue_not_read", open::receive_queue_not_read),
    Scenario::healthy("sockets_send_queue_stuck", open::send_queue_stuck),
    Scenario::healthy("sockets_close_wait_counted", open::close_wait_counted).needs(SS),
    Scenario::healthy("sockets_nothing_to_remark", open::nothing_to_remark),
    Scenario::healthy("container_holds", || container::holds(By::Unshare)).needs(UNSHARE),
    Scenario::healthy("container_holds_crun", || container::holds(By::Crun)).needs(CRUN),
    Scenario::healthy("container_time_wait", || container::time_wait(By::Unshare)).needs(UNSHARE),
    Scenario::healthy("container_time_wait_crun", || container::time_wait(By::Crun)).needs(CRUN),
    Scenario::healthy("container_on_a_card", || container::on_a_card(By::Unshare)).needs(UNSHARE),
    Scenario::healthy("container_on_a_card_crun", || container::on_a_card(By::Crun)).needs(CRUN),
    Scenario::healthy("timewait_two_processes", time_wait::two_processes).needs(SS),
    Scenario::healthy("timewait_server_closes_first", time_wait::server_closes_first).needs(SS),
    Scenario::healthy("timewait_fork_after_accept", time_wait::fork_after_accept).needs(PYTHON),
    Scenario::healthy("timewait_fd_passed_on", time_wait::fd_passed_on).needs(PYTHON),
    Scenario::healthy("timewait_ipv4_on_ipv6_socket", time_wait::ipv4_on_ipv6_socket),
    Scenario::healthy("timewait_exit_without_close", time_wait::exit_without_close),
    Scenario::healthy("timewait_killed_processes", time_wait::killed_processes),
    Scenario::healthy("timewait_closed_before", time_wait::closed_before),
    Scenario::healthy("timewait_ports_run_out", time_wait::ports_run_out),
    Scenario::healthy("timewait_reset_is_none", time_wait::reset_is_none),
    Scenario::healthy("timewait_fifty_thousand", time_wait::fifty_thousand)
        .needs(SS)
        .limit(Duration::from_secs(120))
        .alone(),
];

/// The objects that netdiag prints with these arguments.
fn netdiag(arguments: &[&str]) -> Result<Vec<Value>> {
    let output = run(command(arguments)?, LIMIT)?;
    output.exits(0)?;
    objects(&output.stdout)
}

fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary().context("no netdiag binary")?);
    command.args(["--format", "json"]).args(arguments).env("NO_COLOR", "1");
    Ok(command)
}

fn objects(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// How many TCP sockets ss(8) shows with these arguments.
fn ss(namespace: &Namespace, arguments: &str) -> Result<u64> {
    let words: Vec<&str> = ["ss", "-Htan"].into_iter().chain(arguments.split_whitespace()).collect();
    let output = namespace.run(&words)?;
    output.exits(0)?;
    Ok(output.stdout.lines().count() as u64)
}

fn pid(object: &Value) -> Option<u32> {
    u32::try_from(object["process"]["pid"].as_u64()?).ok()
}

/// The only object for which the test holds.
pub fn only<'a>(objects: &'a [Value], what: &str, test: impl Fn(&Value) -> bool) -> Result<&'a Value> {
    let found: Vec<&Value> = objects.iter().filter(|object| test(object)).collect();
    ensure!(found.len() == 1, "{} objects are {what}, of {objects:#?}", found.len());
    Ok(found[0])
}

pub fn remarks(object: &Value) -> Vec<&str> {
    let remarks = object["remarks"].as_array();
    remarks.into_iter().flatten().filter_map(|remark| remark["remark"].as_str()).collect()
}
