use serde_json::json;

use super::{Chains, Fits, Found, Subject, nft, xtables};
use crate::probes::{Direction, Packet, Tuple, protocol};
use crate::track::Hook;

fn packet(source: &str, destination: &str) -> Packet {
    Packet {
        tuple: Tuple {
            protocol: protocol::TCP,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        },
        flags: 0x02,
        code: 0,
        ttl: 64,
        direction: Direction::Egress,
        seq: 1,
        ifindex: 2,
        iif: 0,
        interface: "eth0".into(),
        netns: 1,
    }
}

fn v4() -> Packet {
    packet("10.0.1.2:40000", "10.0.2.2:8080")
}

fn names(chains: &Chains, subject: &Subject<'_>) -> Vec<String> {
    let name = |found: Found| {
        let rule = found.rule.map_or_else(|| "policy".to_owned(), |rule| rule.number.to_string());
        format!("{} {} {rule}", found.table, found.chain)
    };
    chains.candidates(subject).into_iter().map(name).collect()
}

/// What may have dropped a SYN at this hook.
fn saved(rules: &str, hook: Hook) -> Vec<String> {
    names(&xtables::parse(rules, "ip"), &Subject { packet: &v4(), hook })
}

/// The same for rules of the output chain, whose policy accepts.
fn output(rules: &[&str]) -> Vec<String> {
    let rules: String = rules.iter().map(|rule| format!("[1:60] -A OUTPUT {rule}\n")).collect();
    saved(&format!("*filter\n:OUTPUT ACCEPT [0:0]\n:mine - [0:0]\n{rules}COMMIT\n"), Hook::Output)
}

#[test]
fn rules_are_compared_with_the_packet() {
    let fits = [
        "-j DROP",
        "-p tcp -j DROP",
        "-s 10.0.0.0/8 -d 10.0.2.2/32 -p tcp -m tcp --dport 8080 -j DROP",
        "-d 10.0.2.0/255.255.255.0 -o eth+ -j DROP",
        "! -d 10.0.3.0/24 -p tcp -m tcp ! --dport 80 -j DROP",
        "-p tcp -m multiport --dports 22,8000:9000 -j DROP",
        "-p tcp -m multiport --ports 40000 -j DROP",
        "-p tcp -m tcp --sport 1024: --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        "-m conntrack --ctstate INVALID,NEW -j DROP",
        "-m comment --comment \"not -d 1.2.3.4 \\\" really\" -j DROP",
        "-m iprange --dst-range 10.0.2.1-10.0.2.9 -j REJECT --reject-with tcp-reset",
        // What is not known may be.
        "-m mark --mark 0x1 -j DROP",
        "-m owner ! --uid-owner 0 -j DROP",
        "-m socket -j DROP",
        "-m state --state INVALID -j DROP",
    ];
    for rule in fits {
        assert_eq!(output(&[rule]), ["filter OUTPUT 1"], "{rule}");
    }
    let others = [
        "-p udp -j DROP",
        "-d 10.0.3.0/24 -j DROP",
        "! -s 10.0.1.2/32 -j DROP",
        "-p tcp -m tcp --dport 8081 -j DROP",
        "-p tcp -m multiport ! --dports 8080 -j DROP",
        "-o eth1 -j DROP",
        "-m conntrack --ctstate ESTABLISHED -j DROP",
        "-p tcp -m tcp --tcp-flags SYN,ACK ACK -j DROP",
        "-p tcp -m tcp --dport 8080 -j LOG",
        "-p tcp -m tcp --dport 8080",
        "-d 10.0.3.1/32 -m mark --mark 0x1 -j DROP",
    ];
    for rule in others {
        assert_eq!(output(&[rule]), [""; 0], "{rule}");
    }
}

#[test]
fn what_comes_before_a_rule_decides() {
    assert_eq!(output(&["-p tcp -j ACCEPT", "-j DROP"]), [""; 0]);
    assert_eq!(output(&["-p tcp -j DROP", "-j DROP"]), ["filter OUTPUT 1"], "the second never sees it");
    assert_eq!(
        output(&["-m mark --mark 0x1 -j DROP", "-p tcp -j DROP"]),
        ["filter OUTPUT 1", "filter OUTPUT 2"]
    );
    assert_eq!(output(&["-m mark --mark 0x1 -j ACCEPT", "-p tcp -j DROP"]), ["filter OUTPUT 2"]);
    assert_eq!(output(&["-p tcp -j RETURN", "-p tcp -j DROP"]), [""; 0]);
}

