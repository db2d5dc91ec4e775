//! The kernel modules that the scenarios need, with those that they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// Loaded at start where the kernel has them as modules: what nobody asks for by a name that leads to it.
pub const LOADED: &str = "crc32c_generic crc32c_intel tun inet_diag tcp_diag nf_tables";

/// All that may be loaded, for the kernel to autoload through modprobe. `*` stands for any ending.
pub const WISHES: &str = "crc32c_generic crc32c_intel libcrc32c tun inet_diag tcp_diag udp_diag raw_diag unix_diag \
    netlink_diag af_packet_diag mptcp_diag veth dummy ifb bridge br_netfilter vxlan vrf macvlan ipvlan 8021q netkit \
    ipip sit ip_gre wireguard nfnetlink* nf_tables nft_* nf_conntrack* nf_nat* nf_reject_* nf_log_* nf_defrag_* \
    nf_tproxy_* nf_socket_* x_tables xt_* ip_tables iptable_* ipt_* ip6_tables ip6table_* ip6t_* ip_set* sch_* cls_* \
    act_* em_* xfrm_* esp4 esp6 tcp_*";

/// The modules of one kernel, on this machine.
#[derive(Debug)]
pub struct Modules {
    /// The directory that has `modules.dep`.
    directory: PathBuf,
    /// A module's file, and the files that it depends on; all relative to the directory.
    files: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads what `depmod` says of an unpacked kernel package; older packages have no `modules.dep` yet.
    ///
    /// # Errors
    /// When depmod is missing or fails.
    pub fn read(unpacked: &Path, release: &str) -> Result<Self> {
        let directory = unpacked.join("lib/modules").join(release);
        if !directory.join("modules.dep").is_file() {
            depmod(unpacked, release)?;
        }
        let text = std::fs::read_to_string(directory.join("modules.dep")).context("no modules.dep")?;
        Ok(Self { directory, files: parse(&text) })
    }

    /// The files of the wanted modules and of those that they depend on: absolute, and relative.
    pub fn wanted(&self) -> Vec<(PathBuf, String)> {
        let mut wanted = BTreeSet::new();
        for (file, dependencies) in &self.files {
            if is_wanted(&stem(file)) {
                wanted.insert(file.clone());
                wanted.extend(dependencies.iter().cloned());
            }
        }
        wanted.into_iter().map(|file| (self.directory.join(&file), file)).collect()
    }

    /// What depmod needs besides the modules: which of them are built in, and the order of their kind.
    pub fn lists(&self) -> Vec<PathBuf> {
        ["modules.builtin", "modules.builtin.modinfo", "modules.order"]
            .iter()
            .map(|name| self.directory.join(name))
            .filter(|file| file.is_file())
            .collect()
    }
}

/// Writes `modules.dep`, `modules.alias` and the rest for `base/lib/modules/RELEASE`.
///
/// # Errors
/// When there is no depmod, or it fails.
pub fn depmod(base: &Path, release: &str) -> Result<()> {
    let Some(depmod) = cmd::find("depmod") else { bail!("no depmod here: install the package kmod") };
    cmd::run(Command::new(depmod).arg("-b").arg(base).arg(release))
}

/// `kernel/a.ko: kernel/b.ko kernel/c.ko`, where the dependencies are complete.
fn parse(text: &str) -> BTreeMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(file, rest)| (file.to_owned(), rest.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// `kernel/net/veth.ko.xz` is `veth`; the kernel takes `-` and `_` for the same.
fn stem(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn is_wanted(name: &str) -> bool {
    WISHES.split_whitespace().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_dependencies() {
        let text = "kernel/net/sched/sch_netem.ko: \n\
                    kernel/net/netfilter/xt_LOG.ko.xz: kernel/net/netfilter/x_tables.ko.xz\n\
                    kernel/net/bonding.ko: kernel/net/tls.ko\n\
                    kernel/drivers/net/vxlan/vxlan.ko: kernel/net/ipv4/udp_tunnel.ko\n";
        let modules = Modules { directory: "/m".into(), files: parse(text) };
        let names: Vec<String> = modules.wanted().into_iter().map(|(_, file)| stem(&file)).collect();
        assert_eq!(names, ["vxlan", "udp_tunnel", "x_tables", "xt_LOG", "sch_netem"]);
    }
}
