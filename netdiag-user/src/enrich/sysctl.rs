//! Settings and counters of a network namespace.

use std::collections::HashMap;
use std::fs;

use super::error::EnrichError;
use super::netns::{self, NetnsHandle};

/// Reads a sysctl as that network namespace has it, without the line's end.
///
/// `key` is written as sysctl(8) takes it: `net.ipv4.tcp_syncookies`, or with slashes; after a dot, a slash
/// stands for a dot in an interface's name (`net.ipv4.conf.eth0/1.rp_filter`). `None` if there is no such
/// setting, it may not be read, or the namespace cannot be entered.
pub fn read(netns: Option<&NetnsHandle>, key: &str) -> Option<String> {
    let path = path(key).ok()?;
    let text = netns::within(netns, || fs::read_to_string(path)).ok()?.ok()?;
    Some(text.trim_end().to_owned())
}

fn path(key: &str) -> Result<String, EnrichError> {
    let dotted = match key.find(['.', '/']) {
        Some(separator) => key.as_bytes()[separator] == b'.',
        None => false,
    };
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let relative: String = if dotted { key.chars().map(swap).collect() } else { key.to_owned() };
    if relative.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return Err(EnrichError::BadKey(key.to_owned()));
    }
    Ok(format!("/proc/sys/{relative}"))
}

/// The counters of a network namespace since it was made: `TcpExt.ListenOverflows`, `Tcp.AttemptFails`,
/// `Ip.OutNoRoutes` and so on from `/proc/net/netstat` and `/proc/net/snmp`, and those of `/proc/net/snmp6` by
/// the names that they have there (`Ip6OutNoRoutes`). Empty if the namespace cannot be entered.
///
/// Fields that are no counters and may be negative (`Tcp.MaxConn`) are left out when they are.
pub fn netstat(netns: Option<&NetnsHandle>) -> HashMap<String, u64> {
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let Ok((tables, v6)) = netns::within(netns, || (read("netstat") + &read("snmp"), read("snmp6"))) else {
        return HashMap::new();
    };
    let mut counters = HashMap::new();
    parse_tables(&tables, &mut counters);
    for line in v6.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            counters.insert(name.to_owned(), value);
        }
    }
    counters
}

/// Pairs of lines: `TcpExt: NAME NAME...` and `TcpExt: VALUE VALUE...`.
fn parse_tables(text: &str, counters: &mut HashMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((group, names)), Some((same, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            return;
        };
        if group != same {
            return;
        }
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}.{name}"), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNetns;
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/mtu").unwrap(), "/proc/sys/net/ipv4/conf/eth0.1/mtu");
        assert_eq!(path("net.ipv4.conf.eth0/1.mtu").unwrap(), "/proc/sys/net/ipv4/conf/eth0.1/mtu");
        for bad in ["", "net..x", "net/../x", "net.//.x", "/net", "net/"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_namespace_has_its_own() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        netns::enter(&handle, || fs::write(file, "40000 40007")).unwrap().unwrap();
        let key = "net.ipv4.ip_local_port_range";
        assert_eq!(read(Some(&handle), key).as_deref(), Some("40000\t40007"));
        assert_ne!(read(None, key), read(Some(&handle), key));
        assert_eq!(read(Some(&handle), "net.ipv4.no_such_key"), None);
        assert_eq!(read(Some(&handle), "net.ipv4.conf.no-such/1.rp_filter"), None);
    }

    #[test]
    fn counters_of_a_namespace() {
        let netns = TestNetns::new();
        let handle = netns.handle();
        let before = netstat(Some(&handle));
        assert_eq!(before["TcpExt.ListenOverflows"], 0);
        assert_eq!(before["Tcp.ActiveOpens"], 0);
        netns::enter(&handle, || std::net::TcpStream::connect("127.0.0.1:1").unwrap_err()).unwrap();
        let after = netstat(Some(&handle));
        assert_eq!(after["Tcp.ActiveOpens"], 1);
        assert_eq!(after["Tcp.AttemptFails"], 1);
        assert!(after.contains_key("Ip6InReceives"));
        assert!(!after.contains_key("Tcp.MaxConn"));
    }

    #[test]
    fn odd_tables_are_skipped() {
        let mut counters = HashMap::new();
        parse_tables("A: x y\nA: 1\nB: z\nC: 1\n", &mut counters);
        assert_eq!(counters, HashMap::from([("A.x".to_owned(), 1)]));
    }
}
