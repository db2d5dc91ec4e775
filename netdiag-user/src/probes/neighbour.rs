use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdiag_ebpf::records::NeighbourRecord;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{DecodeError, text};

/// A next hop that did not answer (NUD_FAILED).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeighbourFailed {
    pub time_ns: u64,
    pub address: IpAddr,
    pub ifindex: u32,
    pub interface: SmolStr,
    pub netns: u32,
}

pub(super) fn decode(raw: &NeighbourRecord) -> Result<NeighbourFailed, DecodeError> {
    let a = &raw.address;
    let address = match raw.family as i32 {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a[0], a[1], a[2], a[3])),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*a)),
        _ => return Err(DecodeError::Value { what: "address family", value: raw.family.into() }),
    };
    Ok(NeighbourFailed {
        time_ns: raw.header.time_ns,
        address,
        ifindex: raw.ifindex,
        interface: text(&raw.ifname),
        netns: raw.netns,
    })
}
