//! Options of the commands that ask an agent.

use clap::Args;

#[derive(Debug, Clone, Copy, Args)]
pub struct AskArgs {
    /// Do not ask the agent that runs on this machine: work alone
    #[arg(long)]
    pub no_agent: bool,
}
