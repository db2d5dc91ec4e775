use netdiag_ebpf::records::ResetRecord;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, packet};
use super::socket::TcpState;

/// This machine answers `packet` with RST, on behalf of a socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResetSent {
    pub time_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    pub packet: Packet,
    /// `sk_rst_reason` of this kernel.
    pub reason: Option<u32>,
    pub state: Option<TcpState>,
    pub accept_queue: u32,
    pub backlog: u32,
}

pub(super) fn decode(raw: &ResetRecord) -> Result<ResetSent, DecodeError> {
    Ok(ResetSent {
        time_ns: raw.header.time_ns,
        sock: raw.sock,
        packet: packet(&raw.packet)?,
        reason: raw.reason.checked_sub(1),
        state: u8::try_from(raw.sk_state).ok().and_then(|state| TcpState::decode(state).ok()),
        accept_queue: raw.ack_backlog,
        backlog: raw.max_ack_backlog,
    })
}
