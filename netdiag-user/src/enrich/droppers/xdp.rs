//! XDP programs of an interface of the caller's network namespace (include/uapi/linux/if_link.h, `IFLA_XDP`).

use super::bpf::BpfProgram;
use crate::enrich::netlink::{Attributes, Request, Socket, u32_at};

const IFLA_XDP: u16 = 43;
/// Inside `IFLA_XDP`: the id of the program that is attached in each way.
const WAYS: &[(u16, &str)] = &[(5, "native"), (6, "generic"), (7, "on the network card")];
/// `struct ifinfomsg`
const HEADER: usize = 16;

/// `None` if there is no such interface.
pub(super) fn programs(ifindex: u32) -> Option<Vec<BpfProgram>> {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let request = Request::new("look up an interface", libc::RTM_GETLINK, &header);
    Socket::route(None).ok()?.get(&request, |payload| Some(parse(payload))).ok()?
}

fn parse(payload: &[u8]) -> Vec<BpfProgram> {
    let xdp = Attributes::at(payload, HEADER).value(IFLA_XDP);
    let inner = xdp.into_iter().flat_map(|value| Attributes::at(value, 0));
    let program = |(kind, value): (u16, &[u8])| {
        let (_, way) = WAYS.iter().find(|(wanted, _)| *wanted == kind)?;
        let id = u32_at(value, 0).filter(|id| *id != 0)?;
        Some(BpfProgram::new(id, format!("XDP, {way}")))
    };
    inner.filter_map(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::netlink::attribute;

    #[test]
    fn loopback_has_none() {
        assert_eq!(programs(1), Some(Vec::new()));
        assert_eq!(programs(u32::MAX >> 1), None);
    }

    #[test]
    fn each_way_has_its_program() {
        let mut payload = vec![0; HEADER];
        let inner =
            [attribute(2, &[2]), attribute(4, &9_u32.to_ne_bytes()), attribute(6, &9_u32.to_ne_bytes())];
        payload.extend(attribute(IFLA_XDP, &inner.concat()));
        assert_eq!(parse(&payload), [BpfProgram::new(9, "XDP, generic")]);
        assert!(parse(&[0; HEADER]).is_empty());
    }
}
