//! Which netfilter hook a drop happened in, from the kernel stack.

use serde::{Deserialize, Serialize};

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    Egress,
}

impl Hook {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The function that runs each hook (net/ipv4/ip_input.c, ip_output.c, ip_forward.c and the IPv6 twins).
const CALLERS: &[(&str, Hook)] = &[
    ("nft_do_chain_netdev", Hook::Ingress),
    ("nf_hook_ingress", Hook::Ingress),
    ("nf_hook_egress", Hook::Egress),
    ("ip_local_deliver", Hook::Input),
    ("ip6_input", Hook::Input),
    ("ip_forward", Hook::Forward),
    ("ip6_forward", Hook::Forward),
    ("__ip_local_out", Hook::Output),
    ("ip_local_out", Hook::Output),
    ("__ip6_local_out", Hook::Output),
    ("ip6_local_out", Hook::Output),
    ("ip6_xmit", Hook::Output),
    ("ip_output", Hook::Postrouting),
    ("ip_mc_output", Hook::Postrouting),
    ("ip6_output", Hook::Postrouting),
    ("ip_rcv", Hook::Prerouting),
    ("ip_list_rcv", Hook::Prerouting),
    ("ip_sabotage_in", Hook::Prerouting),
    ("ipv6_rcv", Hook::Prerouting),
    ("ipv6_list_rcv", Hook::Prerouting),
];

/// The hook that the functions of a stack (innermost first, without suffixes) stand for.
///
/// The innermost caller decides: a forwarded packet has `ip_forward` above `ip_rcv`. The function that runs
/// the hook may be missing where the compiler made a tail call; then nothing is said.
pub fn hook_of(stack: &[String]) -> Option<Hook> {
    let in_netfilter = stack.iter().any(|name| name == "nf_hook_slow" || name.starts_with("nft_do_chain"));
    let caller = stack
        .iter()
        .find_map(|name| CALLERS.iter().find(|(caller, _)| caller == name).map(|(_, hook)| *hook))?;
    let netdev = caller == Hook::Ingress && stack.iter().any(|name| name.contains("dev_queue_xmit"));
    match (in_netfilter, netdev) {
        (false, _) => None,
        (true, true) => Some(Hook::Egress),
        (true, false) => Some(caller),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_innermost_caller_decides() {
        let output = ["sk_skb_reason_drop", "nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "__ip_local_out"];
        assert_eq!(hook_of(&stack(&output)), Some(Hook::Output));
        let forward = ["nft_do_chain", "nf_hook_slow", "ip_forward", "ip_rcv", "process_backlog"];
        assert_eq!(hook_of(&stack(&forward)), Some(Hook::Forward));
    }

    #[test]
    fn without_netfilter_there_is_no_hook() {
        assert_eq!(hook_of(&stack(&["tcp_v4_rcv", "ip_local_deliver"])), None);
        assert_eq!(hook_of(&[]), None);
    }

    #[test]
    fn netdev_chains_are_told_apart_by_the_way_out() {
        let egress = ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__dev_queue_xmit"];
        assert_eq!(hook_of(&stack(&egress)), Some(Hook::Egress));
        let ingress = ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core"];
        assert_eq!(hook_of(&stack(&ingress)), Some(Hook::Ingress));
    }
}
