//! Sockets in TIME_WAIT as a table.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use smol_str::SmolStr;

use super::{Closer, RATE_OVER, Waiting, Whose, destination};

/// What rows are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Process,
    Destination,
    Netns,
    Container,
}

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A process that lives.
    Living(u32),
    /// Processes of this name, in this container or unit, that have ended.
    Ended(SmolStr, Option<String>),
    /// One of several processes of this name.
    Several(SmolStr),
    Unknown,
    Destination(SocketAddr),
    Netns,
    /// `None`: in no container.
    Container(Option<String>),
}

/// A row.
#[derive(Debug, Clone)]
pub struct Row {
    pub key: Key,
    /// `None` where rows are not by namespace.
    pub netns: Option<(u64, Option<Rc<str>>)>,
    /// One of the processes.
    pub closer: Option<Rc<Closer>>,
    /// How many processes.
    pub processes: usize,
    pub count: u64,
    /// Those of them whose close was seen.
    pub exact: u64,
    /// New ones a second.
    pub rate: f64,
    /// Most sockets first.
    pub destinations: Vec<(SocketAddr, u32)>,
    /// Where the owner is not known: who has to do with these destinations.
    pub candidates: Vec<Rc<Closer>>,
}

#[derive(Debug, Default)]
struct Sum {
    netns: Option<(u64, Option<Rc<str>>)>,
    closer: Option<Rc<Closer>>,
    pids: HashSet<u32>,
    count: u64,
    exact: u64,
    recent: u64,
    destinations: HashMap<SocketAddr, u32>,
    candidates: HashMap<u32, Rc<Closer>>,
}

/// Groups them, most first.
pub fn group<'a>(sockets: impl Iterator<Item = &'a Waiting>, by: By) -> Vec<Row> {
    let mut sums: HashMap<(Key, Option<u64>), Sum> = HashMap::new();
    let mut ended: HashMap<u32, bool> = HashMap::new();
    for socket in sockets {
        let held = &socket.held;
        let key = match by {
            By::Process => process_key(&socket.whose, &mut ended),
            By::Destination => Key::Destination(destination(held)),
            By::Netns => Key::Netns,
            By::Container => match socket.whose.closer().filter(|closer| closer.has_home()) {
                Some(closer) => Key::Container(closer.container().map(str::to_owned)),
                None => Key::Unknown,
            },
        };
        let netns = (by != By::Container).then_some(held.netns);
        let sum = sums.entry((key, netns)).or_default();
        sum.netns = netns.map(|inode| (inode, held.netns_name.clone()));
        sum.count += 1;
        sum.exact += u64::from(socket.whose.is_exact());
        sum.recent += u64::from(socket.age < RATE_OVER);
        *sum.destinations.entry(destination(held)).or_default() += 1;
        if let Some(closer) = socket.whose.closer() {
            sum.pids.insert(closer.pid);
            sum.closer.get_or_insert_with(|| Rc::clone(closer));
        }
        if let Whose::Unknown(all) = &socket.whose {
            sum.candidates.extend(all.iter().map(|closer| (closer.pid, Rc::clone(closer))));
        }
    }
    let mut rows: Vec<Row> = sums.into_iter().map(|((key, _), sum)| row(key, sum)).collect();
    rows.sort_by_key(|row| {
        (
            std::cmp::Reverse(row.count),
            row.closer.as_ref().map(|closer| closer.pid),
            row.destinations.first().copied(),
        )
    });
    rows
}

fn process_key(whose: &Whose, ended: &mut HashMap<u32, bool>) -> Key {
    let Some(closer) = whose.closer() else { return Key::Unknown };
    if closer.pid == 0 {
        return Key::Several(closer.comm.clone());
    }
    if *ended.entry(closer.pid).or_insert_with(|| closer.has_ended()) {
        let home = closer.container().or(closer.unit());
        Key::Ended(closer.comm.clone(), home.map(str::to_owned))
    } else {
        Key::Living(closer.pid)
    }
}

fn row(key: Key, sum: Sum) -> Row {
    let mut destinations: Vec<(SocketAddr, u32)> = sum.destinations.into_iter().collect();
    destinations.sort_by_key(|(end, count)| (std::cmp::Reverse(*count), *end));
    let mut candidates: Vec<Rc<Closer>> = sum.candidates.into_values().collect();
    candidates.sort_by_key(|closer| closer.pid);
    Row {
        key,
        netns: sum.netns,
        closer: sum.closer,
        processes: sum.pids.len(),
        count: sum.count,
        exact: sum.exact,
        rate: sum.recent as f64 / RATE_OVER.as_secs_f64(),
        destinations,
        candidates,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::enrich::sockets::{Family, Protocol, SocketInfo, State};
    use crate::whose::{Held, Side};

    fn closer(pid: u32) -> Rc<Closer> {
        Rc::new(Closer { pid, comm: "curl".into(), uid: 0, process: None, cgroup: None, by_kernel: false })
    }

    fn waiting(whose: Whose, peer: &str, age_s: u64) -> Waiting {
        let peer = peer.parse().unwrap();
        let socket = SocketInfo { peer, ..SocketInfo::new(Family::Inet, Protocol::Tcp, State::TimeWait) };
        let held = Held { netns: 1, netns_name: None, socket, side: Side::Outbound, holders: Vec::new() };
        Waiting { held, age: Duration::from_secs(age_s), whose, missed: false }
    }

    #[test]
    fn processes_that_ended_are_one_row() {
        let gone = |pid: u32| Whose::Exact(closer(pid + 5_000_000));
        let process = crate::enrich::process::read(std::process::id());
        let own = Rc::new(Closer { process, ..Closer::clone(&closer(std::process::id())) });
        let all = [
            waiting(gone(1), "10.0.0.1:80", 1),
            waiting(gone(2), "10.0.0.1:80", 20),
            waiting(gone(2), "10.0.0.2:80", 20),
            waiting(Whose::Exact(Rc::clone(&own)), "10.0.0.1:80", 1),
            waiting(Whose::Likely(own), "10.0.0.1:80", 50),
            waiting(Whose::Unknown(Rc::default()), "10.0.0.1:80", 50),
        ];
        let rows = group(all.iter(), By::Process);
        assert_eq!(rows.len(), 3);
        assert_eq!((&rows[0].key, rows[0].processes), (&Key::Ended("curl".into(), None), 2));
        assert_eq!((rows[0].count, rows[0].exact, rows[0].destinations[0].1), (3, 3, 2));
        assert_eq!((&rows[1].key, rows[1].count), (&Key::Living(std::process::id()), 2));
        assert_eq!(rows[1].exact, 1);
        assert!((rows[1].rate - 0.1).abs() < 1e-9);
        assert_eq!(rows[2].key, Key::Unknown);

        let by_destination = group(all.iter(), By::Destination);
        assert_eq!(by_destination.iter().map(|row| row.count).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(group(all.iter(), By::Netns).len(), 1);
        let by_container = group(all.iter(), By::Container);
        let keys: Vec<(&Key, u64)> = by_container.iter().map(|row| (&row.key, row.count)).collect();
        // Of those that have ended it is not known where they were, which is not the same as nowhere.
        assert_eq!(keys[0], (&Key::Unknown, 4));
        assert!(matches!(keys[1], (Key::Container(_), 2)), "{keys:?}");
    }
}
