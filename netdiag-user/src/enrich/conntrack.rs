//! The connection tracking table of a network namespace.

use std::fs;

use super::facts::ConntrackFact;
use super::{netns, sysctl};

const COUNT: &str = "net.netfilter.nf_conntrack_count";
const MAX: &str = "net.netfilter.nf_conntrack_max";
const STATISTICS: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// How full the connection tracking table of this namespace (inode number) is now. `None` if the namespace
/// cannot be entered, or connection tracking is not there.
pub fn of(inode: u64) -> Option<ConntrackFact> {
    let handle = netns::find(inode)?;
    let number = |key| sysctl::read(None, key)?.parse().ok();
    let look = || (number(COUNT), number(MAX), fs::read_to_string(STATISTICS).ok());
    let (count, max, statistics) = netns::enter(&handle, look).ok()?;
    Some(ConntrackFact {
        netns: inode,
        count: count?,
        // One limit holds for all namespaces; where the namespace belongs to a user namespace it is not shown.
        max: max.or_else(|| number(MAX))?,
        dropped: statistics.as_deref().and_then(dropped),
    })
}

/// Sum over all CPUs of the column `drop` (net/netfilter/nf_conntrack_standalone.c, `ct_cpu_seq_show`).
///
/// `early_drop` is another matter: entries that had to make room, so that a new one found its place.
fn dropped(statistics: &str) -> Option<u64> {
    let mut lines = statistics.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "drop")?;
    lines.map(|line| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "entries  found drop early_drop\n00000001  00000002 0000000a 00000004\n\
                    00000001  00000002 00000010 00000004\n";
        assert_eq!(dropped(text), Some(26));
        assert_eq!(dropped("entries found\n1 2\n"), None);
        assert_eq!(dropped("entries drop\n1\n"), None);
        assert_eq!(dropped(""), None);
    }

    #[test]
    fn a_namespace_has_its_own_table() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        let Some(idle) = of(inode) else {
            println!("no connection tracking on this machine");
            return;
        };
        assert_eq!((idle.netns, idle.count), (inode, 0));
        assert!(idle.max > 0 && idle.dropped.is_none_or(|dropped| dropped == 0), "{idle:?}");
        assert_eq!(of(1), None);
    }
}
