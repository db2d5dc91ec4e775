//! The skips that are all right, by kernel. A skip that is not here fails the run.

use netdiag_tests::scenario::ExpectedSkip;

pub const EXPECTED: &[ExpectedSkip] = &[
    ExpectedSkip {
        kernel: "*",
        scenario: "timeout_syn_queue_full__hit_*",
        reason: "a full SYN queue begins to empty after 3 s, which an emulated processor needs to start netdiag",
    },
    ExpectedSkip {
        kernel: "*",
        scenario: "healthy__container_*_crun",
        reason: "a container runtime is not on every machine; the others do the same with unshare",
    },
    ExpectedSkip {
        kernel: "*",
        scenario: "timeout_firewall_drop__hit_mptcp",
        reason: "not every kernel has MPTCP; that its sockets are told apart shows on one that does",
    },
    ExpectedSkip {
        kernel: "*",
        scenario: "healthy__agent_prometheus_scrapes",
        reason: "Prometheus is large, and not on every machine",
    },
];
