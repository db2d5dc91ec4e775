use super::*;
use crate::enrich::testing::{TestNetns, wait_for};

/// What is told of a command's changes.
fn told(netns: &TestNetns, commands: &[&str]) -> Vec<(ChangeKind, String)> {
    let mut changes = Changes::default();
    changes.watch(netns.handle().inode(), 1);
    for command in commands {
        netns.run(command);
    }
    // A last change marks the end.
    netns.ip("link add end type veth peer name end-peer");
    wait_for(|| {
        changes.poll(2_000_000_000);
        let ended = changes.seen().any(|seen| seen.change.interface.as_deref() == Some("end"));
        ended.then_some(())
    });
    assert!(changes.seen().all(|seen| seen.netns == netns.handle().inode() && seen.time_ns == 2_000_000_000));
    let is_end = |seen: &&Seen| seen.change.interface.as_deref().is_some_and(|name| name.starts_with("end"));
    let others = changes.seen().filter(|seen| !is_end(seen));
    others.map(|seen| (seen.change.kind, Change { by: None, ..seen.change.clone() }.text())).collect()
}

/// `d0`, up and with a carrier.
fn link(netns: &TestNetns) {
    netns.ip("link add d0 type veth peer name d1");
    netns.ip("link set d1 up");
    netns.ip("link set d0 up");
    let carrier = || netns.ip("link show d0").contains("LOWER_UP").then_some(());
    wait_for(carrier);
}

fn kinds_and_texts(told: &[(ChangeKind, String)]) -> Vec<(ChangeKind, &str)> {
    told.iter().map(|(kind, text)| (*kind, text.as_str())).collect()
}

#[test]
fn links_addresses_and_routes() {
    let netns = TestNetns::new();
    link(&netns);
    netns.run("sysctl -qw net.ipv6.conf.d0.disable_ipv6=1");
    let told = told(
        &netns,
        &[
            "ip address add 10.9.0.1/24 dev d0",
            "ip route add 10.8.0.0/16 via 10.9.0.7",
            "ip route del 10.8.0.0/16",
            "ip rule add to 10.8.0.0/16 priority 77 lookup 300",
            "ip neigh replace 10.9.0.8 lladdr 02:00:00:00:00:01 nud permanent dev d0",
            "ip link set d0 mtu 1400",
            "ip link set d0 down",
        ],
    );
    use ChangeKind::*;
    let found = kinds_and_texts(&told);
    for expected in [
        (AddressAdded, "address added: 10.9.0.1/24 on d0"),
        (RouteAdded, "route added: 10.8.0.0/16 via 10.9.0.7 dev d0"),
        (RouteRemoved, "route removed: 10.8.0.0/16 via 10.9.0.7 dev d0"),
        (PolicyRuleAdded, "routing rule added: 77: from all to 10.8.0.0/16 lookup 300"),
        (NeighbourChanged, "neighbour 10.9.0.8 on d0 was set to 02:00:00:00:00:01 for good"),
        (LinkChanged, "link d0: MTU 1400, was 1500"),
        (LinkDown, "link d0 down"),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
    }
}

#[test]
fn rules_and_who_set_them() {
    let netns = TestNetns::new();
    let mut changes = Changes::default();
    changes.watch(netns.handle().inode(), 1);
    netns.run("nft add table inet fw");
    netns.run("nft add chain inet fw c");
    netns.run("nft add rule inet fw c tcp dport 8080 drop");
    netns.run("nft delete rule inet fw c handle 2");
    let removed = wait_for(|| {
        changes.poll(1);
        changes.seen().find(|seen| seen.change.kind == ChangeKind::RuleRemoved).cloned()
    });
    let name = |handle| RuleName {
        family: "inet".into(),
        table: "fw".into(),
        chain: "c".into(),
        handle: Some(handle),
    };
    assert_eq!(removed.change.rule, Some(name(2)));
    let all: Vec<_> = changes.seen().map(|seen| seen.change.clone()).collect();
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.iter().all(|change| change.by.as_ref().is_some_and(|by| by.comm == "nft" && by.pid > 1)));
    assert!(all[2].text().starts_with("rule added: inet fw c handle 2 (by nft["), "{}", all[2].text());
    assert_eq!(all[0].subject, "table inet fw added or changed");
}

