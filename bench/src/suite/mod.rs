//! The benchmarks, as data.

mod churn;
mod cycles;
mod drops;
mod idle;
mod memory;
mod packets;
mod pairs;
mod programs;
mod recording;
mod replay;
mod ruleset;
mod soak;
mod start;

use anyhow::Result;
use netdiag_tests::net::Namespace;

use crate::context::Context;
use crate::peers;
use crate::report::Row;

/// One benchmark.
pub struct Benchmark {
    /// For `--only`.
    pub name: &'static str,
    pub title: &'static str,
    /// What the figures mean, for somebody who has not read the code.
    pub means: &'static str,
    /// It runs only if it is named.
    pub by_name: bool,
    /// About how long it takes.
    pub seconds: fn(&Context) -> f64,
    pub run: fn(&Context) -> Result<Vec<Row>>,
}

impl std::fmt::Debug for Benchmark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Benchmark({})", self.name)
    }
}

/// All, in the order in which they run.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "churn",
        title: "Connections that work",
        means: "One core opens connections on loopback, sends a byte each way and closes them, while \
                `netdiag watch` watches the whole machine. The ratio is of connections per second with and \
                without it: 1 means that it costs nothing, 0.97 that 3 % fewer connections fit on the core.",
        by_name: false,
        seconds: churn::seconds,
        run: churn::run,
    },
    Benchmark {
        name: "programs",
        title: "In the kernel, for each connection that works",
        means: "The same connections, and the time that the kernel counted for netdiag's programs: both ends \
                are on this machine, so a connection is about ten state changes and everything that its \
                system calls and packets set off.",
        by_name: false,
        seconds: programs::seconds,
        run: programs::run,
    },
    Benchmark {
        name: "packets",
        title: "Packets",
        means: "One TCP connection over a veth pair, as fast as it goes. As long as nothing is suspect, netdiag \
                has no tc program attached. Armed (here by a filter), each packet passes one.",
        by_name: false,
        seconds: packets::seconds,
        run: packets::run,
    },
    Benchmark {
        name: "drops",
        title: "A flood of drops",
        means: "One core sends SYNs to a closed port, from 4,096 ports, and datagrams that a firewall rule drops, \
                as fast as it can; each SYN's RST is dropped, too. Meanwhile another process of the machine \
                connects to closed ports of its own, and netdiag must still explain these connections.",
        by_name: false,
        seconds: drops::seconds,
        run: drops::run,
    },
    Benchmark {
        name: "ruleset",
        title: "A ruleset of 1,000 rules",
        means: "The cable of above, and behind it a chain of 1,000 rules that each packet passes. netdiag has nothing \
                attached there: it looks at a rule once a packet was dropped. Then a connection meets the last of \
                them, which must be named; what that costs is CPU time of netdiag and of the `nft` \
                that it reads the ruleset with.",
        by_name: false,
        seconds: ruleset::seconds,
        run: ruleset::run,
    },
    Benchmark {
        name: "replay",
        title: "Records in user space",
        means: "Records of connections that fail in five ways are kept as bytes and replayed through the decoder \
                and the tracker, on one core, without the kernel. A second is one of this program's CPU time: what else \
                the machine does is not counted.",
        by_name: false,
        seconds: replay::seconds,
        run: replay::run,
    },
    Benchmark {
        name: "memory",
        title: "Memory",
        means: "100,000 connections on loopback are opened while `netdiag watch` runs, and held. Both ends are on \
                this machine: that is 200,000 sockets.",
        by_name: false,
        seconds: memory::seconds,
        run: memory::run,
    },
    Benchmark {
        name: "start",
        title: "Start",
        means: "From the start of the process until it says that it watches: all programs are attached then.",
        by_name: false,
        seconds: start::seconds,
        run: start::run,
    },
    Benchmark {
        name: "idle",
        title: "At rest",
        means: "CPU time of `netdiag watch` while the benchmark does nothing.",
        by_name: false,
        seconds: idle::seconds,
        run: idle::run,
    },
    Benchmark {
        name: "peers",
        title: "Beside other tools",
        means: "The churn of above, with the tools that people use for such questions instead of netdiag. They print \
                every event, which is another purpose: the figures show what that costs where many connections are \
                made. Events are counted in what they wrote; CPU time is that of their process in user space.",
        by_name: false,
        seconds: peers::seconds,
        run: peers::run,
    },
    Benchmark {
        name: "cycles",
        title: "Namespaces that come and go",
        means: "1,000 network namespaces, each with a pair of interfaces, are made and removed while `netdiag agent` runs. In \
                each a connection fails, and in every twentieth another is suspect, so that tc comes for it.",
        by_name: true,
        seconds: cycles::seconds,
        run: cycles::run,
    },
    Benchmark {
        name: "soak",
        title: "An agent for ten minutes",
        means: "One core makes connections as fast as it can. Beside it connections fail, nearly 200 a second and in five \
                ways, and the agent must find each of them under its code, and nothing else.",
        by_name: true,
        seconds: soak::seconds,
        run: soak::run,
    },
];

pub use churn::churn_once;
pub use pairs::pairs;

/// A namespace without a connection, not even one in TIME_WAIT.
///
/// # Errors
/// When it cannot be made.
pub fn fresh_namespace() -> Result<Namespace> {
    Namespace::new("bench")
}

/// A firewall that drops what arrives and matches.
fn drop_at_input(namespace: &Namespace, matching: &str) -> Result<()> {
    namespace.nft(&format!(
        "table inet bench {{\nchain input {{\ntype filter hook input priority 0; policy accept;\n\
         {matching} drop\n}}\n}}\n"
    ))
}
