use netdiag_ebpf::records::RouteRecord;
use serde::{Deserialize, Serialize};

use super::packet::{Tuple, tuple};
use super::{DecodeError, Owner, owner};

/// A route lookup that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteFailed {
    pub time_ns: u64,
    /// Who asked, for a packet of this host.
    pub owner: Option<Owner>,
    /// Network namespace; `None` for a forwarded IPv4 packet: the kernel does not tell.
    pub netns: Option<u32>,
    pub tuple: Tuple,
    pub table: u32,
    /// EAGAIN: the table has no route for it.
    pub errno: i32,
    /// Where the packet came in, for a forwarded one.
    pub iif: Option<u32>,
    pub oif: Option<u32>,
}

pub(super) fn decode(raw: &RouteRecord) -> Result<RouteFailed, DecodeError> {
    Ok(RouteFailed {
        time_ns: raw.header.time_ns,
        owner: owner(&raw.owner),
        netns: (raw.owner.netns != 0).then_some(raw.owner.netns),
        tuple: tuple(&raw.tuple)?,
        table: raw.table,
        errno: raw.errno as i32,
        iif: (raw.iif > 1).then_some(raw.iif),
        oif: (raw.oif != 0).then_some(raw.oif),
    })
}
