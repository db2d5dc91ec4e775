use netdiag_ebpf::records::{SuspectRecord, socket_flag};
use serde::{Deserialize, Serialize};

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner};

/// First SYN retransmit of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    pub time_ns: u64,
    pub start_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    pub owner: Option<Owner>,
    pub tuple: Tuple,
    pub netns: u32,
    pub asked: bool,
}

pub(super) fn decode(raw: &SuspectRecord) -> Result<Suspect, DecodeError> {
    Ok(Suspect {
        time_ns: raw.header.time_ns,
        start_ns: raw.start_ns,
        sock: raw.sock,
        owner: owner(&raw.owner),
        tuple: tuple(&raw.tuple)?,
        netns: raw.netns,
        asked: raw.flags & socket_flag::ASKED != 0,
    })
}
