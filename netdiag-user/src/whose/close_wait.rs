//! Who keeps connections that the peer has closed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::Held;
use super::remarks::{CLOSE_WAIT_OLD, close_wait_at_least};
use crate::enrich::process::Process;

type Peers = HashMap<SocketAddr, u32>;

/// The connections in CLOSE_WAIT of one process in one namespace.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// `None`: they wait for accept().
    pub process: Option<Rc<Process>>,
    pub netns: u64,
    pub netns_name: Option<Rc<str>>,
    pub count: u32,
    /// For a minute and longer, for ten minutes and longer.
    pub over_minute: u32,
    pub over_ten_minutes: u32,
    /// How long the oldest is in that state, at least.
    pub oldest: Duration,
    /// Peers, most connections first.
    pub peers: Vec<(SocketAddr, u32)>,
}

impl Keeper {
    /// Whether some of them are no accident.
    pub fn leaks(&self) -> bool {
        self.over_minute > 0
    }
}

/// Groups the sockets that are in CLOSE_WAIT, most first.
pub fn keepers<'a>(sockets: impl Iterator<Item = &'a Held>) -> Vec<Keeper> {
    const TEN_MINUTES: Duration = Duration::from_secs(600);
    let mut keepers: HashMap<(Option<u32>, u64), (Keeper, Peers)> = HashMap::new();
    for held in sockets {
        let Some(age) = close_wait_at_least(held) else { continue };
        let process = held.holders.first();
        let fresh = || Keeper {
            process: process.cloned(),
            netns: held.netns,
            netns_name: held.netns_name.clone(),
            count: 0,
            over_minute: 0,
            over_ten_minutes: 0,
            oldest: Duration::ZERO,
            peers: Vec::new(),
        };
        let key = (process.map(|process| process.pid), held.netns);
        let (keeper, peers) = keepers.entry(key).or_insert_with(|| (fresh(), Peers::new()));
        keeper.count += 1;
        keeper.over_minute += u32::from(age >= CLOSE_WAIT_OLD);
        keeper.over_ten_minutes += u32::from(age >= TEN_MINUTES);
        keeper.oldest = keeper.oldest.max(age);
        *peers.entry(held.socket.peer).or_default() += 1;
    }
    let finished = keepers.into_values().map(|(mut keeper, peers)| {
        keeper.peers = peers.into_iter().collect();
        keeper.peers.sort_by_key(|(peer, count)| (std::cmp::Reverse(*count), *peer));
        keeper
    });
    let mut finished: Vec<Keeper> = finished.collect();
    finished.sort_by_key(|keeper| {
        let pid = keeper.process.as_ref().map(|process| process.pid);
        (std::cmp::Reverse(keeper.count), pid, keeper.netns)
    });
    finished
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;
    use crate::enrich::sockets::{Family, Protocol, SocketInfo, State};
    use crate::enrich::tcp_info::TcpInfo;

    fn held(state: State, pid: u32, peer: &str, ms: u32) -> Held {
        let tcp = Some(TcpInfo { last_ack_recv_ms: ms, ..TcpInfo::default() });
        let peer = peer.parse().unwrap();
        let socket = SocketInfo { tcp, peer, ..SocketInfo::new(Family::Inet, Protocol::Tcp, state) };
        let holders = vec![Rc::new(Process { pid, ..Process::default() })];
        Held { netns: 1, netns_name: None, socket, side: Side::Inbound, holders }
    }

    #[test]
    fn by_process_and_age() {
        let all = [
            held(State::CloseWait, 7, "10.0.0.1:1", 700_000),
            held(State::CloseWait, 7, "10.0.0.2:1", 61_000),
            held(State::CloseWait, 7, "10.0.0.2:1", 10),
            held(State::CloseWait, 8, "10.0.0.1:1", 10),
            held(State::Established, 9, "10.0.0.1:1", 700_000),
        ];
        let keepers = keepers(all.iter());
        assert_eq!(keepers.len(), 2);
        let first = &keepers[0];
        assert_eq!((first.count, first.over_minute, first.over_ten_minutes), (3, 2, 1));
        assert_eq!((first.oldest, first.peers[0].1), (Duration::from_secs(700), 2));
        assert!(first.leaks() && !keepers[1].leaks());
    }
}
