//! Packets that this machine threw away, whether a connection of its own missed them or not. They are found in drops
//! (`netdiag drops`) and not in the evidence of a connection.

mod advice;
mod finding;
#[cfg(test)]
mod tests;

pub use finding::finding;

use super::{Diagnosis, Evidence, Verdict};

/// What a connection missed has a code of its own.
fn of_no_connection(_: &Evidence) -> Verdict {
    Verdict::Healthy
}

const fn entry(code: &'static str, title: &'static str, page: &'static str) -> Diagnosis {
    Diagnosis { code, title, specificity: 0, needs: &["kfree_skb"], page, check: of_no_connection }
}

pub const ALL: &[Diagnosis] = &[
    entry(
        "drop.firewall",
        "a rule of the local firewall threw packets away",
        include_str!("../pages/drop/firewall.md"),
    ),
    entry(
        "drop.reverse-path-filter",
        "the reverse path filter threw packets away",
        include_str!("../pages/drop/reverse-path-filter.md"),
    ),
    entry(
        "drop.no-socket",
        "packets came for a port that nothing listens on",
        include_str!("../pages/drop/no-socket.md"),
    ),
    entry("drop.martian", "packets came with impossible addresses", include_str!("../pages/drop/martian.md")),
    entry(
        "drop.forwarding-disabled",
        "packets came for other hosts, and this one does not forward",
        include_str!("../pages/drop/forwarding-disabled.md"),
    ),
    entry("drop.no-route", "there was no route for the packets", include_str!("../pages/drop/no-route.md")),
    entry(
        "drop.too-big",
        "packets were larger than the next link takes",
        include_str!("../pages/drop/too-big.md"),
    ),
    entry("drop.checksum", "packets came with a wrong checksum", include_str!("../pages/drop/checksum.md")),
    entry(
        "drop.receive-buffer",
        "the application does not read fast enough",
        include_str!("../pages/drop/receive-buffer.md"),
    ),
    entry("drop.bpf", "a tc, XDP or BPF program threw packets away", include_str!("../pages/drop/bpf.md")),
    entry("drop.qdisc", "a queue for packets was full", include_str!("../pages/drop/qdisc.md")),
    entry("drop.other", "the kernel threw packets away", include_str!("../pages/drop/other.md")),
];
