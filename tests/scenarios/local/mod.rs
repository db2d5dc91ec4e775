//! Scenarios of the symptom `local`: a system call fails, and no packet is ever made.

pub mod cgroup;
mod in_use;
mod not_local;
mod not_permitted;
mod ports;

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::scenario::{Need, Scenario};

const EXHAUSTED: &str = "local.ports-exhausted";
const IN_USE: &str = "local.address-in-use";
const NOT_LOCAL: &str = "local.address-not-local";
const NOT_PERMITTED: &str = "local.not-permitted";

const PYTHON: &[Need] = &[Need::Python];
const NFT_PYTHON: &[Need] = &[Need::Nftables, Need::Python];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(EXHAUSTED, "v4", || ports::held(Family::V4)),
    Scenario::hit(EXHAUSTED, "v6", || ports::held(Family::V6)),
    Scenario::hit(EXHAUSTED, "time_wait", ports::in_time_wait),
    Scenario::hit(EXHAUSTED, "made_by_itself", ports::made_by_itself),
    Scenario::hit(EXHAUSTED, "listeners_in_the_range", ports::listeners_in_the_range),
    Scenario::hit(EXHAUSTED, "bind_to_port_0", ports::bind_to_port_0).needs(PYTHON),
    Scenario::near_miss(EXHAUSTED, "the_last_port", ports::the_last_port),
    Scenario::near_miss(EXHAUSTED, "other_destination", ports::other_destination),
    Scenario::hit(IN_USE, "v4", || in_use::tcp(Family::V4)),
    Scenario::hit(IN_USE, "v6", || in_use::tcp(Family::V6)),
    Scenario::hit(IN_USE, "udp", in_use::udp),
    Scenario::hit(IN_USE, "dual_stack_blocks_ipv4", in_use::dual_stack_blocks_ipv4).needs(&[Need::Ipv6]),
    Scenario::hit(IN_USE, "time_wait", in_use::server_comes_back),
    Scenario::hit(IN_USE, "same_four_tuple", in_use::same_four_tuple),
    Scenario::hit(IN_USE, "listen", in_use::second_to_listen).needs(PYTHON),
    Scenario::near_miss(IN_USE, "reuseport", in_use::reuseport),
    Scenario::near_miss(IN_USE, "other_address_or_protocol", in_use::other_address_or_protocol),
    Scenario::hit(NOT_LOCAL, "v4", || not_local::nobodys(Family::V4)),
    Scenario::hit(NOT_LOCAL, "v6", || not_local::nobodys(Family::V6)),
    Scenario::hit(NOT_LOCAL, "udp", not_local::of_another_namespace),
    Scenario::near_miss(NOT_LOCAL, "own_addresses", not_local::own_addresses),
    Scenario::near_miss(NOT_LOCAL, "nonlocal_bind", not_local::nonlocal_bind),
    Scenario::hit(NOT_PERMITTED, "privileged_port_v4", || not_permitted::privileged_port(Family::V4)),
    Scenario::hit(NOT_PERMITTED, "privileged_port_v6", || not_permitted::privileged_port(Family::V6)),
    Scenario::hit(NOT_PERMITTED, "udp_firewall_v4", || not_permitted::udp_firewall(Family::V4))
        .needs(NFT_PYTHON),
    Scenario::hit(NOT_PERMITTED, "udp_firewall_v6", || not_permitted::udp_firewall(Family::V6))
        .needs(NFT_PYTHON),
    Scenario::hit(NOT_PERMITTED, "cgroup_program_v4", || {
        not_permitted::cgroup_program(Family::V4, cgroup::INET4_CONNECT)
    }),
    Scenario::hit(NOT_PERMITTED, "cgroup_program_v6", || {
        not_permitted::cgroup_program(Family::V6, cgroup::INET6_CONNECT)
    }),
    Scenario::near_miss(NOT_PERMITTED, "root_may", not_permitted::root_may),
    Scenario::near_miss(NOT_PERMITTED, "unprivileged_port", not_permitted::unprivileged_port),
    Scenario::near_miss(NOT_PERMITTED, "tcp_firewall", not_permitted::tcp_firewall).needs(&[Need::Nftables]),
    Scenario::near_miss(NOT_PERMITTED, "prohibit_route", not_permitted::prohibit_route),
];

fn run(namespace: &Namespace, words: &[String]) -> Result<Report> {
    Run::inside(namespace).command(words)
}

fn run_steps(namespace: &Namespace, steps: &str) -> Result<Report> {
    run(namespace, &clients::steps(steps)?)
}
