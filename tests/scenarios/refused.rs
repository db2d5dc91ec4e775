//! Scenarios of the symptom `refused`.
//!
//! Every story has a port of its own: netdiag looks for listeners in all namespaces of the machine, and
//! scenarios run beside each other.

use anyhow::Result;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::netdiag::{Report, Run};
use netdiag_tests::remote::Sender;
use netdiag_tests::scenario::{Need, Scenario};

mod burst;
mod elsewhere;
mod no_listener;
mod overflow;
mod peer;
mod reject;
mod remote;
mod service;

const NO_LISTENER: &str = "refused.no-listener";
const ELSEWHERE: &str = "refused.bound-elsewhere";
const PEER: &str = "refused.peer-no-listener";
const REJECT: &str = "refused.firewall-reject";
const SERVICE: &str = "refused.service-no-endpoints";
const REMOTE_REJECT: &str = "refused.remote-firewall-reject";
const MIDDLEBOX: &str = "refused.middlebox-reset";
const OVERFLOW: &str = "refused.backlog-overflow";

const PYTHON: &[Need] = &[Need::Python];
const NC: &[Need] = &[Need::Tool("nc")];
const NFT: &[Need] = &[Need::Nftables];
const CURL_NFT: &[Need] = &[Need::Tool("curl"), Need::Nftables];
const NC_NFT: &[Need] = &[Need::Tool("nc"), Need::Nftables];
const PYTHON_NFT: &[Need] = &[Need::Python, Need::Nftables];
const TUN: &[Need] = &[Need::Tun];
const CURL_TUN: &[Need] = &[Need::Tool("curl"), Need::Tun];
const PYTHON_TC: &[Need] = &[Need::Python, Need::Tool("tc")];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit(NO_LISTENER, "v4", || no_listener::on_loopback(Family::V4)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "v6", || no_listener::on_loopback(Family::V6)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "other_namespace_v4", || no_listener::next_door(Family::V4)).needs(NC),
    Scenario::hit(NO_LISTENER, "other_namespace_v6", || no_listener::next_door(Family::V6)).needs(NC),
    Scenario::hit(NO_LISTENER, "udp_v4", || no_listener::udp(Family::V4)),
    Scenario::hit(NO_LISTENER, "udp_v6", || no_listener::udp(Family::V6)),
    Scenario::hit(NO_LISTENER, "bound_but_not_listening", no_listener::bound_but_not_listening),
    Scenario::hit(NO_LISTENER, "only_udp_has_the_port", no_listener::only_udp_has_the_port),
    Scenario::hit(NO_LISTENER, "grandchild", no_listener::grandchild),
    Scenario::hit(NO_LISTENER, "burst_v4", || burst::not_listening(Family::V4, 20_000)).needs(PYTHON),
    Scenario::hit(NO_LISTENER, "burst_v6", || burst::not_listening(Family::V6, 20_000)).needs(PYTHON),
    Scenario::near_miss(NO_LISTENER, "burst_rejected", || burst::rejected_without_listener(22_000))
        .needs(PYTHON_NFT),
    Scenario::hit(REJECT, "burst_v4", || burst::rejected(Family::V4, 18143)).needs(PYTHON_NFT),
    Scenario::hit(REJECT, "burst_v6", || burst::rejected(Family::V6, 18144)).needs(PYTHON_NFT),
    Scenario::near_miss(NO_LISTENER, "somebody_listens", no_listener::somebody_listens),
    Scenario::near_miss(NO_LISTENER, "firewall_rejects_v4", || no_listener::firewall_rejects(Family::V4))
        .needs(&[Need::Nftables]),
    Scenario::near_miss(NO_LISTENER, "firewall_rejects_v6", || no_listener::firewall_rejects(Family::V6))
        .needs(&[Need::Nftables]),
    Scenario::hit(REJECT, "output_v4", || reject::with_reset(Family::V4, "output", 18130)).needs(NC_NFT),
    Scenario::hit(REJECT, "output_v6", || reject::with_reset(Family::V6, "output", 18131)).needs(NC_NFT),
    Scenario::hit(REJECT, "forward_v4", || reject::with_reset(Family::V4, "forward", 18132)).needs(NC_NFT),
    Scenario::hit(REJECT, "forward_v6", || reject::with_reset(Family::V6, "forward", 18133)).needs(NC_NFT),
    Scenario::hit(REJECT, "icmp_v4", || reject::with_icmp(Family::V4, 18134)).needs(NFT),
    Scenario::hit(REJECT, "icmp_v6", || reject::with_icmp(Family::V6, 18135)).needs(NFT),
    Scenario::hit(REJECT, "noted_error", || reject::told_by_a_noted_error(18168)).needs(CURL_NFT),
    Scenario::hit(REJECT, "udp_v4", || reject::udp(Family::V4, 18136)).needs(NFT),
    Scenario::hit(REJECT, "udp_v6", || reject::udp(Family::V6, 18137)).needs(NFT),
    Scenario::hit(REJECT, "iptables_nft_v4", || reject::iptables(Family::V4, "nft", "", 18138))
        .needs(&[Need::IptablesNft]),
    Scenario::hit(REJECT, "iptables_nft_v6", || {
        reject::iptables(Family::V6, "nft", " --reject-with tcp-reset", 18139)
    })
    .needs(&[Need::IptablesNft]),
    Scenario::hit(REJECT, "iptables_legacy", || reject::iptables(Family::V4, "legacy", "", 18140))
        .needs(&[Need::IptablesLegacy]),
    Scenario::near_miss(REJECT, "dropped_once", || reject::dropped_once_and_then_refused(18141)).needs(NFT),
    Scenario::near_miss(REJECT, "rule_for_other_port", || reject::rule_for_other_port(18142)).needs(NFT),
    Scenario::hit(ELSEWHERE, "loopback_only_v4", || elsewhere::loopback_only(Family::V4)),
    Scenario::hit(ELSEWHERE, "loopback_only_v6", || elsewhere::loopback_only(Family::V6)),
    Scenario::hit(ELSEWHERE, "ipv4_only", elsewhere::ipv4_only).needs(&[Need::Ipv6]),
    Scenario::hit(ELSEWHERE, "ipv6_only", elsewhere::ipv6_only).needs(&[Need::Ipv6]),
    Scenario::hit(ELSEWHERE, "udp", elsewhere::udp),
    Scenario::hit(ELSEWHERE, "other_interface", elsewhere::other_interface).needs(PYTHON),
    Scenario::hit(ELSEWHERE, "other_namespace", elsewhere::other_namespace),
    Scenario::near_miss(ELSEWHERE, "other_port", elsewhere::other_port),
    Scenario::near_miss(ELSEWHERE, "unrelated_namespace", elsewhere::unrelated_namespace),
    Scenario::near_miss(ELSEWHERE, "dual_stack", elsewhere::dual_stack).needs(&[Need::Ipv6]),
    Scenario::hit(PEER, "v4", || peer::tcp(Family::V4)).needs(CURL_TUN),
    Scenario::hit(PEER, "v6", || peer::tcp(Family::V6)).needs(CURL_TUN),
    Scenario::hit(PEER, "udp_v4", || peer::udp(Family::V4)).needs(TUN),
    Scenario::hit(PEER, "udp_v6", || peer::udp(Family::V6)).needs(TUN),
    Scenario::hit(PEER, "nonblocking", peer::nonblocking).needs(TUN),
    Scenario::near_miss(PEER, "peer_is_this_machine", peer::is_this_machine),
    Scenario::near_miss(PEER, "peer_accepts", peer::accepts).needs(TUN),
    Scenario::near_miss(PEER, "router_sends_icmp", peer::router_sends_icmp).needs(TUN),
    Scenario::hit(SERVICE, "iptables_nft_v4", || service::by_iptables("nft", Family::V4, 18150))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_nft_v6", || service::by_iptables("nft", Family::V6, 18151))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_legacy_v4", || service::by_iptables("legacy", Family::V4, 18152))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(SERVICE, "iptables_legacy_v6", || service::by_iptables("legacy", Family::V6, 18153))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_v4", || service::by_nftables(Family::V4, 18154))
        .needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_v6", || service::by_nftables(Family::V6, 18155))
        .needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::hit(SERVICE, "nftables_udp", || service::udp(18156)).needs(&[Need::Nftables, Need::Conntrack]),
    Scenario::near_miss(SERVICE, "another_comment", || service::another_comment("nft", 18157))
        .needs(&[Need::IptablesNft, Need::Conntrack]),
    Scenario::near_miss(SERVICE, "another_comment_legacy", || service::another_comment("legacy", 18158))
        .needs(&[Need::IptablesLegacy, Need::Conntrack]),
    Scenario::hit(REMOTE_REJECT, "router_v4", || remote::by_icmp(Family::V4, Sender::Router, 18160))
        .needs(TUN),
    Scenario::hit(REMOTE_REJECT, "router_v6", || remote::by_icmp(Family::V6, Sender::Router, 18161))
        .needs(TUN),
    Scenario::hit(REMOTE_REJECT, "peer_v4", || remote::by_icmp(Family::V4, Sender::Peer, 18162)).needs(TUN),
    Scenario::hit(REMOTE_REJECT, "peer_v6", || remote::by_icmp(Family::V6, Sender::Peer, 18163)).needs(TUN),
    Scenario::near_miss(PEER, "router_rejects_udp_v4", || remote::datagram(Family::V4, 18164)).needs(TUN),
    Scenario::near_miss(PEER, "router_rejects_udp_v6", || remote::datagram(Family::V6, 18165)).needs(TUN),
    Scenario::near_miss(REMOTE_REJECT, "udp_by_the_peer", || remote::datagram_by_peer(18166)).needs(TUN),
    Scenario::near_miss(REMOTE_REJECT, "rule_of_this_machine", || reject::with_icmp(Family::V4, 18167))
        .needs(NFT),
    Scenario::hit(MIDDLEBOX, "nearer_v4", || remote::from_nearer(Family::V4, 18170)).needs(TUN),
    Scenario::hit(MIDDLEBOX, "nearer_v6", || remote::from_nearer(Family::V6, 18172)).needs(TUN),
    Scenario::near_miss(MIDDLEBOX, "like_the_peer", || remote::like_the_peer(18174)).needs(TUN),
    Scenario::near_miss(MIDDLEBOX, "never_answered", || remote::never_answered(18176)).needs(TUN),
    Scenario::hit(OVERFLOW, "v4", || overflow::with_abort(Family::V4)).needs(PYTHON_TC),
    Scenario::hit(OVERFLOW, "v6", || overflow::with_abort(Family::V6)).needs(PYTHON_TC),
    Scenario::near_miss(OVERFLOW, "without_abort", overflow::without_abort).needs(PYTHON_TC),
    Scenario::near_miss(OVERFLOW, "closed_unread", overflow::closed_unread),
];

fn run(namespace: &Namespace, words: &[String]) -> Result<Report> {
    Run::inside(namespace).command(words)
}
