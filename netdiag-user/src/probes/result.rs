use netdiag_ebpf::records::{ResultRecord, call, socket_flag};
use serde::{Deserialize, Serialize};

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner};

/// A socket system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    Connect,
    Bind,
    Sendto,
    Sendmsg,
    Listen,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect()",
            Self::Bind => "bind()",
            Self::Sendto => "sendto()",
            Self::Sendmsg => "sendmsg()",
            Self::Listen => "listen()",
        })
    }
}

/// A call that failed at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallFailed {
    pub time_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    pub owner: Option<Owner>,
    /// Source is the local end; for `bind` the address that was asked for.
    pub tuple: Tuple,
    pub call: Call,
    pub errno: i32,
    pub netns: u32,
    pub bound_interface: Option<u32>,
    pub asked: bool,
    /// The socket is known to have IPV6_V6ONLY.
    pub ipv6_only: bool,
}

pub(super) fn decode(raw: &ResultRecord) -> Result<CallFailed, DecodeError> {
    let call = match raw.call {
        call::CONNECT => Call::Connect,
        call::BIND => Call::Bind,
        call::SENDTO => Call::Sendto,
        call::SENDMSG => Call::Sendmsg,
        call::LISTEN => Call::Listen,
        other => return Err(DecodeError::Value { what: "system call", value: other.into() }),
    };
    Ok(CallFailed {
        time_ns: raw.header.time_ns,
        sock: raw.sock,
        owner: owner(&raw.owner),
        tuple: tuple(&raw.tuple)?,
        call,
        errno: raw.errno as i32,
        netns: raw.netns,
        bound_interface: (raw.bound_dev_if != 0).then_some(raw.bound_dev_if),
        asked: raw.flags & socket_flag::ASKED != 0,
        ipv6_only: raw.flags & socket_flag::IPV6_ONLY != 0,
    })
}
