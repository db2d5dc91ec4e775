//! Words that several diagnoses and the output use alike.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

use super::Evidence;
use crate::track::Place;

/// `ECONNREFUSED`, or `errno 4711` where there is no name.
pub fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

/// "5.0 s", "230 ms", "0.4 ms", "2 min 7 s".
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s >= 60.0 => format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.001 => format!("{:.0} ms", s * 1000.0),
        s => format!("{:.1} ms", s * 1000.0),
    }
}

/// "20,431"
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "timed out after 5.0 s (ETIMEDOUT)", or "gave up after 5.0 s" where the application got no error.
pub fn how_it_ended(evidence: &Evidence) -> String {
    let after = duration(evidence.connection.duration());
    match evidence.connection.errno {
        Some(libc::ETIMEDOUT) => format!("timed out after {after}"),
        Some(errno) => format!("failed with {} after {after}", errno_name(errno)),
        None => format!("gave up after {after}"),
    }
}

/// `ip netns exec NAME ` for a command that must run in another, named namespace; empty otherwise.
pub fn in_netns(name: Option<&str>) -> String {
    name.map(|name| format!("ip netns exec {name} ")).unwrap_or_default()
}

/// `-4` or `-6`, for tools that need to be told.
pub fn family_flag(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "-4" } else { "-6" }
}

/// `ss` and `tcpdump` take an IPv6 address in brackets only with a port.
pub fn host_port(address: SocketAddr) -> String {
    address.to_string()
}

/// "namespace `web` " and the like, for sentences; empty for this connection's own namespace.
pub fn netns_phrase(evidence: &Evidence, netns: Option<u32>, name: Option<&str>) -> String {
    match (netns, name) {
        (Some(inode), _) if inode == evidence.connection.netns => String::new(),
        (_, Some(name)) => format!(" in network namespace {name}"),
        (Some(inode), None) => format!(" in network namespace {inode}"),
        (None, None) => String::new(),
    }
}

/// What makes a shell command run in the namespace of `place`; empty where it is this connection's own and
/// has no name.
pub fn enter(evidence: &Evidence, place: &Place) -> String {
    if place.netns_name.is_some() || place.netns == evidence.connection.netns {
        return in_netns(place.netns_name.as_deref());
    }
    let inside = evidence.facts.listeners.iter().flatten().find(|l| l.netns == u64::from(place.netns));
    inside
        .and_then(|listener| listener.processes.first())
        .map(|process| format!("nsenter -t {} -n ", process.pid))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let text = |ms: u64| duration(Duration::from_millis(ms));
        assert_eq!([text(0), text(7), text(5000), text(127_000)], ["0.0 ms", "7 ms", "5.0 s", "2 min 7 s"]);
    }

    #[test]
    fn errnos_have_names() {
        assert_eq!(errno_name(libc::ECONNREFUSED), "ECONNREFUSED");
        assert_eq!(errno_name(4711), "errno 4711");
    }
}
