//! What a sample of the scenarios has besides one for each diagnosis: the harness, connections that are fine, and
//! the life of the program.

pub const ALSO: &[&str] = &[
    "harness__topology_carries_traffic",
    "healthy__curl",
    "healthy__python",
    "healthy__udp",
    "healthy__cli_follows_fork",
    "healthy__cli_filter_leaves_others_out",
    "healthy__cli_ctrl_c_leaves_nothing",
    "healthy__cli_kill_leaves_nothing",
];
