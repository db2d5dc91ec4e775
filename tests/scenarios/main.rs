//! The fault scenarios: one module a symptom, one table of scenarios each.

mod agent;
mod cli;
mod drops;
mod flood;
mod harness;
mod healthy;
mod leak;
mod local;
mod mapped;
mod refused;
mod reset;
mod samples;
mod skips;
mod timeout;
mod translated;
mod unreachable;
mod whose;

fn main() -> std::process::ExitCode {
    let scenarios = [
        harness::SCENARIOS,
        refused::SCENARIOS,
        timeout::SCENARIOS,
        unreachable::SCENARIOS,
        translated::SCENARIOS,
        mapped::SCENARIOS,
        reset::SCENARIOS,
        local::SCENARIOS,
        drops::SCENARIOS,
        leak::SCENARIOS,
        flood::SCENARIOS,
        healthy::SCENARIOS,
        cli::SCENARIOS,
        agent::SCENARIOS,
        whose::SCENARIOS,
    ];
    netdiag_tests::scenario::main(&scenarios, skips::EXPECTED, samples::SAMPLES)
}
