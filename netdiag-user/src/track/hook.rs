//! Which netfilter hook a drop happened in, from the kernel stack.

use serde::{Deserialize, Serialize};

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// The function that runs each hook (net/ipv4/ip_input.c, ip_output.c, ip_forward.c and the IPv6 twins,
/// net/core/dev.c), or, where the compiler may make a tail call of it, its caller.
const CALLERS: &[(&str, Hook)] = &[
    ("__netif_receive_skb_core", Hook::Ingress),
    ("__dev_queue_xmit", Hook::Egress),
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
    ("ip_sublist_rcv", Hook::Prerouting),
    ("ip_list_rcv", Hook::Prerouting),
    ("ipv6_rcv", Hook::Prerouting),
    ("ip6_sublist_rcv", Hook::Prerouting),
    ("ipv6_list_rcv", Hook::Prerouting),
    ("__netif_receive_skb_one_core", Hook::Prerouting),
    // net/bridge, and net/bridge/br_netfilter_hooks.c, which has bridged packets pass the hooks of IP.
    ("br_handle_frame", Hook::Prerouting),
    ("br_pass_frame_up", Hook::Input),
    ("br_forward_finish", Hook::Postrouting),
    ("br_nf_pre_routing", Hook::Prerouting),
    ("br_nf_forward_ip", Hook::Forward),
    ("br_nf_post_routing", Hook::Postrouting),
];

/// What a bridge forwards and what its host sends go through one function (net/bridge/br_forward.c).
const BRIDGED: &str = "__br_forward";
const BRIDGE_SENDS: &str = "br_dev_xmit";
const BRIDGE_RECEIVES: &str = "br_handle_frame";

fn is_netfilter(name: &str) -> bool {
    name.starts_with("nf_hook_slow") || name.starts_with("nft_do_chain") || name.starts_with("ipt_do_table")
}

/// The hook that the functions of a stack (innermost first, without suffixes) stand for.
///
/// Only the function right behind netfilter's own decides. Further out the stack may hold another packet's
/// way, which this one interrupted: over loopback a packet is received inside the sender's `ip_output`.
pub fn hook_of(stack: &[String]) -> Option<Hook> {
    let first = stack.iter().position(|name| is_netfilter(name))?;
    let mut outwards = stack[first..].iter().filter(|name| !is_netfilter(name));
    let behind = outwards.next()?;
    if behind == BRIDGED {
        return outwards.find_map(|name| match name.as_str() {
            BRIDGE_SENDS => Some(Hook::Output),
            name if name.starts_with(BRIDGE_RECEIVES) => Some(Hook::Forward),
            _ => None,
        });
    }
    CALLERS.iter().find(|(caller, _)| caller == behind).map(|(_, hook)| *hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_function_behind_netfilter_decides() {
        let output =
            ["sk_skb_reason_drop", "nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "__ip_local_out"];
        assert_eq!(hook_of(&stack(&output)), Some(Hook::Output));
        let forward = ["nft_do_chain", "nf_hook_slow", "ip_forward", "ip_rcv", "process_backlog"];
        assert_eq!(hook_of(&stack(&forward)), Some(Hook::Forward));
    }

    #[test]
    fn another_packets_way_further_out_says_nothing() {
        let loopback = ["nft_do_chain", "nf_hook_slow", "unheard_of", "process_backlog", "ip_output"];
        assert_eq!(hook_of(&stack(&loopback)), None);
        let received = ["nft_do_chain", "nf_hook_slow", "ip_local_deliver", "process_backlog", "ip_output"];
        assert_eq!(hook_of(&stack(&received)), Some(Hook::Input));
    }

    #[test]
    fn without_netfilter_there_is_no_hook() {
        assert_eq!(hook_of(&stack(&["tcp_v4_rcv", "ip_local_deliver"])), None);
        assert_eq!(hook_of(&[]), None);
    }

    #[test]
    fn a_bridge_forwards_and_sends_through_one_function() {
        let begins = ["nft_do_chain", "nft_do_chain_bridge", "nf_hook_slow", "__br_forward"];
        let of = |more: &[&str]| hook_of(&stack(&[&begins, more].concat()));
        assert_eq!(of(&["br_handle_frame_finish", "br_handle_frame", "ip_output"]), Some(Hook::Forward));
        assert_eq!(of(&["br_dev_xmit", "br_handle_frame"]), Some(Hook::Output));
        assert_eq!(of(&["br_flood", "br_dev_xmit"]), Some(Hook::Output));
        assert_eq!(of(&["unheard_of"]), None);
        let input = ["nft_do_chain", "nft_do_chain_bridge", "nf_hook_slow", "br_pass_frame_up"];
        assert_eq!(hook_of(&stack(&input)), Some(Hook::Input));
    }

    #[test]
    fn netdev_chains_are_told_apart_by_the_way_out() {
        let egress = ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__dev_queue_xmit"];
        assert_eq!(hook_of(&stack(&egress)), Some(Hook::Egress));
        let ingress = ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core"];
        assert_eq!(hook_of(&stack(&ingress)), Some(Hook::Ingress));
    }
}
