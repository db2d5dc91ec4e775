//! The agent of this machine, asked by other commands.

use netdiag::agent::ask::{Agent, NotAsked};
use netdiag::agent::config::Config;

use super::args::AskArgs;
use super::say;

/// The agent that runs, as its configuration (the usual file and the environment) says where; `None`: the command is on
/// its own. Why one that seems to be there is not asked is said in a line.
pub fn agent(args: AskArgs) -> Option<Agent> {
    find(args).unwrap_or_else(|error| {
        not_asked(&error);
        None
    })
}

/// The same, without a word.
pub fn find(args: AskArgs) -> Result<Option<Agent>, NotAsked> {
    if args.no_agent {
        return Ok(None);
    }
    match Config::load(None)?.query_path().map(|path| Agent::find(&path)) {
        None | Some(Err(NotAsked::NoAgent)) => Ok(None),
        Some(found) => found.map(Some),
    }
}

/// Says that a command works alone.
pub fn not_asked(error: &NotAsked) {
    say(format_args!("{error}; working alone"));
}