#[test]
fn chains_of_the_user_are_walked() {
    let table =
        |rules: &str| format!("*filter\n:OUTPUT DROP [3:4]\n:mine - [0:0]\n:deep - [0:0]\n{rules}COMMIT\n");
    let of = |rules: &str| saved(&table(rules), Hook::Output);
    let deep = "-A mine -p tcp -j deep\n-A mine -j ACCEPT\n-A deep -p udp -j ACCEPT\n-A deep -j DROP\n";
    assert_eq!(of(&format!("-A OUTPUT -j mine\n{deep}")), ["filter deep 2"]);
    assert_eq!(of(&format!("-A OUTPUT -p udp -j mine\n{deep}")), ["filter OUTPUT policy"]);
    assert_eq!(
        of("-A OUTPUT -j mine\n-A mine -p tcp -j RETURN\n-A mine -j ACCEPT\n"),
        ["filter OUTPUT policy"]
    );
    assert_eq!(
        of("-A OUTPUT -g mine\n-A OUTPUT -j ACCEPT\n-A mine -p udp -j DROP\n"),
        ["filter OUTPUT policy"]
    );
    assert_eq!(of("-A OUTPUT -j mine\n-A OUTPUT -j ACCEPT\n-A mine -p udp -j DROP\n"), [""; 0]);
    assert_eq!(of("-A OUTPUT -j mine\n-A mine -j mine\n").len(), 1, "a loop has an end");
}

#[test]
fn tables_come_in_the_order_of_their_priorities() {
    let saved_all = "*filter\n:OUTPUT ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n\
                     *raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m mark --mark 0x1 -j DROP\nCOMMIT\n";
    assert_eq!(saved(saved_all, Hook::Output), ["raw OUTPUT 1", "filter OUTPUT 1"]);
    assert_eq!(saved(saved_all, Hook::Input), ["filter INPUT 1"]);
    assert_eq!(saved(saved_all, Hook::Forward), [""; 0]);
}

#[test]
fn counters_and_comments_are_read() {
    let text = "*filter\n:OUTPUT DROP [7:420]\n[0:0] -A OUTPUT -m mark --mark 0x1 -j DROP\n[5:300] -A OUTPUT -m mark --mark 0x2 \
                -m comment --comment \"two words\" -j REJECT\nCOMMIT\n";
    let found = xtables::parse(text, "ip").candidates(&Subject { packet: &v4(), hook: Hook::Output });
    let packets: Vec<_> = found.iter().map(|found| found.packets).collect();
    assert_eq!(packets, [Some(0), Some(5), Some(7)]);
    let rule = found[1].rule.as_ref().unwrap();
    assert_eq!((rule.comment.as_deref(), found[1].rejects), (Some("two words"), true));
    assert!(rule.text.starts_with("-A OUTPUT -m mark"), "{}", rule.text);
}

/// Of table `inet fw`, chain `c` at the output hook with these rules, what may have dropped a packet.
fn listed(rules: &[serde_json::Value], more: &[serde_json::Value], packet: &Packet) -> Vec<String> {
    let mut objects = vec![
        json!({"table": {"family": "inet", "name": "fw", "handle": 1}}),
        json!({"chain": {"family": "inet", "table": "fw", "name": "c", "hook": "output", "prio": 0, "policy": "accept"}}),
        json!({"chain": {"family": "inet", "table": "fw", "name": "sub"}}),
        json!({"rule": {"family": "inet", "table": "fw", "chain": "sub", "expr": [{"drop": null}]}}),
    ];
    objects.extend(more.iter().cloned());
    for (index, expr) in rules.iter().enumerate() {
        objects.push(json!({"rule": {"family": "inet", "table": "fw", "chain": "c", "handle": index + 10, "expr": expr}}));
    }
    names(&nft::parse(json!({ "nftables": objects })), &Subject { packet, hook: Hook::Output })
}

fn equal(left: serde_json::Value, right: serde_json::Value) -> serde_json::Value {
    json!([{"match": {"op": "==", "left": left, "right": right}}, {"drop": null}])
}

