use netdiag_ebpf::records::WireRecord;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, Tuple, packet, protocol, tuple};

/// The packet that an ICMP error quotes.
pub type Quoted = Tuple;

/// A packet on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    pub time_ns: u64,
    pub packet: Packet,
    pub quoted: Option<Quoted>,
    /// Of a SYN on its way out of which NAT has changed an end: what its socket asked for.
    pub asked: Option<Tuple>,
}

impl Wire {
    /// The flow that it tells of: for an ICMP error, that of the packet which it quotes.
    pub fn flow(&self) -> &Tuple {
        self.quoted.as_ref().unwrap_or(&self.packet.tuple)
    }
}

pub(super) fn decode(raw: &WireRecord) -> Result<Wire, DecodeError> {
    let other = if raw.quoted.family == 0 { None } else { Some(tuple(&raw.quoted)?) };
    let packet = packet(&raw.packet)?;
    let (asked, quoted) = if packet.tuple.protocol == protocol::TCP { (other, None) } else { (None, other) };
    Ok(Wire { time_ns: raw.header.time_ns, packet, quoted, asked })
}
