//! Options of `sockets`, `timewait` and `port`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use netdiag::when::parse_duration;

use super::AskArgs;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --state and --listening: all but TIME_WAIT, of which `netdiag timewait` speaks. FILTER is that of `netdiag \
watch`, without `code`; `pid` and `comm` mean any process that holds the socket.

Examples:
  netdiag sockets port 443
  netdiag sockets --listening                    accept queues against their backlog
  netdiag sockets --state close-wait             who does not close what the peer has closed
  netdiag sockets --state established,syn-sent 'comm nginx'
  netdiag sockets --format json | jq 'select(.kind == \"socket\" and .remarks != [])'")]
pub struct SocketsArgs {
    /// Only sockets in these states: established, syn-sent, syn-recv, fin-wait1, fin-wait2, time-wait, close,
    /// close-wait, last-ack, listen, closing, all
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<String>,
    /// Only those that wait for connections or datagrams of any sender
    #[arg(long, short, conflicts_with = "state")]
    pub listening: bool,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Which sockets; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A socket in TIME_WAIT belongs to no process any more. Owners are exact for connections that are closed while netdiag \
watches; the longer it does, up to the minute that TIME_WAIT lasts, the more are exact. For older ones a process that \
has open connections to the same destination is named as likely. An agent that runs has watched all the time: it is \
asked, and the answer comes at once.

FILTER is that of `netdiag watch`, without `code`.

Examples:
  netdiag timewait                               asks the agent, or watches for five seconds
  netdiag timewait --duration 1m                 all owners are exact
  netdiag timewait --follow dst port 5432        anew every two seconds, until Ctrl-C
  netdiag timewait --by destination
  netdiag timewait --by netns --format json")]
pub struct TimewaitArgs {
    /// What each row of the table is about
    #[arg(long, value_enum, default_value_t = GroupBy::Process, value_name = "WHAT")]
    pub by: GroupBy,
    /// Tell anew every two seconds
    #[arg(long)]
    pub follow: bool,
    /// How long to watch: 30s, 5m; 0 tells at once. Without it: five seconds, no time at all where an agent is
    /// asked, and with --follow until Ctrl-C
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Which sockets; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupBy {
    Process,
    Destination,
    Netns,
    Container,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
All sockets whose own end has that port: those that listen or are bound, with the number of connections that came to \
them, and connections that were made from it. The time is when the process was started: the kernel does not keep \
since when a socket exists. An agent that runs is asked who held it before.

Examples:
  netdiag port 443
  netdiag port 5353 --format json")]
pub struct PortArgs {
    /// A port number
    pub port: u16,
    #[command(flatten)]
    pub ask: AskArgs,
}
