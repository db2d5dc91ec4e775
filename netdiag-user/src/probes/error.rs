use netdiag_ebpf::records::{ErrorRecord, socket_flag};
use serde::{Deserialize, Serialize};

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner};

/// The error of a UDP socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SocketError {
    pub time_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    /// Source is the local end.
    pub tuple: Tuple,
    pub errno: i32,
    pub soft_errno: i32,
    pub netns: u32,
    /// Who connected it, for a followed process.
    pub owner: Option<Owner>,
    pub asked: bool,
}

pub(super) fn decode(raw: &ErrorRecord) -> Result<SocketError, DecodeError> {
    Ok(SocketError {
        time_ns: raw.header.time_ns,
        sock: raw.sock,
        tuple: tuple(&raw.tuple)?,
        errno: raw.sk_err as i32,
        soft_errno: raw.sk_err_soft as i32,
        netns: raw.netns,
        owner: owner(&raw.owner),
        asked: raw.flags & socket_flag::ASKED != 0,
    })
}
