//! Which network namespaces can exchange packets: those that links join, directly or through others.

use std::collections::HashMap;

use super::error::EnrichError;
use super::links::{self, Exit};
use super::netlink::{Attributes, Request, Socket, u32_at};
use super::netns::{self, NetnsHandle};

/// include/uapi/linux/rtnetlink.h
const RTM_GETNSID: u16 = 90;
/// `struct rtgenmsg`, padded.
const HEADER: usize = 4;
/// include/uapi/linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// The namespaces that one namespace is joined with.
///
/// What cannot be told counts as joined: namespaces that could not be looked into, and any two of which
/// interfaces lead out of sight (a wire, a tap device, a namespace that is not found).
#[derive(Debug, Clone)]
pub(super) struct Reach {
    /// By inode number. `None`: the namespace itself was not found, so nothing can be told.
    joined: Option<HashMap<u64, bool>>,
    unseen: bool,
}

impl Reach {
    /// Walks the links of all namespaces of this machine, as far as [`netns::all`] lists them, from the one
    /// with this inode number. Takes about as long as to list the interfaces of each.
    ///
    /// All of them, since some links are told of at one end alone: that of a macvlan, not of what it lies on.
    pub(super) fn from(inode: u64) -> Self {
        let open = |namespace: netns::Namespace| {
            namespace.open().or_else(|| netns::find(namespace.inode)).ok_or(namespace.inode)
        };
        let mut handles = Vec::new();
        let mut closed = Vec::new();
        for found in netns::all().found.into_iter().map(open) {
            match found {
                Ok(handle) => handles.push(handle),
                Err(inode) => closed.push(inode),
            }
        }
        let known = |handle: &NetnsHandle| handle.inode() == inode;
        if !handles.iter().any(known) {
            let Some(own) = netns::find(inode) else { return Self { joined: None, unseen: true } };
            handles.push(own);
        }

        let mut groups = Groups::new(handles.len());
        let unseen = handles.len();
        for index in 0..handles.len() {
            match neighbours(&handles, index) {
                Ok(found) => found.into_iter().for_each(|other| groups.join(index, other.unwrap_or(unseen))),
                Err(_) => groups.join(index, unseen),
            }
        }
        let own = handles.iter().position(known).unwrap_or(unseen);
        let opened = handles.iter().enumerate().map(|(index, handle)| (handle.inode(), index));
        let all = opened.chain(closed.into_iter().map(|inode| (inode, unseen)));
        let joined = all.map(|(inode, index)| (inode, groups.same(own, index))).collect();
        Self { joined: Some(joined), unseen: groups.same(own, unseen) }
    }

    /// Whether packets can get from the one namespace to the other, as far as links decide.
    pub(super) fn includes(&self, inode: u64) -> bool {
        self.joined.as_ref().is_none_or(|joined| joined.get(&inode).copied().unwrap_or(self.unseen))
    }
}

/// The namespaces (positions in `handles`) that links of one lead to; `None`: out of sight.
fn neighbours(handles: &[NetnsHandle], index: usize) -> Result<Vec<Option<usize>>, EnrichError> {
    let mut socket = Socket::route(Some(&handles[index]))?;
    let exits = links::exits(&mut socket)?;
    let mut ids: Vec<i32> = exits
        .iter()
        .filter_map(|exit| match exit {
            Exit::Namespace(id) => Some(*id),
            Exit::Unseen => None,
        })
        .collect();
    let mut found = Vec::new();
    if exits.contains(&Exit::Unseen) {
        found.push(None);
    }
    for (other, handle) in handles.iter().enumerate() {
        if ids.is_empty() {
            break;
        }
        let Some(id) = id_of(&mut socket, handle)? else { continue };
        if let Some(position) = ids.iter().position(|wanted| *wanted == id) {
            ids.swap_remove(position);
            found.push(Some(other));
        }
    }
    if !ids.is_empty() {
        found.push(None);
    }
    Ok(found)
}

