//! The command line.

mod agent;
mod ask;
mod drops;
mod whose;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use netdiag::kernel::loader::Options;
use netdiag::kernel::registry::Family;
use netdiag::when::parse_duration;

pub use agent::{AgentArgs, By, DoctorArgs, HistoryArgs};
pub use ask::AskArgs;
pub use drops::{DropsArgs, DropsBy};
pub use whose::{GroupBy, PortArgs, SocketsArgs, TimewaitArgs};

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
  netdiag run -- curl http://10.1.2.3/   why does its connection fail?
  netdiag watch                          every connection here that fails
  netdiag watch port 5432                some of them
  netdiag agent                          the same for months, with metrics
  netdiag history --since 3h             what failed at 3 a.m.
  netdiag drops                          what is thrown away, and by which rule
  netdiag timewait                       whose all those TIME_WAIT sockets are
  netdiag sockets --listening            who listens, how full the queues are
  netdiag port 443                       who holds a port, in every namespace
  netdiag explain timeout.firewall-drop  what it means, how to check by hand
  netdiag doctor                         what this kernel lets netdiag see

Exit status: `run` ends with the command's own. Every other command: 0 done, 1 problems found (doctor), 2 could not do \
what was asked.";

/// What sets the options of all commands apart from a command's own.
const EVERYWHERE: &str = "Options of every command";

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Text for people, or one JSON object a line
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub format: Format,
    /// Write results to this file
    #[arg(long, short, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also explain each problem in plain words
    #[arg(long, short, global = true, help_heading = EVERYWHERE)]
    pub verbose: bool,
    /// Attach by this kind of hook wherever netdiag has a choice
    ///
    /// `netdiag doctor` shows what was taken. Without this option the cheapest that the kernel allows is: functions
    /// by fentry and fexit, else tracepoints, else kprobes. It is for comparing them, and for kernels on which one of
    /// them makes trouble. `tracepoint` uses no kernel function at all: who sent an ICMP error is then known only from
    /// when tc watches.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, value_name = "KIND")]
    pub attach: Option<AttachBy>,
    /// Read nothing of the kernel's memory on demand
    ///
    /// netdiag reads it to confirm which rule of nftables dropped a packet. With this option the rule is found by
    /// comparing the packet with the ruleset, which is never certain.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub no_peek: bool,
    /// No colours (NO_COLOR does the same)
    #[arg(long, global = true, help_heading = EVERYWHERE)]
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
    /// Show what this kernel lets netdiag see, whether an agent could run here, and what to change
    Doctor(DoctorArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page (roff)
    #[command(after_long_help = "\
Examples:
  netdiag man | man -l -
  netdiag man > /usr/local/share/man/man1/netdiag.1")]
    Man,
}

// What clap would take for the help of the commands that have them must not be a documentation comment.
#[derive(Debug, Clone, Copy, Args)]
pub struct Cost {
    /// Show what netdiag itself cost: runs and time of its programs, memory, CPU time
    ///
    /// For that the kernel counts the runs of all BPF programs for as long as netdiag lives, which slows each
    /// run by some nanoseconds. No setting is changed.
    #[arg(long)]
    pub stats: bool,
}

// What `run` and `watch` have in common.
#[derive(Debug, Clone, Args)]
pub struct Reporting {
    /// Report connections that work, too, when they end
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub cost: Cost,
    /// Let nftables trace packets that are dropped by a rule which the kernel does not name otherwise
    ///
    /// For that netdiag adds a table of its own, netdiag_trace_PID, to nftables in the network namespace of the drop,
    /// with `meta nftrace set 1` for that flow alone, if it is one that was asked for, and the copy of the packet that
    /// is sent again names the rule exactly. The table is gone when netdiag ends, also if it is killed. Nothing is
    /// added while the kernel names the rule itself.
    #[arg(long)]
    pub trace_rules: bool,
    /// Append the evidence of each connection that failed to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub save_evidence: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The command keeps its standard input, output and error; the report goes to standard error, or to --output. \
Connections are followed through fork, exec, setsid and `ip netns exec`, in whichever network namespace.

Examples:
  netdiag run -- curl -m 5 http://10.1.2.3:8080/
  netdiag run --format json --output report.json -- ./integration-tests
  netdiag run --all -- ssh backup@10.0.0.7 true
  netdiag run --stats -- ./load-test             what netdiag itself cost meanwhile")]
pub struct RunArgs {
    #[command(flatten)]
    pub reporting: Reporting,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
FILTER is in the words of tcpdump: host, net, port, portrange, src, dst, tcp, udp, icmp, icmp6, ip, ip6, and, or, \
not, parentheses; and pid, comm, netns, code. `src` is the side that opened the connection.

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
    #[command(flatten)]
    pub reporting: Reporting,
    /// Which connections; all, if nothing is given
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    pub filter: Vec<String>,
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
#[command(after_long_help = "\
Examples:
  netdiag completions bash > /etc/bash_completion.d/netdiag
  netdiag completions zsh > /usr/local/share/zsh/site-functions/_netdiag
  netdiag completions fish > ~/.config/fish/completions/netdiag.fish")]
pub struct CompletionsArgs {
    /// For which shell
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
