use netdiag_ebpf::records::OverflowRecord;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, packet};

/// The accept queue of a listener on this machine had no room for `packet`, a SYN, which the kernel dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenOverflow {
    pub time_ns: u64,
    pub packet: Packet,
    /// Finished handshakes that waited for accept().
    pub accept_queue: u32,
    /// The queue is full with one more than this.
    pub backlog: u32,
}

pub(super) fn decode(raw: &OverflowRecord) -> Result<ListenOverflow, DecodeError> {
    Ok(ListenOverflow {
        time_ns: raw.header.time_ns,
        packet: packet(&raw.packet)?,
        accept_queue: raw.ack_backlog,
        backlog: raw.max_ack_backlog,
    })
}
