//! The probes, as data: program, hook with its alternatives, and what is lost without it.

/// One way to attach a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// A BTF-enabled raw tracepoint, by the tracepoint's name.
    BtfTracepoint(&'static str),
    /// A classic tracepoint: category and name.
    Tracepoint(&'static str, &'static str),
    /// The end of a kernel function, by BPF trampoline.
    Fexit(&'static str),
    /// The beginning of a kernel function, by BPF trampoline.
    Fentry(&'static str),
    /// The beginning of a kernel function, by breakpoint.
    Kprobe(&'static str),
    /// The end of a kernel function, by breakpoint.
    Kretprobe(&'static str),
    /// A tc program: loaded at start, attached to interfaces by TCX links as they are needed.
    Tcx,
    /// A BTF-enabled raw tracepoint: loaded at start, attached as long as some namespace is watched.
    Device(&'static str),
    /// Loaded only: user space runs it by itself (`BPF_PROG_TEST_RUN`).
    OnDemand,
}

impl Attach {
    /// The kernel function that is hooked, if it is one.
    pub fn function(self) -> Option<&'static str> {
        match self {
            Self::Fentry(name) | Self::Fexit(name) | Self::Kprobe(name) | Self::Kretprobe(name) => Some(name),
            Self::BtfTracepoint(_) | Self::Tracepoint(..) | Self::Tcx | Self::Device(_) | Self::OnDemand => {
                None
            }
        }
    }

    /// What `--attach` calls it; `None` for what it does not choose.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::BtfTracepoint(_) | Self::Tracepoint(..) | Self::Device(_) => Some(Family::Tracepoint),
            Self::Fentry(_) | Self::Fexit(_) => Some(Family::Fentry),
            Self::Kprobe(_) | Self::Kretprobe(_) => Some(Family::Kprobe),
            Self::Tcx | Self::OnDemand => None,
        }
    }
}

impl std::fmt::Display for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BtfTracepoint(name) => write!(f, "tp_btf {name}"),
            Self::Tracepoint(category, name) => write!(f, "tracepoint {category}:{name}"),
            Self::Fexit(name) => write!(f, "fexit {name}"),
            Self::Fentry(name) => write!(f, "fentry {name}"),
            Self::Kprobe(name) => write!(f, "kprobe {name}"),
            Self::Kretprobe(name) => write!(f, "kretprobe {name}"),
            Self::Tcx => write!(f, "tcx"),
            Self::Device(name) => write!(f, "tp_btf {name}"),
            Self::OnDemand => write!(f, "on demand"),
        }
    }
}

/// What a user can have preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Tracepoints.
    Tracepoint,
    /// fentry and fexit.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

/// A way to be told: programs of the object, each with its hook. Taken only if all of them can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub programs: &'static [(Attach, &'static str)],
    /// The kernel takes 75 ms to detach each: too long for a command (`run`) that is about to end.
    pub slow_to_detach: bool,
}

impl Way {
    const fn of(programs: &'static [(Attach, &'static str)]) -> Self {
        Self { programs, slow_to_detach: false }
    }

    fn family(&self) -> Option<Family> {
        self.programs.first().and_then(|(how, _)| how.family())
    }
}

/// "fexit __x64_sys_connect, __x64_sys_bind".
impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (how, _)) in self.programs.iter().enumerate() {
            let text = how.to_string();
            let (kind, hook) = text.split_once(' ').unwrap_or(("", &text));
            match index {
                0 => write!(f, "{text}")?,
                _ if kind.is_empty() => {}
                _ => write!(f, ", {hook}")?,
            }
        }
        Ok(())
    }
}

/// When a probe is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Always,
    /// Only where processes are followed (`run`).
    FollowProcesses,
    /// Only where owners of TIME_WAIT are asked for (`timewait`), by a session of its own.
    TimeWait,
}

/// One thing to be told by the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// File stem in netdiag-ebpf/src/probes.
    pub name: &'static str,
    /// What is told: a tracepoint or function of the kernel, or a name for several.
    pub signal: &'static str,
    /// The ways to it, the best first.
    pub ways: &'static [Way],
    pub when: Use,
    pub weight: Weight,
    /// What cannot be told without it.
    pub lost: &'static str,
}

/// How much depends on a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// netdiag cannot work without it.
    Required,
    /// Some diagnoses are lost or less exact.
    Wanted,
    /// What it tells is told without it too, but less surely.
    Extra,
    /// The same, and where the wire is watched from the start it tells nothing new.
    BeforeWire,
}

impl Probe {
    /// Whether it is of use where nothing but drops is told.
    pub fn tells_drops(&self) -> bool {
        matches!(self.name, "drop" | "peek")
    }

