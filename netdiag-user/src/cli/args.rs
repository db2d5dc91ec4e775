//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use netdiag::kernel::loader::Options;
use netdiag::kernel::registry::Family;
use netdiag::when::parse_duration;

/// Why did this connection fail?
///
/// netdiag watches the Linux kernel with eBPF and explains connections that are refused, time out, have no
/// route or are reset: what happened, where, how sure that is, and what to do next. Connections that work
/// cost next to nothing and produce nothing.
#[derive(Debug, Parser)]
#[command(name = "netdiag", version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  netdiag run -- curl http://10.1.2.3:8080/     why does this command's connection fail?
  netdiag watch                                 every failing connection of this machine
  netdiag watch port 5432 and not src 10.0.0.9  some of them
  netdiag agent                                 the same for months, with a memory and metrics
  netdiag history --since 3h                    what failed at 3 a.m.
  netdiag drops                                 packets that this machine throws away, and which rule does
  netdiag timewait                              who makes all those TIME_WAIT sockets, and is it a problem?
  netdiag sockets --listening                   who listens, and how full each accept queue is
  netdiag port 443                              who holds a port, in every network namespace
  netdiag explain timeout.firewall-drop         what a diagnosis means, and how to check it by hand
  netdiag doctor                                what this kernel lets netdiag see

Exit status: `run` ends with the command's own. Every other command: 0 done, 1 problems found (doctor),
2 could not do what was asked.";

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Text for people, or one JSON object a line
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub format: Format,
    /// Write results to this file
    #[arg(long, short, global = true, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also explain each problem in plain words
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Attach by this kind of hook wherever netdiag has a choice
    ///
    /// `netdiag doctor` shows what was taken. Without this option the cheapest that the kernel allows is: functions
    /// by fentry and fexit, else tracepoints, else kprobes. For comparing them, and for kernels on which one of them
    /// makes trouble. `tracepoint` uses no kernel function at all: who sent an ICMP error is then known only from
    /// when tc watches.
    #[arg(long, global = true, value_enum, value_name = "KIND")]
    pub attach: Option<AttachBy>,
    /// Read nothing of the kernel's memory on demand
    ///
    /// netdiag reads it to confirm which rule of nftables dropped a packet. Without, the rule is found by comparing the
    /// packet with the ruleset, which is never certain.
    #[arg(long, global = true)]
    pub no_peek: bool,
    /// No colours (NO_COLOR does the same)
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttachBy {
    Tracepoint,
    Fentry,
    Kprobe,
}

impl Global {
    /// What the user wants probes to be attached by.
    pub fn attach(&self) -> Option<Family> {
        self.attach.map(|by| match by {
            AttachBy::Tracepoint => Family::Tracepoint,
            AttachBy::Fentry => Family::Fentry,
            AttachBy::Kprobe => Family::Kprobe,
        })
    }

