//! What was changed while netdiag watched: rules of nftables, routes, routing rules, addresses, links, neighbours.
//!
//! A failure often begins with a change. The kernel tells of changes by netlink, in each network namespace to whom
//! subscribes there, so that only a few namespaces are watched: netdiag's own and those of suspect connections.

mod change;
mod network;
mod ruleset;

pub use change::{Change, ChangeKind, ChangedBy, RuleName};

use std::collections::VecDeque;
use std::fs;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::SockProtocol;

use super::netns::{self, Namespace};
use super::notices::{Notice, Subscription};
use network::Known;
use ruleset::Transaction;

/// Namespaces that are watched at most; each has two sockets.
const MAX_NAMESPACES: usize = 8;
/// A namespace makes no room for others before it was not wanted for so long, and one that could not be watched is not
/// tried again before: both cost a look at all processes.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Namespaces that could not be watched, remembered for that.
const MAX_REFUSED: usize = 64;
/// How often it is looked whether somebody else still has a namespace.
const LOOK_NS: u64 = 1_000_000_000;
/// Changes that are kept, of all namespaces together.
const MAX_CHANGES: usize = 1024;
/// Changes of one namespace that are read in a second; a router with all routes of the Internet has more.
const MAX_A_SECOND: u32 = 500;
const NFNLGRP_NFTABLES: u32 = 7;
/// What the epoll says of a socket of changes; of others something else.
const OF_CHANGES: u64 = 1;

/// A change that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `CLOCK_MONOTONIC`; when it was read, a moment after it happened.
    pub time_ns: u64,
    /// Inode number.
    pub netns: u64,
    pub change: Change,
}

/// One namespace.
#[derive(Debug)]
struct Watched {
    netns: u64,
    /// Who else has it.
    namespace: Namespace,
    /// The last time that somebody asked for it.
    wanted_ns: u64,
    network: Subscription,
    /// `None`: no netfilter there.
    ruleset: Option<Subscription>,
    known: Known,
    transaction: Transaction,
    second: u64,
    in_second: u32,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Changes {
    watched: Vec<Watched>,
    /// Namespaces that could not be watched, and when.
    refused: Vec<(u64, u64)>,
    /// Oldest first.
    seen: VecDeque<Seen>,
    lost: u64,
    looked_ns: u64,
    buffer: Vec<u8>,
    /// Readable when there are changes.
    epoll: Option<Epoll>,
}

impl Changes {
    /// `epoll`: is to tell of changes too.
    pub fn new(epoll: Option<Epoll>) -> Self {
        Self { epoll, ..Self::default() }
    }

    pub fn epoll(&self) -> Option<&Epoll> {
        self.epoll.as_ref()
    }

    /// Watches a namespace (inode number) from now on. The first one is watched for good; of the others the one that was
    /// not wanted for the longest time makes room.
    pub fn watch(&mut self, inode: u64, now_ns: u64) {
        if let Some(known) = self.watched.iter_mut().find(|watched| watched.netns == inode) {
            known.wanted_ns = now_ns;
            return;
        }
        let is_recent = |time_ns: u64| time_ns.saturating_add(PATIENCE_NS) > now_ns;
        self.refused.retain(|(_, time_ns)| is_recent(*time_ns));
        if self.refused.iter().any(|(netns, _)| *netns == inode) {
            return;
        }
        let others = self.watched.iter().enumerate().skip(1);
        let oldest = others.min_by_key(|(_, watched)| watched.wanted_ns);
        let oldest = oldest.map(|(index, watched)| (index, watched.wanted_ns));
        let room = (self.watched.len() >= MAX_NAMESPACES).then_some(oldest).flatten();
        if room.is_some_and(|(_, wanted_ns)| is_recent(wanted_ns)) {
            return;
        }
        let Some(begun) = Watched::begin(inode, now_ns) else {
            if self.refused.len() < MAX_REFUSED {
                self.refused.push((inode, now_ns));
            }
            return;
        };
        if let Some((index, _)) = room {
            self.watched.remove(index);
        }
        if let Some(epoll) = &self.epoll {
            // Without it changes are read with the next record.
            for subscription in std::iter::once(&begun.network).chain(&begun.ruleset) {
                let _ = epoll.add(subscription, EpollEvent::new(EpollFlags::EPOLLIN, OF_CHANGES));
            }
        }
        self.watched.push(begun);
    }

