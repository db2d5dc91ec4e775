use super::super::rules::{self, RuleAction};
use super::super::testing::TestNetns;
use super::*;

fn router() -> TestNetns {
    let netns = TestNetns::new();
    for arguments in [
        "link add d0 type veth peer name p0",
        "link add d1 type veth peer name p1",
        "addr add 10.1.0.1/24 dev d0",
        "addr add 10.2.0.1/24 dev d1",
        "addr add fd01::1/64 dev d0 nodad",
        "link set d0 up",
        "link set d1 up",
        "link set p0 up",
        "link set p1 up",
        "route add default via 10.1.0.254 dev d0 proto static metric 100",
        "route add 10.3.0.0/16 via 10.2.0.254 dev d1 mtu 1300",
        "route add 10.4.0.0/16 nexthop via 10.1.0.253 dev d0 weight 2 nexthop via 10.2.0.253 dev d1",
        "route add 10.5.0.0/16 via inet6 fd01::5 dev d0",
        "route add blackhole 10.9.1.0/24",
        "route add unreachable 10.9.2.0/24 metric 7",
        "route add prohibit 10.9.3.0/24",
        "route add throw 10.9.4.0/24 table 77",
        "route add unreachable default table 77",
        "route add 10.6.0.0/16 via 10.2.0.254 dev d1 table 78",
        "rule add lookup main suppress_prefixlength 0 pref 999",
        "rule add fwmark 0x77 lookup 77 pref 1000",
        "rule add to 10.7.0.0/16 prohibit pref 1001",
        "rule add to 10.8.0.0/16 unreachable pref 1002",
        "rule add to 10.6.0.0/16 lookup 78 pref 1003",
        "-6 rule add to fd07::/48 prohibit pref 1001",
        "-6 route add default via fd01::fe dev d0",
        "-6 route add blackhole fd09:1::/48",
        "-6 route add unreachable fd09:2::/48",
        "-6 route add prohibit fd09:3::/48",
    ] {
        netns.ip(arguments);
    }
    netns
}

fn get(handle: &NetnsHandle, dst: &str) -> RouteAnswer {
    lookup(Some(handle), dst.parse().unwrap(), None, None, None).unwrap()
}

#[test]
fn decisions_are_those_of_ip_route_get() {
    let netns = router();
    let handle = netns.handle();
    let names = links::names(Some(&handle));
    for dst in [
        "10.1.0.7",
        "10.2.0.1",
        "10.3.4.5",
        "10.6.0.1",
        "192.0.2.1",
        "127.0.0.1",
        "fd01::7",
        "fd01::1",
        "2001:db8::1",
    ] {
        let RouteAnswer::Route(route) = get(&handle, dst) else { panic!("{dst}") };
        let json: serde_json::Value =
            serde_json::from_str(&netns.ip(&format!("-j -d route get {dst}"))).unwrap();
        let shown = &json[0];
        assert_eq!(serde_json::to_value(route.kind).unwrap(), shown["type"], "{dst}");
        assert_eq!(route.destination.0.to_string(), shown["dst"]);
        assert_eq!(names[&route.oif.unwrap()], shown["dev"], "{dst}");
        assert_eq!(route.gateway.map(|gateway| gateway.to_string()).as_deref(), shown["gateway"].as_str());
        assert_eq!(route.prefsrc.unwrap().to_string(), shown["prefsrc"]);
        let metrics = &shown["metrics"][0];
        assert_eq!(route.mtu.map(u64::from), metrics["mtu"].as_u64());
        let table = match shown["table"].as_str().unwrap() {
            "local" => 255,
            "main" => 254,
            other => other.parse().unwrap(),
        };
        assert_eq!(route.table, table, "{dst}");
    }
}