    /// What to load, as far as the options of all commands decide it.
    pub fn options(&self) -> Options {
        Options { attach: self.attach(), no_peek: self.no_peek, ..Options::default() }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command and explain each connection of it, and of all it starts, that fails
    Run(RunArgs),
    /// Explain every failing connection of this machine
    Watch(WatchArgs),
    /// Show the packets that this machine throws away, by cause and rule, also where no process here asked for them
    Drops(DropsArgs),
    /// List sockets of all network namespaces: whose, how full their queues are, and what is wrong with them
    Sockets(SocketsArgs),
    /// Say whose the sockets in TIME_WAIT are, how fast they come, and whether that is a problem
    Timewait(TimewaitArgs),
    /// Say who holds a port: process, address, since when, unit, in every network namespace
    Port(PortArgs),
    /// Watch for months: keep what was diagnosed, and show numbers to Prometheus
    Agent(AgentArgs),
    /// Show what an agent has diagnosed, at 3 a.m. or last week
    History(HistoryArgs),
    /// Say what a diagnosis means, how netdiag knows, how to check it by hand and how to fix it
    Explain(ExplainArgs),
    /// Show what this kernel lets netdiag see, and what to change
    Doctor,
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page (roff)
    Man,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The command keeps its standard input, output and error; the report goes to standard error, or to --output.
Connections are followed through fork, exec, setsid and `ip netns exec`, in whichever network namespace.

Examples:
  netdiag run -- curl -m 5 http://10.1.2.3:8080/
  netdiag run --format json --output report.json -- ./integration-tests
  netdiag run --all -- ssh backup@10.0.0.7 true
  netdiag run --stats -- ./load-test             what netdiag itself cost meanwhile")]
pub struct RunArgs {
    /// Report connections that work, too, when they end
    #[arg(long)]
    pub all: bool,
    /// Show what netdiag itself cost: runs and time of its programs, memory, CPU time
    ///
    /// For that the kernel counts the runs of all BPF programs for as long as netdiag lives, which slows each
    /// run by some nanoseconds. No setting is changed.
    #[arg(long)]
    pub stats: bool,
    /// Let nftables trace packets that are dropped by a rule which the kernel does not name otherwise
    ///
    /// For that netdiag adds a table of its own, netdiag_trace_PID, to nftables in the network namespace of the drop, with
    /// `meta nftrace set 1` for that flow alone, if it is one that was asked for, and the copy of the packet that is sent
    /// again names the rule exactly. The table is gone when netdiag ends, also if it is killed. Nothing is added while the kernel names the rule itself.
    #[arg(long)]
    pub trace_rules: bool,
    /// Append the evidence of each connection that failed to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub save_evidence: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
FILTER is in the words of tcpdump: host, net, port, portrange, src, dst, tcp, udp, ip, ip6, and, or, not,
parentheses; and pid, comm, netns, code. `source` is the side that opened the connection.

Examples:
  netdiag watch
  netdiag watch --duration 30s tcp port 443
  netdiag watch 'comm nginx and not code timeout.gave-up'
  netdiag watch --all dst net 10.0.0.0/8
  netdiag watch --stats --duration 1m             what watching this machine costs")]
pub struct WatchArgs {
    /// Stop after this time: 30s, 5m, 1h30m
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Report connections that work, too, when they end
    #[arg(long)]
    pub all: bool,
    /// Show what netdiag itself cost: runs and time of its programs, memory, CPU time
    ///
    /// For that the kernel counts the runs of all BPF programs for as long as netdiag lives, which slows each
    /// run by some nanoseconds. No setting is changed.
    #[arg(long)]
    pub stats: bool,
    /// Let nftables trace packets that are dropped by a rule which the kernel does not name otherwise
    ///
    /// For that netdiag adds a table of its own, netdiag_trace_PID, to nftables in the network namespace of the drop, with
    /// `meta nftrace set 1` for that flow alone, if it is one that was asked for, and the copy of the packet that is sent
    /// again names the rule exactly. The table is gone when netdiag ends, also if it is killed. Nothing is added while the kernel names the rule itself.
    #[arg(long)]
    pub trace_rules: bool,
    /// Append the evidence of each connection that failed to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub save_evidence: Option<PathBuf>,
    /// Which connections; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
It stays in the foreground, tells of itself on standard error, and ends with SIGINT or SIGTERM; SIGHUP reloads the
configuration. What it diagnoses, `netdiag history` shows; what it counts is at http://127.0.0.1:9817/metrics, and
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

/// What problems are listed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Cause,
    Destination,
    Process,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Failures of the same cause between the same pair are folded to one problem, the most frequent first. Repeats arrive
up to ten seconds late. All times are UTC. FILTER is in the words of `netdiag watch`.

A TIME is a duration before now (3h), a time of day (03:00), a date (2026-11-26), both (\"2026-11-26 03:00\"), or
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
    /// Which connections; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
It counts until Ctrl-C, or for the time of --duration, and then tells: losses first, then what is normal (ordinary
frees, TCP at work). Every drop is counted; packets of one flow are looked at some twenty times a second.
Not seen: packets that end in hardware or in a driver's XDP program, and connections that a full accept queue
turns away (`netdiag watch` tells those).
FILTER is as in `netdiag watch`; `source` and `destination` are those of the packet, and `code` is drop.firewall and
the like.

Examples:
  netdiag drops                                  until Ctrl-C
  netdiag drops --duration 10s --by reason
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
    /// Show what netdiag itself cost: runs and time of its programs, memory, CPU time
    ///
    /// For that the kernel counts the runs of all BPF programs for as long as netdiag lives, which slows each
    /// run by some nanoseconds. No setting is changed.
    #[arg(long)]
    pub stats: bool,
    /// What drops are put together by, besides their cause
    #[arg(long, value_enum, default_value_t = DropsBy::Rule, value_name = "KEY")]
    pub by: DropsBy,
    /// Which packets; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --state and --listening: all but TIME_WAIT, of which `netdiag timewait` speaks. FILTER is
that of `netdiag watch`, without `code`; `pid` and `comm` mean any process that holds the socket.

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
    /// Which sockets; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A socket in TIME_WAIT belongs to no process any more. Owners are exact for connections that are
closed while netdiag watches; the longer it does, up to the minute that TIME_WAIT lasts, the more
are exact. For older ones a process that has open connections to the same destination is named as
likely. FILTER is that of `netdiag watch`, without `code`.

Examples:
  netdiag timewait                               watches for five seconds, then tells
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
    /// How long to watch: 30s, 5m; 0 tells at once. Five seconds, and with --follow no end, if not given
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Which sockets; all, if nothing is given
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupBy {
    Process,
    Destination,
    Netns,
    Container,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
All sockets whose own end has that port: those that listen or are bound, with the number of
connections that came to them, and connections that were made from it. The time is when the process
was started: the kernel does not keep since when a socket exists.

Examples:
  netdiag port 443
  netdiag port 5353 --format json")]
pub struct PortArgs {
    /// A port number
    pub port: u16,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  netdiag explain timeout.no-reply
  netdiag explain --list
  netdiag explain timeout          the diagnoses of one symptom")]
pub struct ExplainArgs {
    /// A code, as in `timeout.firewall-drop`, or a symptom
    #[arg(required_unless_present = "list")]
    pub code: Option<String>,
    /// List all codes
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_of_run_keeps_its_options() {
        let cli = Cli::parse_from(["netdiag", "run", "--", "curl", "-m", "5", "--format"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.command.len(), 4);
    }
}
