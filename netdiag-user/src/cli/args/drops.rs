//! Options of `drops`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use netdiag::when::parse_duration;

use super::{AskArgs, Cost};

#[derive(Debug, Args)]
#[command(after_long_help = "\
It counts until Ctrl-C, or for the time of --duration, and then tells: losses first, then what is normal (ordinary \
frees, TCP at work). Every drop is counted; packets of one flow are looked at some twenty times a second.

Not seen are packets that end in hardware or in a driver's XDP program, and connections that a full accept queue \
turns away (`netdiag watch` tells those).

FILTER is as in `netdiag watch`; `src` and `dst` are those of the packet, and `code` is drop.firewall and the like.

--since-agent shows instead what the agent has counted since it began, at once and without counting itself: by flow \
for the last 2,048 flows, the older ones by cause. Source ports are not told apart, and processes are not looked for.

Examples:
  netdiag drops                                  until Ctrl-C
  netdiag drops --duration 10s --by reason
  netdiag drops --since-agent                    what was dropped while nobody looked
  netdiag drops --follow tcp dst port 443        as they come
  netdiag drops --by flow 'code drop.firewall and not src net 10.0.0.0/8'
  netdiag drops --duration 1m --format json | jq 'select(.kind == \"drop\" and .normal == false)'")]
pub struct DropsArgs {
    /// Stop after this time: 30s, 5m, 1h30m
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Show each group as its first packet is dropped, and every two seconds what came to it
    #[arg(long, short)]
    pub follow: bool,
    /// Show the drops that the agent has counted since it began
    #[arg(long, conflicts_with_all = ["duration", "follow", "stats", "no_agent"])]
    pub since_agent: bool,
    #[command(flatten)]
    pub ask: AskArgs,
    #[command(flatten)]
    pub cost: Cost,
    /// What drops are put together by, besides their cause
    #[arg(long, value_enum, default_value_t = DropsBy::Rule, value_name = "KEY")]
    pub by: DropsBy,
    /// Which packets; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DropsBy {
    /// The firewall's rule; without one, the place in the kernel
    Rule,
    /// The kernel's reason
    Reason,
    /// Protocol, addresses and destination port
    Flow,
    /// The process that sent them or would have got them
    Process,
    /// The interface they were at
    Interface,
}