#[test]
fn what_nft_lists_is_compared() {
    let payload = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let port = || payload("tcp", "dport");
    let set = json!({"set": {"family": "inet", "table": "fw", "name": "s", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}});
    let moving = json!({"set": {"family": "inet", "table": "fw", "name": "m", "flags": ["timeout"]}});
    let sets = [set, moving];
    let fits = [
        equal(port(), json!(8080)),
        equal(port(), json!({"set": [22, {"range": [8000, 9000]}]})),
        equal(payload("ip", "daddr"), json!({"prefix": {"addr": "10.0.2.0", "len": 24}})),
        equal(payload("ip", "saddr"), json!("@s")),
        equal(payload("ip", "saddr"), json!("@m")),
        equal(payload("th", "dport"), json!(8080)),
        equal(json!({"meta": {"key": "l4proto"}}), json!({"set": ["tcp", "udp"]})),
        equal(json!({"meta": {"key": "nfproto"}}), json!("ipv4")),
        equal(json!({"meta": {"key": "oifname"}}), json!("eth*")),
        equal(json!({"meta": {"key": "mark"}}), json!(5)),
        equal(json!({"fib": {"result": "type"}}), json!("local")),
        equal(json!({"ct": {"key": "state"}}), json!(["new", "invalid"])),
        equal(json!({"&": [payload("tcp", "flags"), ["syn", "ack"]]}), json!("syn")),
        equal(
            json!({"concat": [payload("ip", "daddr"), port()]}),
            json!({"set": [{"concat": ["10.0.2.2", 8080]}]}),
        ),
        json!([{"match": {"op": "!=", "left": port(), "right": 22}}, {"drop": null}]),
        json!([{"match": {"op": ">=", "left": port(), "right": 1024}}, {"drop": null}]),
        json!([{"limit": {"rate": 1}}, {"drop": null}]),
        json!([{"counter": {"packets": 3}}, {"log": null}, {"reject": null}]),
        json!([{"of the future": {}}, {"drop": null}]),
    ];
    for rule in fits {
        assert_eq!(listed(std::slice::from_ref(&rule), &sets, &v4()), ["fw c 1"], "{rule}");
    }
    let others = [
        equal(port(), json!(8081)),
        equal(payload("udp", "dport"), json!(8080)),
        equal(payload("ip6", "daddr"), json!("fd00::1")),
        equal(payload("ip", "saddr"), json!({"range": ["10.0.2.0", "10.0.2.9"]})),
        equal(json!({"meta": {"key": "oifname"}}), json!({"set": ["eth1", "lo"]})),
        equal(json!({"meta": {"key": "iifname"}}), json!("eth0")),
        equal(json!({"ct": {"key": "state"}}), json!("established")),
        json!([{"match": {"op": "!=", "left": port(), "right": {"range": [1, 9999]}}}, {"drop": null}]),
        json!([{"match": {"op": "!=", "left": payload("udp", "dport"), "right": 1}}, {"drop": null}]),
        json!([{"accept": null}]),
        json!([{"counter": null}]),
    ];
    for rule in others {
        assert_eq!(listed(std::slice::from_ref(&rule), &sets, &v4()), [""; 0], "{rule}");
    }
}

#[test]
fn verdict_maps_lead_on() {
    let key = json!({"payload": {"protocol": "tcp", "field": "dport"}});
    let map = |port: u16, verdict: serde_json::Value| json!([{"vmap": {"key": key, "data": {"set": [[22, {"accept": null}], [port, verdict]]}}}]);
    let last = || json!([{"drop": null}]);
    let goes = |verdict: serde_json::Value| listed(&[map(8080, verdict), last()], &[], &v4());
    assert_eq!(goes(json!({"drop": null})), ["fw c 1"]);
    assert_eq!(goes(json!({"accept": null})), [""; 0]);
    assert_eq!(goes(json!({"jump": {"target": "sub"}})), ["fw sub 1"]);
    assert_eq!(listed(&[map(80, json!({"drop": null})), last()], &[], &v4()), ["fw c 2"]);
    let named = json!({"map": {"family": "inet", "table": "fw", "name": "m", "elem": [[{"elem": {"val": 8080}}, {"goto": {"target": "sub"}}]]}});
    let by_name = json!([{"vmap": {"key": key, "data": "@m"}}]);
    assert_eq!(listed(&[by_name, last()], &[named], &v4()), ["fw sub 1"]);
}

#[test]
fn families_see_their_own_packets() {
    let of = |family: &str, hook: &str| {
        json!({"nftables": [
            {"table": {"family": family, "name": "fw", "handle": 1}},
            {"chain": {"family": family, "table": "fw", "name": "c", "hook": hook, "prio": 0, "policy": "drop"}},
        ]})
    };
    let six = packet("[fd00::1]:40000", "[fd00::2]:8080");
    let at = |family: &str, hook: Hook, packet: &Packet| {
        names(&nft::parse(of(family, hook.as_str())), &Subject { packet, hook }).len()
    };
    assert_eq!((at("ip", Hook::Output, &v4()), at("ip", Hook::Output, &six)), (1, 0));
    assert_eq!((at("ip6", Hook::Output, &v4()), at("ip6", Hook::Output, &six)), (0, 1));
    assert_eq!((at("inet", Hook::Output, &v4()), at("netdev", Hook::Ingress, &v4())), (1, 1));
    assert_eq!((at("arp", Hook::Output, &v4()), at("netdev", Hook::Output, &v4())), (0, 0));
}

