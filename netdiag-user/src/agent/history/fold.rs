//! Many stored diagnoses become a few problems: by cause and pair.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use super::query::{Past, Row};
use crate::output::Report;

/// What makes two diagnoses the same problem: as [`crate::output::Folder`] has it, over all time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    code: String,
    errno: Option<String>,
    comm: Option<String>,
    netns: u32,
    protocol: u8,
    /// The port that the kernel chose does not count.
    local: (IpAddr, Option<u16>),
    peer: (IpAddr, Option<u16>),
}

impl Key {
    fn of(row: &Row) -> Self {
        let fixed = |end: SocketAddr| (end.ip(), Some(end.port()));
        let chosen = |end: SocketAddr| (end.ip(), None);
        let no_peer = row.peer.ip().is_unspecified() && row.peer.port() == 0;
        let (local, peer) = if row.is_inbound() || no_peer {
            (fixed(row.local), chosen(row.peer))
        } else {
            (chosen(row.local), fixed(row.peer))
        };
        Self {
            code: row.code.clone(),
            errno: row.errno.clone(),
            comm: row.comm.clone(),
            netns: row.netns,
            protocol: row.protocol,
            local,
            peer,
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The latest of them.
    pub row: Row,
    pub count: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// More than one process of the same name.
    pub several: bool,
}

impl Group {
    /// The latest report, as one for all of them.
    ///
    /// # Errors
    /// As [`Past::report`].
    pub fn report(&self, past: &Past) -> Result<Report, String> {
        let report = past.report(&self.row)?;
        Ok(Report { count: self.count, first: self.first, last: self.last, ..report })
    }
}

/// Takes the rows one by one; [`Folded::groups`] gives the problems.
#[derive(Debug)]
pub struct Folded {
    groups: HashMap<Key, Group>,
    most: usize,
    left_out: u64,
}

/// Nothing yet, and later at most so many problems.
pub fn fold(most: usize) -> Folded {
    Folded { groups: HashMap::new(), most, left_out: 0 }
}

impl Folded {
    pub fn add(&mut self, row: &Row) {
        let key = Key::of(row);
        if self.groups.len() >= self.most && !self.groups.contains_key(&key) {
            self.left_out += row.count;
            return;
        }
        let new = || Group { row: row.clone(), count: 0, first: row.first, last: row.last, several: false };
        let group = self.groups.entry(key).or_insert_with(new);
        group.count += row.count;
        group.first = group.first.min(row.first);
        group.several |= group.row.pid != row.pid;
        if row.last >= group.last {
            group.last = row.last;
            group.row = row.clone();
        }
    }

    /// Failures of problems beyond the most.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The most frequent first.
    pub fn groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups
            .sort_by(|a, b| b.count.cmp(&a.count).then(a.first.cmp(&b.first)).then(a.row.id.cmp(&b.row.id)));
        groups
    }
}
