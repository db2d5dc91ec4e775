//! The Service that kube-proxy means by a rule of its nftables mode.
//!
//! That mode has one rule that rejects for all Services without endpoints, and verdict maps that lead to it; the comment
//! of a map's element is the Service's name (kubernetes, pkg/proxy/nftables/proxier.go).

use super::command::output;
use crate::enrich::netns;
use crate::probes::{DropRule, Tuple, protocol};

const TABLE: &str = "kube-proxy";
const CHAIN: &str = "reject-chain";

/// Fills in the comment of the element that led to the rule, if it is kube-proxy's.
pub(super) fn add_element(inode: u64, rule: &mut DropRule, packet: &Tuple) {
    if (rule.table.as_str(), rule.chain.as_str()) != (TABLE, CHAIN) {
        return;
    }
    let Some(name) = protocol_name(packet.protocol) else { return };
    let (address, port) = (packet.destination.ip(), packet.destination.port());
    let keys = [
        ("no-endpoint-services", format!("{{ {address} . {name} . {port} }}")),
        ("no-endpoint-nodeports", format!("{{ {name} . {port} }}")),
    ];
    let Some(handle) = netns::find(inode) else { return };
    let find = || {
        keys.iter().find_map(|(map, key)| {
            let found = output(&["nft", "get", "element", &rule.family, TABLE, map, key])?;
            comment(&found)
        })
    };
    rule.element = netns::enter(&handle, find).ok().flatten();
}

fn protocol_name(number: u8) -> Option<&'static str> {
    match number {
        protocol::TCP => Some("tcp"),
        protocol::UDP => Some("udp"),
        _ => None,
    }
}

/// The comment of the element; the map may have one of its own.
fn comment(listing: &str) -> Option<String> {
    let (_, elements) = listing.split_once("elements = {")?;
    let (_, rest) = elements.split_once("comment \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elements_comment_is_not_the_maps() {
        let listing = "table ip kube-proxy {\n\tmap no-endpoint-services {\n\t\tcomment \"vmap to drop\"\n\t\t\
                       elements = { 10.96.0.7 . tcp . 80 comment \"default/web:http\" : goto reject-chain }\n\t}\n}\n";
        assert_eq!(comment(listing).as_deref(), Some("default/web:http"));
        assert_eq!(comment("map x { comment \"no\"\n elements = { 1 : drop }"), None);
        assert_eq!(comment(""), None);
    }
}
