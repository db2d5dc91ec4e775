use netdiag_ebpf::records::{SuspectRecord, SynAckRecord, socket_flag};
use serde::{Deserialize, Serialize};

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner};

/// A SYN was sent again.
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

/// A listener of this machine sent its SYN-ACK again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynAckAgain {
    pub time_ns: u64,
    /// Source is the listener's end.
    pub tuple: Tuple,
    pub netns: u32,
}

pub(super) fn decode_syn_ack(raw: &SynAckRecord) -> Result<SynAckAgain, DecodeError> {
    Ok(SynAckAgain { time_ns: raw.header.time_ns, tuple: tuple(&raw.tuple)?, netns: raw.netns })
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
