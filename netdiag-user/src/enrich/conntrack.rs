//! The connection tracking table of a network namespace.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::facts::{ConntrackFact, TrackedFact};
use super::netlink::{self, Attributes, Request, Socket, u8_at};
use super::{netns, sysctl};
use crate::probes::Tuple;

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

/// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const CT_GET: u16 = 1 << 8 | 1;
const NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// `struct nfgenmsg`
const HEADER: usize = 4;
/// `enum tcp_conntrack`
const STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// What is known of this flow, of either direction, in this namespace (inode number) now. `None`: it cannot be told.
///
/// The kernel may load the module that answers (nf_conntrack_netlink): not to be asked where it is not there.
pub fn tracked(inode: u64, tuple: &Tuple) -> Option<TrackedFact> {
    let handle = netns::find(inode)?;
    let is_set = |key| Some(sysctl::read(None, key)? != "0");
    let look = || {
        let settings = ["net.netfilter.nf_conntrack_checksum", "net.netfilter.nf_conntrack_tcp_be_liberal"];
        Some((find(tuple)?, settings.map(is_set)))
    };
    let (found, [checksums, liberal]) = netns::enter(&handle, look).ok()??;
    Some(TrackedFact { netns: inode, known: found.is_some(), state: found.flatten(), checksums, liberal })
}

/// Whether connections are tracked in this namespace (inode number) now.
pub fn has_entries(inode: u64) -> bool {
    let count = || netns::find(inode).and_then(|handle| sysctl::read(Some(&handle), COUNT));
    count().is_some_and(|count| count != "0")
}

/// What NAT makes of this flow, as it leaves this namespace (inode number). `None` also where it makes nothing of it, or
/// there is no entry (yet: a packet that is dropped on its way out leaves none).
///
/// To be asked as [`tracked`] is.
pub fn translated(inode: u64, tuple: &Tuple) -> Option<Tuple> {
    let handle = netns::find(inode)?;
    let look = || look_up(tuple, |payload| reply(payload, tuple));
    let answer = netns::enter(&handle, look).ok()???.reversed();
    (answer != *tuple).then_some(answer)
}

/// The flow of the answers.
fn reply(payload: &[u8], asked: &Tuple) -> Option<Tuple> {
    let reply = Attributes::at(payload, HEADER).value(CTA_TUPLE_REPLY)?;
    let addresses = Attributes::at(Attributes::at(reply, 0).value(CTA_TUPLE_IP)?, 0);
    let ports = Attributes::at(Attributes::at(reply, 0).value(CTA_TUPLE_PROTO)?, 0);
    let first = first_address(asked);
    let end = |address, port| {
        let port = u16::from_be_bytes(ports.value(port)?.try_into().ok()?);
        Some(SocketAddr::new(netlink::ip(addresses.value(address)?)?, port))
    };
    Some(Tuple {
        protocol: asked.protocol,
        source: end(first, CTA_PROTO_SRC_PORT)?,
        destination: end(first + 1, CTA_PROTO_DST_PORT)?,
    })
}

/// The entry's state, in the caller's namespace: `Some(None)` where there is no entry.
fn find(tuple: &Tuple) -> Option<Option<Option<String>>> {
    look_up(tuple, |payload| Some(state(payload)))
}

/// What `read` makes of the entry, in the caller's namespace: `Some(None)` where there is none.
fn look_up<T>(tuple: &Tuple, read: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    let header = [netlink::family(tuple.source.ip()), 0, 0, 0];
    let request = Request::new("look up a connection", CT_GET, &header)
        .attribute(CTA_TUPLE_ORIG | NESTED, &attributes(tuple));
    match Socket::netfilter(None).ok()?.get(&request, read) {
        Ok(entry) => Some(entry),
        Err(error) if error.netlink_errno() == Some(libc::ENOENT) => Some(None),
        Err(_) => None,
    }
}

fn attributes(tuple: &Tuple) -> Vec<u8> {
    let address = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let first = first_address(tuple);
    let ends = [
        netlink::attribute(first, &address(tuple.source)),
        netlink::attribute(first + 1, &address(tuple.destination)),
    ];
    let protocol = [
        netlink::attribute(CTA_PROTO_NUM, &[tuple.protocol]),
        netlink::attribute(CTA_PROTO_SRC_PORT, &tuple.source.port().to_be_bytes()),
        netlink::attribute(CTA_PROTO_DST_PORT, &tuple.destination.port().to_be_bytes()),
    ];
    let nested = [
        netlink::attribute(CTA_TUPLE_IP | NESTED, &ends.concat()),
        netlink::attribute(CTA_TUPLE_PROTO | NESTED, &protocol.concat()),
    ];
    nested.concat()
}

/// CTA_IP_V4_SRC, _DST, then those of IPv6.
fn first_address(tuple: &Tuple) -> u16 {
    if tuple.source.is_ipv4() { 1 } else { 3 }
}

fn state(payload: &[u8]) -> Option<String> {
    let info = Attributes::at(payload, HEADER).value(CTA_PROTOINFO)?;
    let tcp = Attributes::at(info, 0).value(CTA_PROTOINFO_TCP)?;
    let number = u8_at(Attributes::at(tcp, 0).value(CTA_PROTOINFO_TCP_STATE)?, 0)?;
    STATES.get(usize::from(number)).map(|name| (*name).to_owned())
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

    #[test]
    fn a_translated_flow_is_found_by_what_was_asked_for() {
        let netns = TestNetns::new();
        let inode = netns.handle().inode();
        netns.run("ip link set lo up");
        netns.run("nft add table ip t");
        netns.run("nft add chain ip t c { type nat hook output priority -100; }");
        netns.run("nft add rule ip t c ip daddr 127.0.0.9 tcp dport 80 dnat to 127.0.0.1:47300");
        let connect = |to: &str| {
            let socket = std::net::TcpStream::connect(to).unwrap();
            let ends = (socket.local_addr().unwrap(), to.parse().unwrap());
            (socket, Tuple { protocol: crate::probes::protocol::TCP, source: ends.0, destination: ends.1 })
        };
        let open = netns::enter(&netns.handle(), || {
            let listener = std::net::TcpListener::bind("127.0.0.1:47300").unwrap();
            (listener, connect("127.0.0.9:80"), connect("127.0.0.1:47300"))
        });
        let (_listener, (_one, asked), (_other, plain)) = open.unwrap();
        if !has_entries(inode) {
            println!("SKIP: no connection tracking on this machine");
            return;
        }
        let backend = Tuple { destination: "127.0.0.1:47300".parse().unwrap(), ..asked };
        assert_eq!(translated(inode, &asked), Some(backend));
        assert_eq!(translated(inode, &plain), None, "NAT makes nothing of it");
        let unknown = Tuple { source: "127.0.0.1:1".parse().unwrap(), ..asked };
        assert_eq!(translated(inode, &unknown), None);
        assert!(!has_entries(1));
    }
}
