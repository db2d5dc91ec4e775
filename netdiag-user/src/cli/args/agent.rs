//! Options of `agent` and `history`, and of `doctor`, which looks at the agent.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::AskArgs;

#[derive(Debug, Args)]
#[command(after_long_help = "\
It stays in the foreground, tells of itself on standard error, and ends with SIGINT or SIGTERM; SIGHUP reloads the \
configuration. What it diagnoses, `netdiag history` shows; what it counts is at http://127.0.0.1:9817/metrics, and \
/healthz and /readyz there say whether it does its work.

Examples:
  netdiag agent --print-config > /etc/netdiag/agent.toml
  netdiag agent --check
  netdiag agent
  NETDIAG_HISTORY_DIR=/tmp/netdiag NETDIAG_RUN_DIR=/tmp/netdiag netdiag agent")]
pub struct AgentArgs {
    /// The configuration; without it /etc/netdiag/agent.toml, or the defaults if that is not there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say what is wrong with the configuration, and do nothing
    #[arg(long)]
    pub check: bool,
    /// Write the default configuration, with what each key means
    #[arg(long, conflicts_with = "check")]
    pub print_config: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is changed: programs and tc are attached and taken away again, and directories are looked at. What is said of \
the agent holds for one that this user starts.

Examples:
  netdiag doctor
  netdiag doctor --verbose                       also where the programs read each field of the kernel
  netdiag doctor --config ./agent.toml           would an agent with this configuration run?")]
pub struct DoctorArgs {
    /// The agent's configuration; without it /etc/netdiag/agent.toml, or the defaults if that is not there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What problems are listed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Cause,
    Destination,
    Process,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Failures of the same cause between the same pair are folded to one problem, the most frequent first. Repeats arrive \
up to ten seconds late. All times are UTC. FILTER is in the words of `netdiag watch`. Whoever may not read the store \
asks the agent, which answers root and the group of its query_group.

A TIME is a duration before now (3h), a time of day (03:00), a date (2026-11-26), both (\"2026-11-26 03:00\"), or \
RFC 3339.

Examples:
  netdiag history --since 3h
  netdiag history --since 02:30 --until 03:30 --code 'timeout.*'
  netdiag history --by destination --since 7d port 5432
  netdiag history --details comm payments        the card of each")]
pub struct HistoryArgs {
    /// From when on
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub since: String,
    /// Until when; now, if nothing is given
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Diagnoses with this code: timeout.firewall-drop, 'timeout.*'
    #[arg(long, value_name = "PATTERN")]
    pub code: Option<String>,
    /// What to list problems under
    #[arg(long, value_enum, default_value_t = By::Cause, value_name = "WHAT")]
    pub by: By,
    /// Show each stored diagnosis instead of problems
    #[arg(long, conflicts_with = "by")]
    pub details: bool,
    /// The store, if not the one that the configuration names
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Which connections; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}