    /// The ways that are tried, in order. Where the user wants a family, a probe that has it is attached by nothing
    /// else, and one that is nothing but functions is left out.
    pub fn tried(&self, wanted: Option<Family>, follow_processes: bool) -> Vec<&'static Way> {
        let families = || self.ways.iter().map(Way::family);
        let is_only_functions = families().all(|family| !matches!(family, None | Some(Family::Tracepoint)));
        let chooses = wanted.is_some() && (is_only_functions || families().any(|family| family == wanted));
        let fits =
            |way: &&Way| (!chooses || way.family() == wanted) && !(follow_processes && way.slow_to_detach);
        self.ways.iter().filter(fits).collect()
    }
}

macro_rules! tp_btf {
    ($name:literal, $program:literal, $lost:literal) => {
        tp_btf!($name, $program, $lost, Use::Always, Weight::Wanted)
    };
    ($name:literal, $program:literal, $lost:literal, $when:expr, $weight:expr) => {
        tp_btf!($name, $program, $program, $lost, $when, $weight)
    };
    ($name:literal, $tracepoint:literal, $program:literal, $lost:literal, $when:expr, $weight:expr) => {
        Probe {
            name: $name,
            signal: $program,
            ways: &[Way::of(&[(Attach::BtfTracepoint($tracepoint), $program)])],
            when: $when,
            weight: $weight,
            lost: $lost,
        }
    };
}

macro_rules! function {
    ($name:literal, $function:literal, $weight:expr, $lost:literal) => {
        Probe {
            name: $name,
            signal: $function,
            ways: &[
                Way::of(&[(Attach::Fentry($function), concat!("fentry_", $function))]),
                Way::of(&[(Attach::Kprobe($function), concat!("kprobe_", $function))]),
            ],
            when: Use::Always,
            weight: $weight,
            lost: $lost,
        }
    };
}

/// The end of each socket call, by one kind of hook.
macro_rules! calls {
    ($kind:ident, $prefix:literal) => {
        &[
            (Attach::$kind("__x64_sys_connect"), concat!($prefix, "connect")),
            (Attach::$kind("__x64_sys_bind"), concat!($prefix, "bind")),
            (Attach::$kind("__x64_sys_listen"), concat!($prefix, "listen")),
            (Attach::$kind("__x64_sys_sendto"), concat!($prefix, "sendto")),
            (Attach::$kind("__x64_sys_sendmsg"), concat!($prefix, "sendmsg")),
        ]
    };
}

const SYSCALL_TRACEPOINTS: Way = Way {
    programs: &[
        (Attach::Tracepoint("syscalls", "sys_exit_connect"), "sys_exit_connect"),
        (Attach::Tracepoint("syscalls", "sys_exit_bind"), "sys_exit_bind"),
        (Attach::Tracepoint("syscalls", "sys_exit_listen"), "sys_exit_listen"),
        (Attach::Tracepoint("syscalls", "sys_exit_sendto"), "sys_exit_sendto"),
        (Attach::Tracepoint("syscalls", "sys_exit_sendmsg"), "sys_exit_sendmsg"),
    ],
    slow_to_detach: true,
};

/// What programs take the first arguments of a kernel function for. It is hooked only if it calls them so: prototypes
/// change between versions.
pub const ARGUMENTS: &[(&str, &[&str])] = &[
    ("icmp_unreach", &["skb"]),
    ("icmpv6_notify", &["skb"]),
    ("tcp_conn_request", &["rsk_ops", "af_ops", "sk", "skb"]),
];