#[test]
fn whatever_is_listed_is_survived() {
    let packet = v4();
    let subject = Subject { packet: &packet, hook: Hook::Output };
    for text in [
        "",
        "*",
        ":",
        "*filter\n:",
        "*filter\n-A",
        "*filter\n:OUTPUT DROP\n[x] -A OUTPUT -j",
        "-A OUTPUT ! -j \"",
        "*f\n:OUTPUT - \n-A OUTPUT -s",
    ] {
        xtables::parse(text, "ip").candidates(&subject);
    }
    for value in [
        json!(null),
        json!([]),
        json!({"nftables": 3}),
        json!({"nftables": [{"rule": {}}, {"table": []}, {"chain": "x"}]}),
    ] {
        nft::parse(value).candidates(&subject);
    }
}

#[test]
fn doubts_stay_doubts() {
    assert_eq!(Fits::Maybe.negated(true), Fits::Maybe);
    assert_eq!(Fits::Yes.and(Fits::Maybe), Fits::Maybe);
    assert_eq!(Fits::No.or(Fits::Maybe), Fits::Maybe);
}

/// Where a SYN of this machine may be sent.
fn sent_to(chains: &Chains) -> Vec<Option<String>> {
    let found = chains.translations(&Subject { packet: &v4(), hook: Hook::Output });
    found.into_iter().map(|found| found.to).collect()
}

#[test]
fn rules_that_give_another_destination() {
    let nft = |rules: serde_json::Value| {
        let mut listing = vec![
            json!({"table": {"family": "ip", "name": "t", "handle": 1}}),
            json!({"chain": {"family": "ip", "table": "t", "name": "c", "handle": 1, "type": "nat",
                "hook": "output", "prio": -100, "policy": "accept"}}),
        ];
        for rule in rules.as_array().unwrap() {
            listing.push(
                json!({"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": rule}}),
            );
        }
        sent_to(&nft::parse(json!({ "nftables": listing })))
    };
    let port = |number: u16| json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": number}});
    let dnat = json!({"dnat": {"addr": "10.0.9.9", "port": 80}});
    let some = |text: &str| vec![Some(text.to_owned())];
    assert_eq!(nft(json!([[port(8080), dnat]])), some("10.0.9.9:80"));
    assert_eq!(nft(json!([[port(8081), dnat]])), []);
    assert_eq!(nft(json!([[port(8080), {"return": null}], [dnat]])), []);
    assert_eq!(nft(json!([[{"redirect": {"port": 8081}}], [dnat]])), some(":8081"), "the first decides");
    assert_eq!(nft(json!([[{"dnat": {"addr": "fd00::9", "port": 80}}]])), some("[fd00::9]:80"));
    assert_eq!(nft(json!([[{"dnat": {"addr": "10.0.9.9"}}]])), some("10.0.9.9"));
    assert_eq!(nft(json!([[{"dnat": {"addr": {"map": {}}, "port": 80}}]])), [None]);
    assert_eq!(nft(json!([[{"xt": {"type": "target", "name": "DNAT"}}]])), [None]);
    assert_eq!(nft(json!([[{"masquerade": null}]])), []);

    let saved = |rules: &str| {
        let text = format!("*nat\n:OUTPUT ACCEPT [0:0]\n:SVC - [0:0]\n{rules}COMMIT\n");
        sent_to(&xtables::parse(&text, "ip"))
    };
    let jump = "-A OUTPUT -d 10.0.2.2/32 -p tcp -m tcp --dport 8080 -j SVC\n";
    let to = |to: &str| format!("{jump}-A SVC -p tcp -j DNAT --to-destination {to}\n");
    assert_eq!(saved(&to("10.0.9.9:80")), some("10.0.9.9:80"));
    assert_eq!(saved(&to("10.0.9.1-10.0.9.9")), [None]);
    assert_eq!(saved("-A SVC -p tcp -j DNAT --to-destination 10.0.9.9:80\n"), []);
    assert_eq!(saved("-A OUTPUT -p tcp -j REDIRECT --to-ports 8081\n"), some(":8081"));
    assert_eq!(saved("-A OUTPUT -p udp -j REDIRECT --to-ports 8081\n"), []);
}