    /// Reads what has changed, and gives the namespaces that were let go. One system call if nothing has changed.
    pub fn poll(&mut self, now_ns: u64) -> Vec<u64> {
        let gone = self.let_go(now_ns);
        if !self.is_ready() {
            return gone;
        }
        for watched in &mut self.watched {
            let (changes, lost) = watched.take(&mut self.buffer, now_ns);
            self.lost += lost;
            for change in changes {
                if self.seen.len() >= MAX_CHANGES {
                    self.seen.pop_front();
                }
                self.seen.push_back(Seen { time_ns: now_ns, netns: watched.netns, change });
            }
        }
        gone
    }

    /// A socket keeps its namespace alive, and the interfaces there: one that nobody else has is let go.
    fn let_go(&mut self, now_ns: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        if now_ns.saturating_sub(self.looked_ns) < LOOK_NS {
            return gone;
        }
        self.looked_ns = now_ns;
        let mut number = 0;
        self.watched.retain_mut(|watched| {
            number += 1;
            let keep = number == 1 || watched.is_used();
            if !keep {
                gone.push(watched.netns);
            }
            keep
        });
        gone
    }

    fn is_ready(&self) -> bool {
        let mut events = [EpollEvent::empty(); 2 * MAX_NAMESPACES + 1];
        let ready = self.epoll.as_ref().map(|epoll| epoll.wait(&mut events, EpollTimeout::ZERO));
        match ready {
            Some(Ok(count)) => events[..count].iter().any(|event| event.data() == OF_CHANGES),
            _ => true,
        }
    }

    /// Oldest first.
    pub fn seen(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.seen.iter()
    }

    /// How often changes were lost: how many each time, the kernel does not say.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Watched {
    /// `None`: the namespace is gone, or cannot be entered.
    fn begin(inode: u64, now_ns: u64) -> Option<Self> {
        let namespace = netns::locate(inode)?;
        let handle = namespace.open()?;
        let begin = || {
            // First the subscription, then the state: nothing falls between.
            let network = Subscription::new(SockProtocol::NetlinkRoute, network::GROUPS).ok()?;
            let ruleset = Subscription::new(SockProtocol::NetlinkNetFilter, &[NFNLGRP_NFTABLES]).ok();
            Some((network, ruleset, Known::read()))
        };
        let (network, ruleset, known) = netns::enter(&handle, begin).ok()??;
        let transaction = Transaction::default();
        Some(Self {
            netns: inode,
            namespace,
            wanted_ns: now_ns,
            network,
            ruleset,
            known,
            transaction,
            second: 0,
            in_second: 0,
        })
    }

    /// Whether it has a name, or a process lives in it.
    fn is_used(&mut self) -> bool {
        if self.namespace.open().is_none() {
            let Some(namespace) = netns::locate(self.netns) else { return false };
            self.namespace = namespace;
        }
        true
    }

    fn take(&mut self, buffer: &mut Vec<u8>, now_ns: u64) -> (Vec<Change>, u64) {
        let mut changes = Vec::new();
        let mut lost = 0;
        if now_ns / 1_000_000_000 != self.second {
            (self.second, self.in_second) = (now_ns / 1_000_000_000, 0);
        }
        let (known, in_second) = (&mut self.known, &mut self.in_second);
        let mut over = false;
        let of_network = self.network.take(buffer, &mut |notice| {
            if *in_second >= MAX_A_SECOND {
                over = true;
            } else if let Some(mut change) = known.change(&notice) {
                *in_second += 1;
                change.by = by_port(&notice);
                changes.push(change);
            }
        });
        if of_network || over {
            lost += 1;
            changes.push(Change::new(ChangeKind::ChangesLost, "routes, addresses and links"));
            // What is known may be wrong now; it is read again where that is allowed.
            if let Some(handle) = netns::find(self.netns)
                && let Ok(again) = netns::enter(&handle, Known::read)
            {
                self.known = again;
            }
        }
        let transaction = &mut self.transaction;
        let of_ruleset = self.ruleset.as_ref().is_some_and(|ruleset| {
            ruleset.take(buffer, &mut |notice| changes.extend(transaction.add(&notice)))
        });
        if of_ruleset {
            lost += 1;
            changes.push(Change::new(ChangeKind::ChangesLost, "the ruleset"));
        }
        (changes, lost)
    }
}

/// By custom the first netlink socket of a process has its process id for a port; believed if there is such a process.
fn by_port(notice: &Notice<'_>) -> Option<ChangedBy> {
    let pid = notice.port;
    if pid == 0 || i32::try_from(pid).is_err() {
        return None;
    }
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(ChangedBy { pid, comm: comm.trim_end().to_owned() })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
