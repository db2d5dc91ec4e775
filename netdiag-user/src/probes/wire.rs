use netdiag_ebpf::records::WireRecord;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, Tuple, packet, tuple};

/// The packet that an ICMP error quotes.
pub type Quoted = Tuple;

/// A packet on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    pub time_ns: u64,
    pub packet: Packet,
    pub quoted: Option<Quoted>,
}

pub(super) fn decode(raw: &WireRecord) -> Result<Wire, DecodeError> {
    let quoted = if raw.quoted.family == 0 { None } else { Some(tuple(&raw.quoted)?) };
    Ok(Wire { time_ns: raw.header.time_ns, packet: packet(&raw.packet)?, quoted })
}
