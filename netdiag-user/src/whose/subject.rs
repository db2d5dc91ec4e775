//! What a filter may ask about a socket.

use std::net::SocketAddr;

use super::{Held, Side};
use crate::enrich::sockets::Protocol;
use crate::filter::{Filter, Subject};
use crate::probes::protocol;

impl Held {
    /// Whether a filter takes it; any of its holders will do.
    pub fn is_wanted(&self, filter: &Filter) -> bool {
        match self.holders.as_slice() {
            [] => filter.matches(&Asked { held: self, holder: None }) == Some(true),
            holders => holders.iter().any(|process| {
                let holder = Some((process.pid, process.comm.as_str()));
                filter.matches(&Asked { held: self, holder }) == Some(true)
            }),
        }
    }

    /// The same, of a socket that no process holds and whose owner is known otherwise.
    pub fn is_wanted_of(&self, filter: &Filter, owner: Option<(u32, &str)>) -> bool {
        filter.matches(&Asked { held: self, holder: owner }) == Some(true)
    }
}

struct Asked<'a> {
    held: &'a Held,
    /// Process id and name.
    holder: Option<(u32, &'a str)>,
}

impl Subject for Asked<'_> {
    fn protocol(&self) -> u8 {
        match self.held.socket.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        }
    }

    fn source(&self) -> Option<SocketAddr> {
        match self.held.side {
            Side::Outbound => Some(self.held.socket.local),
            Side::Inbound => Some(self.held.socket.peer),
            Side::Unconnected => None,
        }
    }

    fn destination(&self) -> Option<SocketAddr> {
        match self.held.side {
            Side::Outbound => Some(self.held.socket.peer),
            Side::Inbound | Side::Unconnected => Some(self.held.socket.local),
        }
    }

    fn hostname(&self) -> Option<&str> {
        None
    }

    fn pid(&self) -> Option<u32> {
        self.holder.map(|(pid, _)| pid)
    }

    fn comm(&self) -> Option<&str> {
        self.holder.map(|(_, comm)| comm)
    }

    fn netns(&self) -> Option<u32> {
        u32::try_from(self.held.netns).ok()
    }

    fn netns_name(&self) -> Option<&str> {
        self.held.netns_name.as_deref()
    }

    fn code(&self) -> Option<&str> {
        None
    }
}
