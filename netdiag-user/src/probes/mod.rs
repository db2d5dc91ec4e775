//! User side of each probe: bytes of the ring buffer to typed events, with checks. Same file stems as in
//! netdiag-ebpf.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`.

mod drop;
mod error;
mod icmp;
mod neighbour;
mod overflow;
mod packet;
mod peek;
mod process;
mod reset;
mod result;
mod retransmit;
mod route;
mod socket;
pub mod time_wait;
mod wire;

use netdiag_ebpf::records::{self, Header, kind};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

pub use drop::{Basis, Drop, DropRule, Engine, Frames};
pub use error::SocketError;
pub use icmp::IcmpSent;
pub use neighbour::NeighbourFailed;
pub use overflow::ListenOverflow;
pub use packet::{Direction, Packet, Tuple, ip, protocol};
pub use peek::Snapshot;
pub use process::Exec;
pub use reset::ResetSent;
pub use result::{Call, CallFailed};
pub use retransmit::{Suspect, SynAckAgain};
pub use route::RouteFailed;
pub use socket::{Closer, ConnectionEnd, DroppedSyn, Step, StepKind, TcpState, TcpSummary, listeners};
pub use time_wait::Closed;
pub use wire::{Quoted, Wire};

/// A process as the kernel side saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id (thread group id) in the initial pid namespace.
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Name of the thread, at most 15 bytes.
    pub comm: SmolStr,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Connection(Box<ConnectionEnd>),
    Suspect(Suspect),
    Drop(Box<Drop>),
    CallFailed(CallFailed),
    RouteFailed(RouteFailed),
    NeighbourFailed(NeighbourFailed),
    IcmpSent(IcmpSent),
    ResetSent(ResetSent),
    Wire(Wire),
    SocketError(SocketError),
    Exec(Exec),
    SynAckAgain(SynAckAgain),
    ListenOverflow(ListenOverflow),
}

impl Event {
    /// When the record was written.
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Connection(e) => e.time_ns,
            Self::Suspect(e) => e.time_ns,
            Self::Drop(e) => e.time_ns,
            Self::CallFailed(e) => e.time_ns,
            Self::RouteFailed(e) => e.time_ns,
            Self::NeighbourFailed(e) => e.time_ns,
            Self::IcmpSent(e) => e.time_ns,
            Self::ResetSent(e) => e.time_ns,
            Self::Wire(e) => e.time_ns,
            Self::SocketError(e) => e.time_ns,
            Self::Exec(e) => e.time_ns,
            Self::SynAckAgain(e) => e.time_ns,
            Self::ListenOverflow(e) => e.time_ns,
        }
    }
}

/// A record that this build does not understand: kernel and user side do not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("record of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("record of kind {kind} is {found} bytes, expected {expected}")]
    Length { kind: u16, found: usize, expected: usize },
    #[error("unknown record kind {0}")]
    Kind(u16),
    #[error("{what} {value} is unknown")]
    Value { what: &'static str, value: u64 },
}

/// Record types of `netdiag_ebpf::records`.
///
/// # Safety
/// `repr(C)`, made of integers and arrays of integers only: every bit pattern is a value.
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ident),*) => {
        // SAFETY: all are repr(C) structs of plain integers, see netdiag-ebpf/src/records.rs.
        $(unsafe impl Plain for records::$t {})*
    };
}
plain!(
    Header,
    ConnectionRecord,
    SuspectRecord,
    DropRecord,
    FramesDropRecord,
    ResultRecord,
    RouteRecord,
    NeighbourRecord,
    IcmpRecord,
    ResetRecord,
    WireRecord,
    ErrorRecord,
    ExecRecord,
    SynAckRecord,
    OverflowRecord
);

/// Decodes a record where it lies, as long as it is aligned, as all in the ring buffer are.
fn read<T: Plain, R>(
    kind: u16,
    bytes: &[u8],
    decode: impl FnOnce(&T) -> Result<R, DecodeError>,
) -> Result<R, DecodeError> {
    if bytes.len() != size_of::<T>() {
        return Err(DecodeError::Length { kind, found: bytes.len(), expected: size_of::<T>() });
    }
    let pointer = bytes.as_ptr().cast::<T>();
    let copy;
    decode(if pointer.is_aligned() {
        // SAFETY: length and alignment are checked, T is Plain, and `bytes` outlives the reference.
        unsafe { &*pointer }
    } else {
        // SAFETY: as above, and this read does not ask for alignment.
        copy = unsafe { pointer.read_unaligned() };
        &copy
    })
}

/// Decodes one item of the ring buffer.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let head = bytes.get(..size_of::<Header>()).ok_or(DecodeError::Short(bytes.len()))?;
    let k = read(0, head, |header: &Header| Ok(header.kind))?;
    Ok(match k {
        kind::CONNECTION => Event::Connection(Box::new(read(k, bytes, socket::decode)?)),
        kind::SUSPECT => Event::Suspect(read(k, bytes, retransmit::decode)?),
        kind::DROP => Event::Drop(Box::new(read(k, bytes, drop::decode)?)),
        kind::DROP_WITH_FRAMES => Event::Drop(Box::new(read(k, bytes, drop::decode_frames)?)),
        kind::RESULT => Event::CallFailed(read(k, bytes, result::decode)?),
        kind::ROUTE => Event::RouteFailed(read(k, bytes, route::decode)?),
        kind::NEIGHBOUR => Event::NeighbourFailed(read(k, bytes, neighbour::decode)?),
        kind::ICMP_SENT => Event::IcmpSent(read(k, bytes, icmp::decode)?),
        kind::RESET_SENT => Event::ResetSent(read(k, bytes, reset::decode)?),
        kind::WIRE => Event::Wire(read(k, bytes, wire::decode)?),
        kind::ERROR => Event::SocketError(read(k, bytes, error::decode)?),
        kind::SYN_ACK_AGAIN => Event::SynAckAgain(read(k, bytes, retransmit::decode_syn_ack)?),
        kind::OVERFLOW => Event::ListenOverflow(read(k, bytes, overflow::decode)?),
        kind::EXEC => Event::Exec(read(k, bytes, |raw| Ok(process::decode(raw)))?),
        other => return Err(DecodeError::Kind(other)),
    })
}

/// Text from a NUL-padded field of the kernel.
fn text(bytes: &[u8]) -> SmolStr {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let bytes = &bytes[..end];
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into(), SmolStr::new)
}

fn owner(raw: &records::Owner) -> Option<Owner> {
    (raw.tgid != 0).then(|| Owner {
        pid: raw.tgid,
        tid: raw.tid,
        uid: raw.uid,
        cgroup: raw.cgroup,
        comm: text(&raw.comm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(decode(&[]), Err(DecodeError::Short(0)));
        let mut bytes = [0u8; 16];
        bytes[0] = 200;
        assert_eq!(decode(&bytes), Err(DecodeError::Kind(200)));
        bytes[0] = kind::DROP as u8;
        assert!(matches!(decode(&bytes), Err(DecodeError::Length { kind: kind::DROP, found: 16, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u16..15, mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if bytes.len() > 2 {
                bytes[..2].copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn no_connection_record_panics(bytes in proptest::collection::vec(any::<u8>(), size_of::<records::ConnectionRecord>())) {
            let mut bytes = bytes;
            bytes[..2].copy_from_slice(&kind::CONNECTION.to_ne_bytes());
            let _ = decode(&bytes);
        }
    }
}