#[test]
fn what_the_lookup_fails_with_and_why() {
    let netns = router();
    let handle = netns.handle();
    let kinds = [
        ("10.9.1.1", libc::EINVAL, RouteKind::Blackhole, ("10.9.1.0", 24)),
        ("10.9.2.1", libc::EHOSTUNREACH, RouteKind::Unreachable, ("10.9.2.0", 24)),
        ("10.9.3.1", libc::EACCES, RouteKind::Prohibit, ("10.9.3.0", 24)),
        ("fd09:1::1", libc::EINVAL, RouteKind::Blackhole, ("fd09:1::", 48)),
        ("fd09:2::1", libc::EHOSTUNREACH, RouteKind::Unreachable, ("fd09:2::", 48)),
        ("fd09:3::1", libc::EACCES, RouteKind::Prohibit, ("fd09:3::", 48)),
    ];
    for (dst, expected, kind, (network, length)) in kinds {
        let RouteAnswer::Failed { errno, route: Some(route), rule: None, .. } = get(&handle, dst) else {
            panic!("{dst}: {:?}", get(&handle, dst))
        };
        assert_eq!((errno, route.kind), (expected, kind), "{dst}");
        assert_eq!(route.destination, (network.parse().unwrap(), length));
        assert_eq!(route.table, 254);
    }

    let marked = |dst: &str| lookup(Some(&handle), dst.parse().unwrap(), None, None, Some(0x77)).unwrap();
    let RouteAnswer::Failed { errno: libc::EHOSTUNREACH, route: Some(route), .. } = marked("192.0.2.1")
    else {
        panic!("{:?}", marked("192.0.2.1"))
    };
    assert_eq!((route.table, route.destination.1), (77, 0));
    assert!(matches!(marked("10.9.4.1"), RouteAnswer::Route(_)), "thrown back to the main table");

    let RouteAnswer::Failed { errno: libc::EACCES, route: None, rule: Some(rule), .. } =
        get(&handle, "10.7.0.1")
    else {
        panic!("{:?}", get(&handle, "10.7.0.1"))
    };
    assert_eq!((rule.priority, rule.action), (1001, RuleAction::Prohibit));
    let six = get(&handle, "fd07::1");
    let RouteAnswer::Failed { errno: libc::EACCES, route: None, rule: Some(_), .. } = six else {
        panic!("{six:?}")
    };
    let text = serde_json::to_string(&six).unwrap();
    assert_eq!(serde_json::from_str::<RouteAnswer>(&text).unwrap(), six);
    let RouteAnswer::Failed { errno: libc::ENETUNREACH, route: None, rule: Some(rule), .. } =
        get(&handle, "10.8.0.1")
    else {
        panic!("{:?}", get(&handle, "10.8.0.1"))
    };
    assert_eq!((rule.priority, rule.action), (1002, RuleAction::Unreachable));
}

#[test]
fn no_route_no_source_no_interface() {
    let netns = TestNetns::new();
    let handle = netns.handle();
    let failed = |errno| RouteAnswer::Failed { errno, foreign_source: false, route: None, rule: None };
    assert_eq!(get(&handle, "192.0.2.1"), failed(libc::ENETUNREACH));
    assert_eq!(get(&handle, "2001:db8::1"), failed(libc::ENETUNREACH));
    assert!(!has_default(Some(&handle), false).unwrap());
    assert!(!has_default(Some(&handle), true).unwrap());

    let netns = router();
    let handle = netns.handle();
    assert!(has_default(Some(&handle), false).unwrap());
    assert!(has_default(Some(&handle), true).unwrap());
    let from = |src: &str| {
        lookup(Some(&handle), "10.9.1.1".parse().unwrap(), Some(src.parse().unwrap()), None, None)
    };
    let not_ours = from("203.0.113.1").unwrap();
    assert!(
        matches!(not_ours, RouteAnswer::Failed { foreign_source: true, route: None, .. }),
        "{not_ours:?}"
    );
    assert!(matches!(
        from("10.1.0.1").unwrap(),
        RouteAnswer::Failed { errno: libc::EINVAL, foreign_source: false, route: Some(_), .. }
    ));
    assert!(matches!(from("fd01::1"), Err(EnrichError::MixedFamilies)));
    let index = |name: &str| *links::names(Some(&handle)).iter().find(|(_, other)| *other == name).unwrap().0;
    let by = |oif| lookup(Some(&handle), "10.1.0.7".parse().unwrap(), None, Some(oif), None).unwrap();
    assert!(matches!(by(index("d0")), RouteAnswer::Route(_)));
    assert_eq!(by(i32::MAX as u32), failed(libc::ENODEV));
}

