//! Filters and queueing disciplines of an interface of the caller's network namespace (rtnetlink(7),
//! include/uapi/linux/pkt_sched.h and pkt_cls.h).

use super::Spot;
use super::bpf::{AttachType, BpfProgram, attached};
use crate::enrich::netlink::{self, Attributes, Request, Socket, u32_at};

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
/// `TC_H_INGRESS`, `TC_H_CLSACT` with the minor number of each direction, and `TC_H_ROOT`
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ROOT: u32 = 0xffff_ffff;
const CLSACT: u32 = 0xffff_fff1;
/// `struct tcmsg`: family, padding, ifindex, handle, parent, info
const HEADER: usize = 20;
const MAX_OTHERS: usize = 16;

fn header(ifindex: u32, parent: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// BPF programs and the kinds of other filters.
pub(super) fn classifiers(ifindex: u32, spot: Spot) -> Option<(Vec<BpfProgram>, Vec<String>)> {
    let (kind, parent, way) = match spot {
        Spot::TcIngress => (AttachType::TcxIngress, INGRESS, "ingress"),
        _ => (AttachType::TcxEgress, EGRESS, "egress"),
    };
    let tcx = attached(ifindex, kind, 0).unwrap_or_default();
    let mut programs: Vec<BpfProgram> =
        tcx.into_iter().map(|id| BpfProgram::new(id, format!("tcx {way}"))).collect();
    let mut others = Vec::new();
    let request = Request::new("list tc filters", libc::RTM_GETTFILTER, &header(ifindex, parent));
    let filters = Socket::route(None).ok()?.dump(&request, parse_filter);
    // Without a qdisc for filters there is an error, and no filter.
    for filter in filters.unwrap_or_default() {
        let Filter { kind, preference, program } = filter;
        match program {
            Some(id) => {
                programs.push(BpfProgram::new(id, format!("tc filter pref {preference}, {way}")));
            }
            None if others.len() < MAX_OTHERS => others.push(format!("{kind} pref {preference}")),
            None => {}
        }
    }
    others.dedup();
    Some((programs, others))
}

#[derive(Debug, PartialEq, Eq)]
struct Filter {
    kind: String,
    preference: u32,
    program: Option<u32>,
}

fn parse_filter(payload: &[u8]) -> Option<Filter> {
    let attributes = Attributes::at(payload, HEADER);
    let kind = netlink::text(attributes.value(TCA_KIND)?);
    // Each priority begins with an entry of its own, without a filter (handle 0).
    if u32_at(payload, 8)? == 0 {
        return None;
    }
    let options = attributes.value(TCA_OPTIONS).map(|value| Attributes::at(value, 0));
    let program = options.and_then(|options| u32_at(options.value(TCA_BPF_ID)?, 0));
    Some(Filter { preference: u32_at(payload, 16)? >> 16, program: program.filter(|_| kind == "bpf"), kind })
}

/// The queueing disciplines that packets leave through.
pub(super) fn qdiscs(ifindex: u32) -> Option<Vec<String>> {
    let request = Request::new("list queueing disciplines", libc::RTM_GETQDISC, &header(ifindex, 0));
    let parse = |payload: &[u8]| parse_qdisc(payload, ifindex);
    let mut found = Socket::route(None).ok()?.dump(&request, parse).ok()?;
    found.truncate(MAX_OTHERS);
    Some(found)
}

fn parse_qdisc(payload: &[u8], ifindex: u32) -> Option<String> {
    let (index, handle, parent) = (u32_at(payload, 4)?, u32_at(payload, 8)?, u32_at(payload, 12)?);
    if index != ifindex || parent == CLSACT {
        return None;
    }
    let kind = netlink::text(Attributes::at(payload, HEADER).value(TCA_KIND)?);
    let at = match parent {
        ROOT => "root".to_owned(),
        parent => format!("parent {:x}:{:x}", parent >> 16, parent & 0xffff),
    };
    Some(format!("{kind} {:x}: {at}", handle >> 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::netlink::attribute;
    use crate::enrich::netns;
    use crate::enrich::testing::TestNetns;

    #[test]
    fn queues_are_listed_and_without_filters_there_are_none() {
        let netns = TestNetns::new();
        netns.ip("link add v0 type veth peer name v1");
        netns.run("tc qdisc add dev v0 clsact");
        netns.run("tc qdisc add dev v0 root handle 5: pfifo limit 3");
        let look = || {
            let index = nix::net::if_::if_nametoindex("v0").unwrap();
            (classifiers(index, Spot::TcEgress), classifiers(index, Spot::TcIngress), qdiscs(index))
        };
        let (egress, ingress, queues) = netns::enter(&netns.handle(), look).unwrap();
        assert_eq!((egress, ingress), (Some(Default::default()), Some(Default::default())));
        assert_eq!(queues, Some(vec!["pfifo 5: root".to_owned()]));
    }

    #[test]
    fn programs_are_told_from_other_filters() {
        let filter = |kind: &[u8], handle: u32, options: &[u8]| {
            let mut payload = vec![0; HEADER];
            payload[8..12].copy_from_slice(&handle.to_ne_bytes());
            payload[16..20].copy_from_slice(&(7_u32 << 16).to_ne_bytes());
            payload.extend(attribute(TCA_KIND, kind));
            payload.extend(attribute(TCA_OPTIONS, options));
            parse_filter(&payload)
        };
        let id = attribute(TCA_BPF_ID, &42_u32.to_ne_bytes());
        let bpf = Filter { kind: "bpf".into(), preference: 7, program: Some(42) };
        assert_eq!(filter(b"bpf\0", 1, &id), Some(bpf));
        assert_eq!(filter(b"bpf\0", 0, &[]), None);
        let flower = Filter { kind: "flower".into(), preference: 7, program: None };
        assert_eq!(filter(b"flower\0", 1, &id), Some(flower));
        assert_eq!(parse_filter(&[]), None);
    }
}
