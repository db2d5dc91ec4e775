//! What is left of connections in TIME_WAIT, as short as it can be: there may be hundreds of thousands.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::error::EnrichError;
use super::netns::NetnsHandle;
use super::sockets::{self, Family, Protocol, SocketInfo, states};

/// A socket in TIME_WAIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeWait {
    pub family: Family,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The connection's, never used again.
    pub cookie: u64,
    /// Until it is gone, in milliseconds. Not handed on: it passes.
    #[serde(skip)]
    pub timer_ms: u32,
}

impl From<&SocketInfo> for TimeWait {
    fn from(socket: &SocketInfo) -> Self {
        let SocketInfo { family, local, peer, cookie, timer_ms, .. } = *socket;
        Self { family, local, peer, cookie, timer_ms }
    }
}

/// Lists those of a network namespace, IPv4 and IPv6.
pub fn list(netns: Option<&NetnsHandle>) -> Result<Vec<TimeWait>, EnrichError> {
    sockets::dump_as(netns, Protocol::Tcp, states::TIME_WAIT, None, |socket| TimeWait::from(&socket))
}
