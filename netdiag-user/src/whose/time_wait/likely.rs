//! Likely owners of sockets in TIME_WAIT whose close was not seen: processes that have to do with the same
//! destination.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use super::{Closer, Whose, destination};
use crate::enrich::holders;
use crate::enrich::listeners::accepts;
use crate::enrich::sockets::State;
use crate::whose::{Held, Side};

/// Namespace, which side, and the end that was connected to.
type Place = (u64, Side, SocketAddr);

fn place(held: &Held) -> Place {
    (held.netns, held.side, destination(held))
}

/// Answers for each place.
#[derive(Debug, Default)]
pub struct Candidates(HashMap<Place, Whose>);

impl Candidates {
    /// For the places of `unowned`: from sockets that are open, from those closed before the eyes of netdiag, and
    /// for connections that came in, from the listener.
    pub(super) fn find<'a>(
        unowned: impl Iterator<Item = &'a Held>,
        open: &[Held],
        waiting: &[(Held, Option<Rc<Closer>>, u64)],
    ) -> Self {
        let mut places: HashMap<Place, BTreeMap<u32, Rc<Closer>>> =
            unowned.map(|held| (place(held), BTreeMap::new())).collect();
        if places.is_empty() {
            return Self::default();
        }
        let of_place = |held: &&Held| places.contains_key(&place(held));
        let listens = |held: &&Held| {
            held.socket.state == State::Listen
                && places.keys().any(|(netns, side, end)| *side == Side::Inbound && takes(held, *netns, *end))
        };
        let wanted: Vec<&Held> = open.iter().filter(|held| of_place(held) || listens(held)).collect();
        let inodes: HashSet<u64> = wanted.iter().map(|held| held.socket.inode).collect();
        let holders = holders::shared_owners_of(&inodes);
        let mut living: HashMap<u32, Rc<Closer>> = HashMap::new();
        let mut closers_of = |held: &Held| -> Vec<Rc<Closer>> {
            let holders = holders.get(&held.socket.inode).into_iter().flatten();
            let closer = |process: &Rc<crate::enrich::process::Process>| {
                Rc::clone(living.entry(process.pid).or_insert_with(|| Rc::new(Closer::living(process))))
            };
            holders.map(closer).collect()
        };
        for (held, closer, _) in waiting {
            if let (Some(closer), Some(found)) = (closer, places.get_mut(&place(held))) {
                found.insert(closer.pid, Rc::clone(closer));
            }
        }
        for held in wanted.iter().filter(|held| held.socket.state != State::Listen) {
            if let Some(found) = places.get_mut(&place(held)) {
                found.extend(closers_of(held).into_iter().map(|closer| (closer.pid, closer)));
            }
        }
        // Who listens is asked only where nothing better is known.
        for ((netns, side, end), found) in &mut places {
            if *side == Side::Inbound && found.is_empty() {
                let listeners = wanted.iter().filter(|held| takes(held, *netns, *end));
                for held in listeners {
                    found.extend(closers_of(held).into_iter().map(|closer| (closer.pid, closer)));
                }
            }
        }
        Self(places.into_iter().map(|(place, found)| (place, answer(found))).collect())
    }

    pub(super) fn whose(&self, held: &Held) -> Whose {
        self.0.get(&place(held)).cloned().unwrap_or_else(|| Whose::Unknown(Rc::default()))
    }
}

fn takes(listener: &Held, netns: u64, end: SocketAddr) -> bool {
    let socket = &listener.socket;
    socket.state == State::Listen
        && listener.netns == netns
        && socket.local.port() == end.port()
        && accepts(socket.local.ip(), socket.v6only, end.ip())
}

/// One process, or several of one name, is likely; of different ones nothing is said.
fn answer(found: BTreeMap<u32, Rc<Closer>>) -> Whose {
    let all: Vec<Rc<Closer>> = found.into_values().collect();
    match all.as_slice() {
        [one] => Whose::Likely(Rc::clone(one)),
        [first, others @ ..] if others.iter().all(|other| other.comm == first.comm) => {
            Whose::Likely(Rc::new(Closer { pid: 0, ..Closer::clone(first) }))
        }
        _ => Whose::Unknown(Rc::new(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closer(pid: u32, comm: &str) -> Rc<Closer> {
        Rc::new(Closer { pid, comm: comm.into(), uid: 0, process: None, cgroup: None, by_kernel: false })
    }

    fn whose(all: &[Rc<Closer>]) -> Whose {
        answer(all.iter().map(|closer| (closer.pid, Rc::clone(closer))).collect())
    }

    #[test]
    fn only_one_name_is_likely() {
        assert!(matches!(whose(&[closer(1, "a")]), Whose::Likely(one) if one.pid == 1));
        assert!(matches!(whose(&[closer(1, "a"), closer(2, "a")]), Whose::Likely(one) if one.pid == 0));
        assert!(matches!(whose(&[closer(1, "a"), closer(2, "b")]), Whose::Unknown(all) if all.len() == 2));
        assert!(matches!(whose(&[]), Whose::Unknown(all) if all.is_empty()));
    }
}
