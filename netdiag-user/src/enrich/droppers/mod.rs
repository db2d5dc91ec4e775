//! What throws packets away besides the packet filter: programs and filters of tc, programs of XDP and of control
//! groups, and the queues of interfaces.
//!
//! The reason of a drop says which kind it was, and never which one. That is looked up here, where the packet was,
//! right after the connection failed: it is what is there now.

mod bpf;
mod group;
mod tc;
mod xdp;

pub use bpf::{BpfProgram, ProgramHolder};
pub use group::Member;

use serde::{Deserialize, Serialize};

use super::netns;

/// Where on its way a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spot {
    TcIngress,
    TcEgress,
    Xdp,
    CgroupIngress,
    CgroupEgress,
    Qdisc,
}

impl Spot {
    /// Where a drop with this reason (the kernel's name without its prefix) in this function was. A filter of a socket and a program of
    /// its control group have one reason in common: [`Spot::CgroupIngress`] is one of two possibilities.
    pub fn of(reason: &str, symbol: Option<&str>) -> Option<Self> {
        match reason {
            "" | "NOT_SPECIFIED" => symbol.filter(|name| XDP_FUNCTIONS.contains(name)).map(|_| Self::Xdp),
            "TC_INGRESS" => Some(Self::TcIngress),
            "TC_EGRESS" => Some(Self::TcEgress),
            "XDP" => Some(Self::Xdp),
            "SOCKET_FILTER" => Some(Self::CgroupIngress),
            "BPF_CGROUP_EGRESS" => Some(Self::CgroupEgress),
            _ if is_of_a_queue(reason) => Some(Self::Qdisc),
            _ => None,
        }
    }
}

/// Functions that run an XDP program and drop what it rejects, without a reason (net/core/dev.c, drivers/net/veth.c). A
/// driver of a network card drops what is no packet yet, and so in silence.
pub const XDP_FUNCTIONS: &[&str] = &["do_xdp_generic", "netif_receive_generic_xdp", "veth_xdp_rcv_skb"];

/// Whether any XDP program is loaded.
pub fn is_xdp_loaded() -> bool {
    bpf::is_loaded(bpf::BPF_PROG_TYPE_XDP)
}

/// Reasons of queueing disciplines. Linux 7.3 gives those that it has moved to an enum of their own as QDISC_DROP too.
fn is_of_a_queue(reason: &str) -> bool {
    reason.starts_with("QDISC_")
        || reason.starts_with("FQ_")
        || matches!(reason, "CAKE_FLOOD" | "DUALPI2_STEP_DROP")
}

/// What is at one spot of one interface, or of one control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropper {
    pub spot: Spot,
    /// Inode number.
    pub netns: u64,
    /// `None` for a control group.
    pub interface: Option<String>,
    /// BPF programs, in the order in which packets meet them.
    pub programs: Vec<BpfProgram>,
    /// The other tc filters, or the queueing disciplines: `flower pref 49152`, `netem 8001: root`.
    pub others: Vec<String>,
}

/// What is at this spot now. `None`: it cannot be told. `member`: whose control group it is about.
pub fn at(spot: Spot, inode: u64, interface: Option<(u32, &str)>, member: Option<Member>) -> Option<Dropper> {
    let mut dropper = Dropper {
        spot,
        netns: inode,
        interface: interface.map(|(_, name)| name.to_owned()),
        programs: Vec::new(),
        others: Vec::new(),
    };
    if let Spot::CgroupIngress | Spot::CgroupEgress = spot {
        dropper.interface = None;
        dropper.programs = group::programs(spot, member?)?;
    } else {
        let (ifindex, _) = interface?;
        let handle = netns::find(inode)?;
        let look = || match spot {
            Spot::Xdp => Some((xdp::programs(ifindex)?, Vec::new())),
            Spot::Qdisc => Some((Vec::new(), tc::qdiscs(ifindex)?)),
            _ => tc::classifiers(ifindex, spot),
        };
        (dropper.programs, dropper.others) = netns::enter(&handle, look).ok()??;
    }
    bpf::complete(&mut dropper.programs);
    Some(dropper)
}