/// All probes, in the order in which they are attached.
pub const PROBES: &[Probe] = &[
    tp_btf!(
        "process",
        "sched_process_fork",
        "descendants of the command",
        Use::FollowProcesses,
        Weight::Required
    ),
    tp_btf!(
        "process",
        "sched_process_exec",
        "interfaces of other network namespaces at once",
        Use::FollowProcesses,
        Weight::Wanted
    ),
    tp_btf!(
        "process",
        "sched_process_free",
        "the end of followed processes: a reused process id is followed too",
        Use::FollowProcesses,
        Weight::Wanted
    ),
    tp_btf!("socket", "inet_sock_set_state", "everything", Use::Always, Weight::Required),
    tp_btf!("error", "inet_sk_error_report", "soft errors, errors of UDP sockets"),
    tp_btf!("retransmit", "tcp_retransmit_skb", "retransmits, and with them the first sign of trouble"),
    tp_btf!(
        "retransmit",
        "tcp_retransmit_synack",
        "handshakes that a listener of this machine cannot finish"
    ),
    tp_btf!("reset", "tcp_receive_reset", "RST received"),
    tp_btf!("reset", "tcp_send_reset", "RST sent, and why"),
    tp_btf!("drop", "kfree_skb", "packets that this machine dropped"),
    tp_btf!("route", "fib_table_lookup", "which IPv4 route lookup failed"),
    tp_btf!("route", "fib6_table_lookup", "which IPv6 route lookup failed"),
    tp_btf!("neighbour", "neigh_timer_handler", "which next hop did not answer"),
    tp_btf!("icmp", "icmp_send", "ICMP errors that this machine sends"),
    function!("icmp", "icmp_unreach", Weight::BeforeWire, "who sent an ICMP error, before tc watches"),
    function!("icmp", "icmpv6_notify", Weight::BeforeWire, "who sent an ICMPv6 error, before tc watches"),
    function!(
        "overflow",
        "tcp_conn_request",
        Weight::Extra,
        "which SYN met a full accept queue, and not only that it is full"
    ),
    Probe {
        name: "result",
        signal: "socket_calls",
        ways: &[
            Way::of(calls!(Fexit, "fexit_")),
            SYSCALL_TRACEPOINTS,
            Way::of(&[(Attach::BtfTracepoint("sys_exit"), "sys_exit")]),
            Way::of(calls!(Kretprobe, "kretprobe_")),
        ],
        when: Use::Always,
        weight: Weight::Wanted,
        lost: "connect(), bind(), listen() and sends that fail at once",
    },
    tp_btf!(
        "time_wait",
        "inet_sock_set_state",
        "time_wait",
        "who closed first, and so made a socket in TIME_WAIT",
        Use::TimeWait,
        Weight::Required
    ),
    Probe {
        name: "wire",
        signal: "wire",
        ways: &[
            Way::of(&[(Attach::Tcx, "wire_ingress"), (Attach::Tcx, "wire_egress")]),
            Way::of(&[
                (Attach::Device("netif_receive_skb"), "netif_receive_skb"),
                (Attach::Device("net_dev_queue"), "net_dev_queue"),
            ]),
        ],
        when: Use::Always,
        weight: Weight::Wanted,
        lost: "what left on the wire and what arrived: answers, their TTL, ICMP errors",
    },
    Probe {
        name: "peek",
        signal: "peek",
        ways: &[Way::of(&[(Attach::OnDemand, "peek")])],
        when: Use::Always,
        weight: Weight::Wanted,
        lost: "which rule of nftables dropped a packet",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(signal: &str, wanted: Option<Family>, follow_processes: bool) -> Vec<String> {
        let probe = PROBES.iter().find(|probe| probe.signal == signal).expect("it is in the table");
        let first = |way: &&Way| way.to_string().split(',').next().unwrap_or_default().to_owned();
        probe.tried(wanted, follow_processes).iter().map(first).collect()
    }

    #[test]
    fn run_takes_nothing_that_is_slow_to_detach() {
        let (fexit, kretprobe) = ("fexit __x64_sys_connect", "kretprobe __x64_sys_connect");
        let (one_call, all_calls) = ("tracepoint syscalls:sys_exit_connect", "tp_btf sys_exit");
        assert_eq!(tried("socket_calls", None, false), [fexit, one_call, all_calls, kretprobe]);
        assert_eq!(tried("socket_calls", None, true), [fexit, all_calls, kretprobe]);
        assert_eq!(tried("socket_calls", Some(Family::Tracepoint), true), [all_calls]);
        assert_eq!(tried("socket_calls", Some(Family::Kprobe), false), [kretprobe]);
    }

    #[test]
    fn a_family_leaves_out_other_functions_only() {
        assert_eq!(tried("kfree_skb", Some(Family::Kprobe), false), ["tp_btf kfree_skb"]);
        assert_eq!(tried("icmp_unreach", Some(Family::Kprobe), false), ["kprobe icmp_unreach"]);
        assert!(tried("icmp_unreach", Some(Family::Tracepoint), false).is_empty());
        assert_eq!(tried("wire", Some(Family::Fentry), false).len(), 2);
        assert_eq!(tried("wire", Some(Family::Tracepoint), false), ["tp_btf netif_receive_skb"]);
    }

    #[test]
    fn a_way_is_shown_with_all_its_hooks() {
        let calls = PROBES.iter().find(|probe| probe.signal == "socket_calls").expect("in the table").ways;
        assert!(calls[0].to_string().starts_with("fexit __x64_sys_connect, __x64_sys_bind, "));
        let wire = PROBES.iter().find(|probe| probe.signal == "wire").expect("in the table").ways;
        assert_eq!(wire[0].to_string(), "tcx");
        assert_eq!(wire[1].to_string(), "tp_btf netif_receive_skb, net_dev_queue");
    }
}
