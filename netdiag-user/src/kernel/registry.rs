//! The probes, as data: program, hook with its alternatives, and what is lost without it.

/// One way to attach a program, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// A BTF-enabled raw tracepoint, by the tracepoint's name.
    BtfTracepoint(&'static str),
    /// A classic tracepoint: category and name.
    Tracepoint(&'static str, &'static str),
    /// A tc program: loaded at start, attached to interfaces as they are needed.
    Tc,
    /// Loaded only: user space runs it by itself (`BPF_PROG_TEST_RUN`).
    OnDemand,
}

impl std::fmt::Display for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Attach::BtfTracepoint(name) => write!(f, "tp_btf {name}"),
            Attach::Tracepoint(category, name) => write!(f, "tracepoint {category}:{name}"),
            Attach::Tc => write!(f, "tc"),
            Attach::OnDemand => write!(f, "on demand"),
        }
    }
}

/// When a probe is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Always,
    /// Only where processes are followed (`run`).
    FollowProcesses,
    /// Only where the whole machine is watched.
    WholeMachine,
    /// Where processes are followed, and wherever the program named could not be attached.
    FollowProcessesOrWithout(&'static str),
}

/// One program.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// File stem in netdiag-ebpf/src/probes.
    pub name: &'static str,
    /// Name of the program in the object.
    pub program: &'static str,
    pub alternatives: &'static [Attach],
    pub when: Use,
    /// netdiag cannot work without it.
    pub required: bool,
    /// What cannot be told without it.
    pub lost: &'static str,
}

macro_rules! tp_btf {
    ($name:literal, $program:literal, $lost:literal) => {
        Probe {
            name: $name,
            program: $program,
            alternatives: &[Attach::BtfTracepoint($program)],
            when: Use::Always,
            required: false,
            lost: $lost,
        }
    };
}

macro_rules! syscall {
    ($program:literal, $lost:literal) => {
        Probe {
            name: "result",
            program: $program,
            alternatives: &[Attach::Tracepoint("syscalls", $program)],
            when: Use::WholeMachine,
            required: false,
            lost: $lost,
        }
    };
}

macro_rules! process {
    ($program:literal, $required:literal, $lost:literal) => {
        Probe {
            name: "process",
            program: $program,
            alternatives: &[Attach::BtfTracepoint($program)],
            when: Use::FollowProcesses,
            required: $required,
            lost: $lost,
        }
    };
}

/// All probes, in the order in which they are attached.
pub const PROBES: &[Probe] = &[
    process!("sched_process_fork", true, "descendants of the command"),
    process!("sched_process_exec", false, "interfaces of other network namespaces at once"),
    process!(
        "sched_process_free",
        false,
        "the end of followed processes: a reused process id is followed too"
    ),
    Probe {
        name: "socket",
        program: "inet_sock_set_state",
        alternatives: &[Attach::BtfTracepoint("inet_sock_set_state")],
        when: Use::Always,
        required: true,
        lost: "everything",
    },
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
    syscall!("sys_exit_connect", "connect() that fails at once"),
    syscall!("sys_exit_bind", "bind() that fails"),
    syscall!("sys_exit_listen", "listen() that fails"),
    syscall!("sys_exit_sendto", "sendto() that fails"),
    syscall!("sys_exit_sendmsg", "sendmsg() that fails"),
    Probe {
        name: "result",
        program: "sys_exit",
        alternatives: &[Attach::BtfTracepoint("sys_exit")],
        when: Use::FollowProcessesOrWithout("sys_exit_connect"),
        required: false,
        lost: "socket system calls that fail at once",
    },
    Probe {
        name: "wire",
        program: "wire_ingress",
        alternatives: &[Attach::Tc],
        when: Use::Always,
        required: false,
        lost: "what arrived on the wire: answers, their TTL, ICMP errors",
    },
    Probe {
        name: "wire",
        program: "wire_egress",
        alternatives: &[Attach::Tc],
        when: Use::Always,
        required: false,
        lost: "what left on the wire",
    },
    Probe {
        name: "peek",
        program: "peek",
        alternatives: &[Attach::OnDemand],
        when: Use::Always,
        required: false,
        lost: "which rule of nftables dropped a packet",
    },
];
