//! Whether a network namespace still has the ruleset that was read before.

use std::os::fd::AsRawFd;

use crate::enrich::EnrichError;
use crate::enrich::netlink::{Attributes, Request, Socket};

/// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: [u8; 4] = [0; 4];

/// A ruleset of a namespace at a time. Two that are equal are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation {
    /// Inode numbers of namespaces are used again, this number never is.
    netns_cookie: u64,
    /// Grows with each transaction.
    number: u32,
}

impl Generation {
    /// That of the caller's own namespace. `None` where the kernel does not tell (before 5.14), or has no nftables.
    pub(super) fn current() -> Option<Self> {
        Self::read().ok().flatten()
    }

    pub(super) fn is_same_namespace(self, other: Self) -> bool {
        self.netns_cookie == other.netns_cookie
    }

    fn read() -> Result<Option<Self>, EnrichError> {
        let mut socket = Socket::netfilter(None)?;
        let Some(netns_cookie) = cookie(&socket) else { return Ok(None) };
        let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN;
        let request = Request::new("generation of the ruleset", kind, &HEADER);
        let number = socket.get(&request, |payload| {
            let value = Attributes::at(payload, HEADER.len()).value(NFTA_GEN_ID)?;
            Some(u32::from_be_bytes(value.try_into().ok()?))
        })?;
        Ok(number.map(|number| Self { netns_cookie, number }))
    }
}

/// `SO_NETNS_COOKIE` (5.14).
fn cookie(socket: &Socket) -> Option<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are live, and the length is the value's.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of::<u64>()).then_some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::netns;
    use crate::enrich::testing::TestNetns;

    #[test]
    fn a_change_is_another_generation_and_so_is_another_namespace() {
        let (one, other) = (TestNetns::new(), TestNetns::new());
        let read = |netns: &TestNetns| netns::enter(&netns.handle(), Generation::current).unwrap();
        let Some(before) = read(&one) else {
            println!("SKIP: no nftables, or a kernel without cookies");
            return;
        };
        assert_eq!(read(&one), Some(before));
        assert_ne!(read(&other), Some(before));
        one.run("nft add table inet netdiag");
        assert_ne!(read(&one), Some(before));
    }
}
