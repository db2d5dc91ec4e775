//! Numbers of nftables that several readers need.

/// `NFPROTO_*` (include/uapi/linux/netfilter.h) as nft writes them.
pub(super) fn family(number: u64) -> Option<&'static str> {
    Some(match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}
