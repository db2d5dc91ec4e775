use netdiag_ebpf::records::IcmpRecord;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, packet};

/// An ICMP error that this machine sends in answer to `packet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IcmpSent {
    pub time_ns: u64,
    pub packet: Packet,
    pub icmp_type: u8,
    pub icmp_code: u8,
}

pub(super) fn decode(raw: &IcmpRecord) -> Result<IcmpSent, DecodeError> {
    let byte =
        |what, value: u32| u8::try_from(value).map_err(|_| DecodeError::Value { what, value: value.into() });
    Ok(IcmpSent {
        time_ns: raw.header.time_ns,
        packet: packet(&raw.packet)?,
        icmp_type: byte("ICMP type", raw.icmp_type)?,
        icmp_code: byte("ICMP code", raw.icmp_code)?,
    })
}
