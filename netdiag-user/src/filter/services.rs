//! Names of services, services(5).

use crate::probes::protocol::{SCTP, TCP, UDP};

/// For machines without /etc/services, such as small containers.
const COMMON_SERVICES: &str = "ssh 22/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nntp 123/udp\n\
    imap2 143/tcp\nldap 389/tcp\nhttps 443/tcp\nhttps 443/udp\nsyslog 514/udp\nmysql 3306/tcp\n\
    postgresql 5432/tcp\nredis 6379/tcp\nhttp-alt 8080/tcp\n";

/// The text of /etc/services, services(5).
pub(super) fn system() -> String {
    match std::fs::read("/etc/services") {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => COMMON_SERVICES.to_owned(),
    }
}

/// The IP protocol numbers and ports of a service by its name or an alias; `table` as in services(5).
pub(super) fn ports(table: &str, name: &str) -> Vec<(u8, u16)> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (Some(service), Some((port, protocol))) =
            (words.next(), words.next().and_then(|entry| entry.split_once('/')))
        else {
            continue;
        };
        let number = match protocol {
            "tcp" => TCP,
            "udp" => UDP,
            "sctp" => SCTP,
            _ => continue,
        };
        if service == name || words.any(|alias| alias == name) {
            found.extend(port.parse().ok().map(|port| (number, port)));
        }
    }
    found
}

/// The names in a table of services(5), without the aliases.
pub(super) fn names(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next())
}
