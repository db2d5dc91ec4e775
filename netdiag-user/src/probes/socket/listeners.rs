//! Who listened last.

use std::net::SocketAddr;

use netdiag_ebpf::records::{LastListener, LastListenerKey};

use crate::probes::{Owner, ip, owner};

/// A listener that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listened {
    /// Inode number.
    pub netns: u64,
    pub local: SocketAddr,
    /// Who held it last.
    pub owner: Option<Owner>,
}

/// `None` where the address is of no family that is known.
pub fn decode(key: &LastListenerKey, last: &LastListener) -> Option<Listened> {
    let local = SocketAddr::new(ip(key.family, &key.address)?, key.port);
    Some(Listened { netns: key.netns.into(), local, owner: owner(&last.owner) })
}
