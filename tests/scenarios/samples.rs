//! Parts of the scenarios, for slow machines and for what is different on some machines only. `NETDIAG_SCENARIOS` names
//! one of them.

pub const SAMPLES: &[(&str, &[&str])] = &[
    // One for each diagnosis, and besides: the harness, connections that are fine, and the life of the program.
    (
        "core",
        &[
            "harness__topology_carries_traffic",
            "healthy__curl",
            "healthy__python",
            "healthy__udp",
            "healthy__cli_follows_fork",
            "healthy__cli_filter_leaves_others_out",
            "healthy__cli_ctrl_c_leaves_nothing",
            "healthy__cli_kill_leaves_nothing",
            "healthy__cli_without_btf",
            "healthy__cli_foreign_tc_programs_go_on",
            "healthy__drops_normal_is_set_apart",
            "healthy__timewait_two_processes",
            "healthy__agent_killed_loses_nothing_stored",
            "healthy__agent_counts_what_is_injected",
            "unreachable_icmp_unreachable__hit_before_tc_watches_v4",
            "unreachable_icmp_unreachable__hit_before_tc_watches_v6",
        ],
    ),
    // What depends on how probes are attached (`--attach`): results of calls, the wire, ICMP errors, full queues.
    (
        "hooks",
        &[
            "healthy__curl",
            "healthy__cli_kill_leaves_nothing",
            "local_address_in_use__hit_v4",
            "local_not_permitted__hit_privileged_port_v4",
            "unreachable_no_route__hit_v6",
            "unreachable_icmp_unreachable__hit_v4",
            "unreachable_icmp_unreachable__hit_before_tc_watches_v4",
            "unreachable_icmp_unreachable__hit_before_tc_watches_v6",
            "timeout_no_reply__hit_v4",
            "timeout_reply_dropped__hit_input_v4",
            "timeout_accept_queue_full__hit_v4",
        ],
    ),
    // Sets a machine's clock.
    ("own-machine", &[]),
    // Ends a machine's use for netdiag.
    ("locked-down", &[]),
    // On a kernel that netdiag refuses.
    ("too-old", &[]),
];