/// The id that a namespace has in the socket's; `None` if it has none, as no link leads there.
fn id_of(socket: &mut Socket, namespace: &NetnsHandle) -> Result<Option<i32>, EnrichError> {
    let request = Request::new("ask for a namespace's id", RTM_GETNSID, &[0; HEADER])
        .attribute_u32(NETNSA_FD, namespace.raw_fd() as u32);
    let id = socket.get(&request, |payload| {
        Some(u32_at(Attributes::at(payload, HEADER).value(NETNSA_NSID)?, 0)? as i32)
    })?;
    Ok(id.filter(|id| *id >= 0))
}

/// Disjoint sets of namespaces, by position, and of one more: what is out of sight.
#[derive(Debug)]
struct Groups(Vec<usize>);

impl Groups {
    fn new(namespaces: usize) -> Self {
        Self((0..=namespaces).collect())
    }

    fn root(&self, mut index: usize) -> usize {
        while self.0[index] != index {
            index = self.0[index];
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[one] = other;
    }

    fn same(&self, one: usize, other: usize) -> bool {
        self.root(one) == self.root(other)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Instant;

    use super::super::testing::TestNetns;
    use super::*;

    fn veth(one: &TestNetns, name: &str, other: &TestNetns) {
        one.ip(&format!("link add {name} type veth peer name {name} netns {}", other.name));
    }

    fn joined(one: &TestNetns, other: &TestNetns) -> bool {
        let (one, other) = (one.handle().inode(), other.handle().inode());
        let there = Reach::from(one).includes(other);
        assert_eq!(Reach::from(other).includes(one), there, "both ways alike");
        there
    }

    #[test]
    fn through_a_router_and_not_to_strangers() {
        let [here, router, there, stranger, its_peer] = std::array::from_fn(|_| TestNetns::new());
        veth(&here, "a0", &router);
        veth(&router, "b0", &there);
        veth(&stranger, "c0", &its_peer);
        assert!(joined(&here, &router) && joined(&router, &there) && joined(&here, &there));
        let (start, from) = (Instant::now(), here.handle().inode());
        let walk = Reach::from(from);
        println!("a walk of {} took {:?}", walk.joined.unwrap().len(), start.elapsed());
        assert!(joined(&here, &here) && joined(&stranger, &its_peer));
        assert!(!joined(&here, &stranger) && !joined(&there, &its_peer));
    }

    /// Some kernels have no VLANs, others no macvlan.
    #[test]
    fn a_lower_interface_is_told_of_at_one_end() {
        let [host, container, other] = std::array::from_fn(|_| TestNetns::new());
        host.ip("link add d0 type veth peer name d1");
        let lies_on_d0 = |kind: &str, netns: &TestNetns| {
            let words = format!("-n {} link add link d0 name m0 netns {} type {kind}", host.name, netns.name);
            let status =
                std::process::Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
            status.unwrap().success()
        };
        let Some(kind) = ["macvlan", "ipvlan", "vlan id 5"].iter().find(|kind| lies_on_d0(kind, &container))
        else {
            println!("no kind of interface that lies on another");
            return;
        };
        assert!(joined(&host, &container));
        assert!(!joined(&container, &other));
        assert!(lies_on_d0(&kind.replace('5', "6"), &other));
        assert!(joined(&container, &other));
    }

    #[test]
    fn what_is_out_of_sight_may_be_joined() {
        let [here, there, apart] = std::array::from_fn(|_| TestNetns::new());
        for netns in [&here, &there] {
            netns.ip("tuntap add mode tap name t0");
        }
        assert!(!joined(&here, &there), "they are down");
        here.ip("link set t0 up");
        there.ip("link set t0 up");
        assert!(joined(&here, &there));
        assert!(!joined(&here, &apart));
        assert!(Reach::from(1).includes(apart.handle().inode()), "nothing is known of 1");
        assert!(!Reach::from(apart.handle().inode()).includes(1), "it leads nowhere");
    }

    #[test]
    fn a_namespace_that_is_not_listed() {
        let (here, there) = (TestNetns::new(), TestNetns::new());
        // Only links and an open file keep it.
        let hidden = TestNetns::new();
        veth(&here, "h0", &hidden);
        veth(&there, "h1", &hidden);
        let kept = hidden.handle();
        drop(hidden);
        assert!(joined(&here, &there));
        drop(kept);
    }
}
