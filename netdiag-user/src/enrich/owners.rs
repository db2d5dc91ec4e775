//! Whose a socket is, when its beginning was not seen.

use std::collections::{HashMap, HashSet};

use super::holders;
use super::netns;
use super::process::Process;
use super::sockets::{self, Ports, SocketInfo, states};
use crate::probes::{Owner, Tuple, protocol};

/// What the sockets of the namespace tell about a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub owner: Option<Owner>,
    /// A listener holds the local port: the connection came to it.
    pub inbound: bool,
}

/// Which processes are looked through for the one that holds the socket.
#[derive(Debug, Clone, Copy)]
pub enum Holders<'a> {
    /// None: the owner is known.
    Known,
    Among(&'a [u32]),
    /// That takes the time of reading the open files of the whole machine.
    All,
}

/// Looks for the socket itself, then for a listener on its local port.
///
/// The process is the first that holds the socket; the thread is not known, so `tid` equals `pid`.
/// `tuple`: source is the local end.
///
pub fn find(tuple: &Tuple, inode: u32, holders: Holders) -> Option<Found> {
    let handle = netns::find(inode.into())?;
    let ports = Some(Ports::local(tuple.source.port()));
    let all = sockets::of_protocol(tuple.protocol, Some(&handle), states::ALL, ports).ok()?;
    let is_listener = |socket: &&SocketInfo| socket.state == sockets::State::Listen;
    let itself = all.iter().find(|s| s.local == tuple.source && s.peer == tuple.destination && s.inode != 0);
    let listener = all.iter().find(is_listener);
    let unconnected = || all.iter().find(|s| tuple.protocol == protocol::UDP && s.inode != 0);
    let socket = itself.or(listener).or_else(unconnected)?;
    let wanted = HashSet::from([socket.inode]);
    let owners = match holders {
        Holders::Known => HashMap::new(),
        Holders::Among(pids) => holders::owners_among(&wanted, pids.iter().copied()),
        Holders::All => holders::owners_of(&wanted),
    };
    let owner = owners.get(&socket.inode).and_then(|processes| processes.first()).map(owner_of);
    Some(Found { owner, inbound: listener.is_some() })
}

/// A process as if it had been seen in the kernel.
pub(crate) fn owner_of(process: &Process) -> Owner {
    Owner {
        pid: process.pid,
        tid: process.pid,
        uid: process.uid,
        cgroup: 0,
        comm: process.comm.as_str().into(),
    }
}
