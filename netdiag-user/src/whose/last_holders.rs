//! Who held a port last, for when nobody does any more.

use std::collections::HashMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use netdiag_ebpf::records::{LastListener, LastListenerKey};
use serde::{Deserialize, Serialize};

use super::{Held, Side};
use crate::enrich::cgroup_ids::CgroupIds;
use crate::enrich::process::{self, Process};
use crate::enrich::sockets::{Protocol, State};
use crate::probes::listeners;

/// Places that are remembered from looking.
const MAX_PLACES: usize = 4096;
/// From here on the kernel gives ports to whoever asks for any: they tell nothing of a service.
const EPHEMERAL: u16 = 32768;

/// A process that listened on a TCP port, or was bound to a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastHolder {
    /// Inode number.
    pub netns: u64,
    pub protocol: Protocol,
    pub local: SocketAddr,
    /// As far as it is known: of one that ended before anybody looked, process id, name and control group.
    pub process: Option<Process>,
    /// Microseconds since 1970, UTC. `None`: before netdiag watched, or not known.
    pub since_us: Option<i64>,
    pub until_us: i64,
    /// The kernel told the end when it happened. Else it is when it was last seen, up to a minute before.
    pub exact: bool,
}

type Place = (u64, Protocol, SocketAddr);

/// What was seen of a place.
#[derive(Debug)]
struct Seen {
    process: Process,
    since_us: Option<i64>,
    until_us: i64,
}

/// Remembers what looking at all sockets shows, and puts it together with what the kernel side has noted.
#[derive(Debug, Default)]
pub struct LastHolders {
    seen: HashMap<Place, Seen>,
    looked: bool,
    cgroups: CgroupIds,
}

impl LastHolders {
    /// Takes over who holds which port now.
    pub fn look(&mut self, sockets: &[Held], now: Timestamp) {
        let until_us = now.as_microsecond();
        let since_us = self.looked.then_some(until_us);
        self.looked = true;
        for held in sockets.iter().filter(|held| holds_a_port(held)) {
            let Some(process) = held.holder() else { continue };
            let fresh = || Seen { process: process.clone(), since_us, until_us };
            let place = (held.netns, held.socket.protocol, held.socket.local);
            let seen = self.seen.entry(place).or_insert_with(fresh);
            if seen.process.pid != process.pid {
                *seen = fresh();
            }
            seen.until_us = until_us;
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if let Some(more) = self.seen.len().checked_sub(MAX_PLACES).filter(|more| *more > 0) {
            let mut ends: Vec<i64> = self.seen.values().map(|seen| seen.until_us).collect();
            let oldest = *ends.select_nth_unstable(more).1;
            self.seen.retain(|_, seen| seen.until_us >= oldest);
        }
    }

    /// Who held the port last in each namespace and at each address, the latest first. Whether somebody holds it now
    /// is not looked at. `noted` is what the kernel side knows of it, `now_ns` the time of its clock.
    pub fn of_port(
        &mut self,
        port: u16,
        noted: &[(LastListenerKey, LastListener)],
        now_ns: u64,
    ) -> Vec<LastHolder> {
        let now_us = Timestamp::now().as_microsecond();
        let at_us = |ns: u64| now_us - (now_ns.saturating_sub(ns) / 1000).cast_signed();
        let mut found: HashMap<Place, LastHolder> = HashMap::new();
        for (key, last) in noted {
            let Some(listened) = listeners::decode(key, last) else { continue };
            let place = (listened.netns, Protocol::Tcp, listened.local);
            let process = listened.owner.map(|owner| self.process(&place, &owner));
            let since_us = (last.since_ns > 0).then(|| at_us(last.since_ns));
            found.insert(place, holder(place, process, since_us, at_us(last.until_ns), true));
        }
        for (place, seen) in self.seen.iter().filter(|((_, _, local), _)| local.port() == port) {
            // The kernel side told of its end, or of one that came after it.
            if found.get(place).is_none_or(|noted| noted.until_us < seen.until_us) {
                let process = Some(seen.process.clone());
                found.insert(*place, holder(*place, process, seen.since_us, seen.until_us, false));
            }
        }
        let mut found: Vec<LastHolder> = found.into_values().collect();
        found.sort_by_key(|holder| (std::cmp::Reverse(holder.until_us), holder.netns, holder.local));
        found
    }

    /// The process as it was seen before it ended; else as it is, if it lives; else what the kernel side has.
    fn process(&mut self, place: &Place, owner: &crate::probes::Owner) -> Process {
        if let Some(seen) = self.seen.get(place).filter(|seen| seen.process.pid == owner.pid) {
            return seen.process.clone();
        }
        let lives = process::of_owner(owner).filter(|process| process.comm == owner.comm.as_str());
        lives.unwrap_or_else(|| {
            let cgroup = self.cgroups.path(owner.cgroup).unwrap_or_default();
            process::ended(owner, &cgroup)
        })
    }
}

fn holder(
    (netns, protocol, local): Place,
    process: Option<Process>,
    since_us: Option<i64>,
    until_us: i64,
    exact: bool,
) -> LastHolder {
    LastHolder { netns, protocol, local, process, since_us, until_us, exact }
}

fn holds_a_port(held: &Held) -> bool {
    let socket = &held.socket;
    match socket.protocol {
        Protocol::Tcp => socket.state == State::Listen,
        Protocol::Udp => held.side == Side::Unconnected && socket.local.port() < EPHEMERAL,
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use jiff::SignedDuration;
    use netdiag_ebpf::records::{Owner, address};

    use super::*;
    use crate::enrich::sockets::{Family, SocketInfo};

    fn held(protocol: Protocol, local: &str, pid: u32, comm: &str) -> Held {
        let state = if protocol == Protocol::Tcp { State::Listen } else { State::Close };
        let local = local.parse().unwrap();
        let socket = SocketInfo { local, ..SocketInfo::new(Family::Inet, protocol, state) };
        let process =
            Process { pid, comm: comm.into(), unit: Some("x.service".into()), ..Process::default() };
        Held { netns: 7, netns_name: None, socket, side: Side::Unconnected, holders: vec![Rc::new(process)] }
    }

    fn noted(local: &str, pid: u32, since_ns: u64, until_ns: u64) -> (LastListenerKey, LastListener) {
        let local: SocketAddr = local.parse().unwrap();
        let key = LastListenerKey {
            address: address(local.ip()),
            netns: 7,
            family: libc::AF_INET as u16,
            port: local.port(),
        };
        let mut owner = Owner { tgid: pid, ..Owner::default() };
        owner.comm[..4].copy_from_slice(b"gone");
        (key, LastListener { since_ns, until_ns, owner })
    }

    /// No process has this number (PID_MAX_LIMIT is 4,194,304).
    const GONE: u32 = 5_000_000;

    #[test]
    fn the_kernel_s_word_goes_before_what_was_seen() {
        let mut holders = LastHolders::default();
        let now = Timestamp::now();
        let minute_ago = now - SignedDuration::from_secs(60);
        holders.look(&[held(Protocol::Tcp, "0.0.0.0:80", GONE, "nginx")], minute_ago);
        let second = 1_000_000_000;
        let last = noted("0.0.0.0:80", GONE, 5 * second, 99 * second);
        let found = holders.of_port(80, &[last], 100 * second);
        let [one] = &found[..] else { panic!("{found:?}") };
        assert!(one.exact && one.since_us.is_some());
        assert!(one.until_us >= now.as_microsecond() - 1_000_000, "{one:?}");
        // What was seen of it while it lived.
        let process = one.process.as_ref().unwrap();
        assert_eq!((process.comm.as_str(), process.unit.as_deref()), ("nginx", Some("x.service")));

        // Another process came after the one that the kernel side told of, and its end was not told.
        holders.look(&[held(Protocol::Tcp, "0.0.0.0:80", GONE + 1, "caddy")], now);
        let old = noted("0.0.0.0:80", GONE, 5 * second, 40 * second);
        let found = holders.of_port(80, &[old], 100 * second);
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.process.as_ref().unwrap().comm.as_str(), one.exact), ("caddy", false));
        assert!(one.since_us.is_some());
    }