#[test]
fn what_repeats_is_no_change() {
    let netns = TestNetns::new();
    link(&netns);
    netns.ip("address add 10.9.0.1/24 dev d0");
    assert_eq!(
        told(
            &netns,
            &[
                "ip address change 10.9.0.1/24 dev d0 valid_lft 1000 preferred_lft 1000",
                "ip link set d0 alias x"
            ]
        ),
        []
    );
}

#[test]
fn too_many_are_told_as_lost() {
    let netns = TestNetns::new();
    link(&netns);
    netns.ip("address add 10.9.0.1/24 dev d0");
    let mut changes = Changes::default();
    changes.watch(netns.handle().inode(), 1);
    let batch: String = (0..MAX_A_SECOND + 10)
        .map(|n| format!("route add 10.{}.{}.0/24 via 10.9.0.7\n", 100 + n / 256, n % 256))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    netns.ip(&format!("-batch {}", file.path().display()));
    wait_for(|| {
        changes.poll(5);
        (changes.lost() > 0).then_some(())
    });
    let last = changes.seen().next_back().unwrap();
    assert_eq!(last.change.kind, ChangeKind::ChangesLost);
}

#[test]
fn the_namespace_that_is_wanted_least_makes_room() {
    let mut changes = Changes::default();
    let spaces: Vec<TestNetns> = (0..=MAX_NAMESPACES).map(|_| TestNetns::new()).collect();
    let inodes: Vec<u64> = spaces.iter().map(|netns| netns.handle().inode()).collect();
    for (minute, inode) in inodes.iter().enumerate() {
        let time = minute as u64 * 60_000_000_000;
        changes.watch(*inode, time);
        changes.watch(inodes[1], time);
    }
    let watched: Vec<u64> = changes.watched.iter().map(|watched| watched.netns).collect();
    assert_eq!(watched.len(), MAX_NAMESPACES);
    assert!(watched.contains(&inodes[0]) && watched.contains(&inodes[1]) && !watched.contains(&inodes[2]));
    // At once, it would be a coming and going.
    let latest = MAX_NAMESPACES as u64 * 60_000_000_000;
    changes.watched.iter_mut().for_each(|watched| watched.wanted_ns = latest);
    changes.watch(inodes[2], latest + 1);
    assert_eq!(changes.watched.len(), MAX_NAMESPACES);
    assert!(changes.watched.iter().all(|watched| watched.netns != inodes[2]));
}

#[test]
fn what_cannot_be_watched_is_not_tried_again_at_once() {
    let mut changes = Changes::default();
    changes.watch(1, 5);
    changes.watch(1, 6);
    assert_eq!((changes.watched.len(), &changes.refused[..]), (0, &[(1, 5)][..]));
    changes.watch(1, 5 + PATIENCE_NS);
    assert_eq!(changes.refused, [(1, 5 + PATIENCE_NS)]);
}

#[test]
fn a_namespace_that_nobody_else_has_is_let_go() {
    let (first, second) = (TestNetns::new(), TestNetns::new());
    let mut changes = Changes::default();
    changes.watch(first.handle().inode(), 1);
    changes.watch(second.handle().inode(), 1);
    changes.poll(2 * LOOK_NS);
    assert_eq!(changes.watched.len(), 2);
    let inode = second.handle().inode();
    drop(second);
    wait_for(|| {
        changes.looked_ns = 0;
        let gone = changes.poll(2 * LOOK_NS);
        (gone == [inode]).then_some(())
    });
    assert_eq!(changes.watched.len(), 1);
    assert_eq!(changes.watched[0].netns, first.handle().inode());
}
