//! The agent of this machine, asked by other commands.

use std::path::Path;

use netdiag::agent::ask::{Agent, NotAsked};
use netdiag::agent::config::Config;

use super::args::AskArgs;
use super::say;

/// The agent that runs, as its configuration (the usual file and the environment) says where; `None`: the command is on
/// its own. Why one that seems to be there is not asked is said in a line.
pub fn agent(args: AskArgs) -> Option<Agent> {
    if args.no_agent {
        return None;
    }
    match Config::load(None) {
        Ok(config) => agent_of(&config),
        Err(error) => {
            say(format_args!("no agent is asked: {error}"));
            None
        }
    }
}

/// The same with this configuration.
pub fn agent_of(config: &Config) -> Option<Agent> {
    find(&config.query_path()?)
}

fn find(path: &Path) -> Option<Agent> {
    match Agent::find(path) {
        Ok(agent) => Some(agent),
        Err(NotAsked::NoAgent) => None,
        Err(error) => {
            not_asked(&error);
            None
        }
    }
}

/// Says that a command works alone.
pub fn not_asked(error: &NotAsked) {
    say(format_args!("{error}; working alone"));
}
