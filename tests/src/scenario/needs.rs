//! What a scenario needs of the machine.

use anyhow::Result;

use crate::net::Namespace;
use crate::{netdiag, process, tools};

/// Something that not every machine or kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A command-line tool.
    Tool(&'static str),
    /// Python 3 as `python3`.
    Python,
    /// IPv6.
    Ipv6,
    /// nftables in the kernel, and `nft`.
    Nftables,
    /// The legacy iptables tables, and `iptables-legacy`.
    IptablesLegacy,
    /// iptables commands over nftables.
    IptablesNft,
    /// Connection tracking, for nftables' `ct`.
    Conntrack,
    /// The netem qdisc.
    Netem,
    /// /dev/net/tun, for the remote host.
    Tun,
    /// A processor of its own speed: what the scene is made of does not last until an emulated one has netdiag started.
    Speed,
    /// A kernel file that must exist, such as `/sys/kernel/btf/nf_tables`.
    File(&'static str),
}

impl Need {
    /// Why it is not met; `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Tool(name) => tools::find(name).is_none().then(|| format!("no {name}")),
            Self::Python => tools::find("python3").is_none().then(|| "no python3".to_owned()),
            Self::Ipv6 => absent("/proc/sys/net/ipv6"),
            Self::Tun => absent("/dev/net/tun"),
            Self::File(path) => absent(path),
            Self::Speed => process::is_slow().then(|| "an emulated processor".to_owned()),
            Self::Nftables => tried(|namespace| namespace.nft("table inet t { }")),
            Self::Conntrack => {
                tried(|namespace| namespace.nft("table inet t { chain c { ct state invalid accept; }; }"))
            }
            Self::IptablesLegacy => tried(|namespace| succeeds(namespace, "iptables-legacy")),
            Self::IptablesNft => tried(|namespace| succeeds(namespace, "iptables-nft")),
            Self::Netem => tried(|namespace| namespace.tc("qdisc add dev lo root netem delay 1ms")),
        }
    }
}

fn absent(path: &str) -> Option<String> {
    (!std::path::Path::new(path).exists()).then(|| format!("no {path}"))
}

/// Tries it in a namespace of its own, since asking the kernel's configuration is no proof.
fn tried(action: impl FnOnce(&Namespace) -> Result<()>) -> Option<String> {
    let namespace = match Namespace::new("need") {
        Ok(namespace) => namespace,
        Err(error) => return Some(format!("{error:#}")),
    };
    action(&namespace).err().map(|error| format!("{error:#}"))
}

fn succeeds(namespace: &Namespace, iptables: &str) -> Result<()> {
    let output = namespace.run(&[iptables, "-A", "INPUT", "-p", "tcp", "-j", "DROP"])?;
    output.exits(0).map(drop)
}

/// What every scenario with netdiag in it needs.
pub(super) fn netdiag_missing() -> Option<String> {
    netdiag::binary().is_none().then(|| "no netdiag binary; build it or set NETDIAG_BIN".to_owned())
}
