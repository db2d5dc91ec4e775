//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use netdiag::kernel::registry::Family;

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
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command and explain each connection of it, and of all it starts, that fails
    Run(RunArgs),
    /// Explain every failing connection of this machine
    Watch(WatchArgs),
    /// List sockets of all network namespaces: whose, how full their queues are, and what is wrong with them
    Sockets(SocketsArgs),
    /// Say whose the sockets in TIME_WAIT are, how fast they come, and whether that is a problem
    Timewait(TimewaitArgs),
    /// Say who holds a port: process, address, since when, unit, in every network namespace
    Port(PortArgs),
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
    /// Append the evidence of each connection that failed to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub save_evidence: Option<PathBuf>,
    /// Which connections; all, if nothing is given
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

/// "30s", "5m", "1h30m", "250ms", or a number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("`{text}` is no duration: write 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| problem());
    }
    let span: jiff::Span = text.parse().map_err(|_| problem())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| problem())?;
    Duration::try_from(duration).map_err(|_| problem())
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
    fn durations() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("-5s").is_err());
    }

    #[test]
    fn the_command_of_run_keeps_its_options() {
        let cli = Cli::parse_from(["netdiag", "run", "--", "curl", "-m", "5", "--format"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.command.len(), 4);
    }
}
