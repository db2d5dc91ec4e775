use netdiag_ebpf::records::{DropRecord, STACK_DEPTH};
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, packet};

/// A packet that the kernel threw away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drop {
    pub time_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    /// `skb_drop_reason` of this kernel.
    pub reason: u32,
    /// Address of the instruction that freed the packet.
    pub location: u64,
    /// Like drops before this one that were over the rate.
    pub suppressed: u32,
    pub packet: Packet,
    /// Return addresses, innermost first; empty where none was taken.
    pub stack: Vec<u64>,
}

pub(super) fn decode(raw: &DropRecord) -> Result<Drop, DecodeError> {
    let depth = (raw.stack_len as usize).min(STACK_DEPTH);
    Ok(Drop {
        time_ns: raw.header.time_ns,
        sock: raw.sock,
        reason: raw.reason,
        location: raw.location,
        suppressed: raw.suppressed,
        packet: packet(&raw.packet)?,
        stack: raw.stack[..depth].to_vec(),
    })
}
