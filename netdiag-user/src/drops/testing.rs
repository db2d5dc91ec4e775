//! Drops for tests.

use super::reasons::class;
use super::{Dropped, Way, Whose};
use crate::probes::{Direction, DropRule, Owner, Packet, Tuple, protocol};
use crate::track::Hook;

/// A SYN to 10.0.2.2:8080 that this reason ended in this function.
pub(crate) fn dropped(reason: &str, symbol: &str) -> Dropped {
    let tuple = Tuple {
        protocol: protocol::TCP,
        source: "10.0.1.2:40000".parse().unwrap(),
        destination: "10.0.2.2:8080".parse().unwrap(),
    };
    let packet = Packet {
        tuple,
        flags: 2,
        code: 0,
        ttl: 64,
        direction: Direction::Ingress,
        seq: 1,
        ifindex: 2,
        iif: 2,
        interface: "eth0".into(),
        netns: 0xF000_0001,
    };
    let (class, meaning) = class(reason, Some(symbol), &tuple);
    Dropped {
        time_ns: 1_000_000_000,
        reason: 12,
        reason_name: reason.to_owned(),
        symbol: Some(symbol.to_owned()),
        hook: None,
        class,
        meaning,
        packet,
        netns_name: Some("web".to_owned()),
        way: Way::Inbound,
        whose: Whose::Nobody,
        rule: None,
        rule_looked_up: true,
        suppressed: 0,
        limit_key: 7,
    }
}

/// By the rule with this handle, on its way through.
pub(crate) fn by_rule(handle: u64) -> Dropped {
    let rule = DropRule {
        family: "inet".into(),
        table: "fw".into(),
        chain: "c".into(),
        handle: Some(handle),
        text: Some("tcp dport 8080 drop".into()),
        ..DropRule::default()
    };
    Dropped {
        hook: Some(Hook::Forward),
        way: Way::Forwarded,
        rule: Some(Box::new(rule)),
        ..dropped("NETFILTER_DROP", "nft_do_chain")
    }
}

pub(crate) fn process(pid: u32, comm: &str) -> Whose {
    Whose::Process(Owner { pid, tid: pid, uid: 0, cgroup: 0, comm: comm.into() })
}