    #[test]
    fn one_that_was_never_seen_has_what_the_kernel_told() {
        let mut holders = LastHolders::default();
        let found = holders.of_port(
            80,
            &[noted("10.0.0.1:80", GONE, 0, 50_000), noted("10.0.0.2:80", 0, 0, 60_000)],
            100_000,
        );
        let [nobody, one] = &found[..] else { panic!("{found:?}") };
        let process = one.process.as_ref().unwrap();
        assert_eq!((process.pid, process.comm.as_str(), one.since_us), (GONE, "gone", None));
        assert_eq!((&nobody.process, nobody.local.to_string().as_str()), (&None, "10.0.0.2:80"));
    }

    #[test]
    fn datagram_sockets_are_seen_and_ephemeral_ones_are_not() {
        let mut holders = LastHolders::default();
        let sockets =
            [held(Protocol::Udp, "0.0.0.0:53", 1, "named"), held(Protocol::Udp, "0.0.0.0:40000", 2, "dig")];
        holders.look(&sockets, Timestamp::now());
        assert!(holders.of_port(40000, &[], 0).is_empty());
        let found = holders.of_port(53, &[], 0);
        assert_eq!(
            (found.len(), found[0].protocol, found[0].exact, found[0].since_us),
            (1, Protocol::Udp, false, None)
        );
    }

    #[test]
    fn it_does_not_grow() {
        let mut holders = LastHolders::default();
        for round in 0..5 {
            let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(round);
            let sockets: Vec<Held> = (0..2000)
                .map(|n| held(Protocol::Udp, &format!("10.0.{round}.1:{}", 1000 + n), 1, "x"))
                .collect();
            holders.look(&sockets, at);
        }
        assert!((MAX_PLACES..MAX_PLACES + 2000).contains(&holders.seen.len()), "{}", holders.seen.len());
        assert!(holders.of_port(1000, &[], 0).iter().any(|one| one.local.to_string() == "10.0.4.1:1000"));
    }
}