#[test]
fn texts_are_those_of_ip_route() {
    let netns = router();
    let handle = netns.handle();
    let mut shown =
        netns.ip("-4 -oneline route show table all") + &netns.ip("-6 -oneline route show table all");
    shown = shown.replace(" pref medium", "").replace(['\\', '\t'], " ");
    let shown: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let destinations = [
        ("10.1.0.7", "10.1.0.0/24 dev d0 "),
        ("10.3.4.5", "10.3.0.0/16 via"),
        ("10.4.0.1", "10.4.0.0/16 proto"),
        ("10.5.0.1", "10.5.0.0/16 via inet6 fd01::5"),
        ("10.6.0.1", "10.6.0.0/16 via 10.2.0.254 dev d1 table 78"),
        ("192.0.2.1", "default via 10.1.0.254 dev d0 proto static metric 100"),
        ("127.0.0.1", "local 127.0.0.1 dev lo table local"),
        ("127.0.0.2", "local 127.0.0.0/8 dev lo table local"),
        ("10.9.1.1", "blackhole 10.9.1.0/24"),
        ("10.9.2.1", "unreachable 10.9.2.0/24 metric 7"),
        ("10.9.3.1", "prohibit 10.9.3.0/24"),
        ("fd01::7", "fd01::/64 dev d0"),
        ("2001:db8::1", "default via fd01::fe dev d0"),
        ("fd09:1::1", "blackhole fd09:1::/48"),
    ];
    for (dst, start) in destinations {
        let answer = matching_route(Some(&handle), dst.parse().unwrap(), None, None, None).unwrap();
        let text = super::super::route_text::route(answer.route().unwrap(), &links::names(Some(&handle)));
        assert!(text.starts_with(start.trim_end_matches("proto")), "{text}");
        assert!(shown.contains(&text), "{text}\n{}", shown.join("\n"));
    }
}

#[test]
fn prefixes() {
    let within = |network: &str, length, address: &str| {
        contains((network.parse().unwrap(), length), address.parse().unwrap())
    };
    assert!(within("10.0.0.0", 8, "10.255.0.1") && !within("10.0.0.0", 8, "11.0.0.1"));
    assert!(within("0.0.0.0", 0, "1.2.3.4") && !within("0.0.0.0", 0, "::1"));
    assert!(within("10.0.0.1", 32, "10.0.0.1") && !within("10.0.0.1", 32, "10.0.0.0"));
    assert!(within("fd00::", 64, "fd00::1") && !within("fd00::", 64, "fd00:0:0:1::1"));
    assert!(within("::", 0, "ff::") && within("::1", 128, "::1") && !within("::1", 128, "::2"));
    assert!(!within("10.0.0.1", 200, "10.0.0.2"));
}

#[test]
fn rules_in_order() {
    let netns = router();
    let mut socket = Socket::route(Some(&netns.handle())).unwrap();
    let rules = rules::dump(&mut socket, libc::AF_INET as u8).unwrap();
    let priorities: Vec<u32> = rules.iter().map(|rule| rule.priority).collect();
    assert_eq!(priorities, [0, 999, 1000, 1001, 1002, 1003, 32766, 32767]);
    assert_eq!(rules[0].action, RuleAction::Table(255));
    assert_eq!(rules[1].suppress_prefixlength, Some(0));
    assert_eq!((rules[2].mark, rules[2].mask), (0x77, u32::MAX));
    assert_eq!(rules[3].to, Some(("10.7.0.0".parse().unwrap(), 16)));
    assert!(rules.iter().all(|rule| !rule.more && !rule.inverted));
}

#[test]
fn broken_messages_are_none_or_partial() {
    for length in 0..HEADER {
        assert_eq!(parse(&vec![2; length]), None);
    }
    let mut bytes = vec![0; HEADER];
    bytes[0] = libc::AF_INET as u8;
    assert!(parse(&bytes).is_some());
    for junk in [&[0u8, 0, 0, 0][..], &[8, 0, 9, 0, 0, 0, 0, 0], &[255, 255, 9, 0]] {
        let mut bytes = bytes.clone();
        bytes.extend(junk);
        assert_eq!(parse(&bytes).unwrap().nexthops.len(), 1);
    }
    assert!(multipath(&[0; 16]).is_empty());
    assert!(multipath(&[4, 0, 0, 0]).is_empty());
}
