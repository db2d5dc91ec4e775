//! Scenarios of the symptom `timeout`: the registry here, the stories beside it.

pub mod changed;
mod compared;
mod dropper;
mod established;
mod firewall;
pub mod listener;
mod mtu;
mod reply;
mod reverse_path;
mod rule;
mod silence;

use anyhow::{Result, ensure};
use netdiag_tests::bpf::Xdp;
use netdiag_tests::net::Family::{V4, V6};
use netdiag_tests::net::{Namespace, Topology};
use netdiag_tests::netdiag::Diagnosis;
use netdiag_tests::scenario::{Need, Scenario};

const CURL: &[Need] = &[Need::Tool("curl")];
const NC_NFT: &[Need] = &[Need::Tool("nc"), Need::Nftables];
const NFT: &[Need] = &[Need::Nftables];
const NFT_TUN: &[Need] = &[Need::Nftables, Need::Tun];
const CURL_NFT: &[Need] = &[Need::Tool("curl"), Need::Nftables];
const SYN_QUEUE: &[Need] = &[Need::Tool("curl"), Need::Nftables, Need::Speed];
const MPTCP_NFT: &[Need] = &[Need::Python, Need::Nftables, Need::File("/proc/sys/net/mptcp/enabled")];
const PYTHON_NFT: &[Need] = &[Need::Python, Need::Nftables];
const CURL_TUN: &[Need] = &[Need::Tool("curl"), Need::Tun];
const PYTHON_TUN: &[Need] = &[Need::Python, Need::Tun];
const TUN: &[Need] = &[Need::Tun];
const CONNTRACK: &[Need] = &[Need::Nftables, Need::Conntrack];
const CONNTRACK_TUN: &[Need] = &[Need::Nftables, Need::Conntrack, Need::Tun];
const IPTABLES_NFT: &[Need] = &[Need::Tool("curl"), Need::IptablesNft];
const IPTABLES_LEGACY: &[Need] = &[Need::Tool("curl"), Need::IptablesLegacy];
const LEGACY_TUN: &[Need] = &[Need::Tool("curl"), Need::Tun, Need::IptablesLegacy];

/// Of a client: one SYN, one retransmission.
const PATIENCE: f64 = 1.4;

use Scenario as S;

#[rustfmt::skip]
pub const SCENARIOS: &[Scenario] = &[
    S::hit("timeout.no-reply", "v4", || silence::no_reply(V4)).needs(CURL_TUN),
    S::hit("timeout.no-reply", "v6", || silence::no_reply(V6)).needs(CURL_TUN),
    S::hit("timeout.no-reply", "kernel_gives_up_v4", || silence::kernel_gives_up(V4)).needs(PYTHON_TUN),
    S::hit("timeout.no-reply", "kernel_gives_up_v6", || silence::kernel_gives_up(V6)).needs(PYTHON_TUN),
    S::hit("timeout.no-reply", "grandchild", silence::shells_grandchild).needs(TUN),
    S::near_miss("timeout.no-reply", "server_answers", silence::server_answers).needs(CURL),
    S::near_miss("timeout.no-reply", "first_syn_lost", silence::first_syn_lost).needs(CURL_TUN),
    S::near_miss("timeout.no-reply", "late_but_in_time", silence::late_but_in_time).needs(TUN),
    S::near_miss("timeout.no-reply", "dropped_by_the_router_here", || firewall::in_router(V4, "forward")).needs(NC_NFT),

    S::hit("timeout.gave-up", "v4", || silence::gave_up(V4)).needs(CURL_TUN),
    S::hit("timeout.gave-up", "v6", || silence::gave_up(V6)).needs(CURL_TUN),
    S::hit("timeout.gave-up", "answer_comes_after_v4", || silence::answer_comes_after(V4)).needs(TUN),
    S::hit("timeout.gave-up", "answer_comes_after_v6", || silence::answer_comes_after(V6)).needs(TUN),
    S::hit("timeout.gave-up", "killed", silence::killed_while_connecting).needs(TUN),
    S::near_miss("timeout.gave-up", "after_a_retransmission", silence::left_after_a_retransmission).needs(CURL_TUN),
    S::near_miss("timeout.gave-up", "short_limit_but_fast_peer", silence::short_limit_but_fast_peer).needs(TUN),
    S::near_miss("timeout.gave-up", "short_limit_and_a_rule", firewall::short_limit).needs(CURL_NFT),

    S::hit("timeout.firewall-drop", "output_v4", || firewall::output(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "output_v6", || firewall::output(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_in_its_family_v4", || firewall::rule_in_its_family(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_in_its_family_v6", || firewall::rule_in_its_family(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "mptcp", firewall::mptcp).needs(MPTCP_NFT),
    S::hit("timeout.firewall-drop", "policy", firewall::policy).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "kernel_gives_up", firewall::kernel_gives_up).needs(NFT),
    S::hit("timeout.firewall-drop", "input_of_the_server_v4", || firewall::in_server(V4, "input")).needs(PYTHON_NFT),
    S::hit("timeout.firewall-drop", "input_of_the_server_v6", || firewall::in_server(V6, "input")).needs(PYTHON_NFT),
    S::hit("timeout.firewall-drop", "prerouting_of_the_server", || firewall::in_server(V4, "prerouting")).needs(PYTHON_NFT),
    S::hit("timeout.firewall-drop", "forward_v4", || firewall::in_router(V4, "forward")).needs(NC_NFT),
    S::hit("timeout.firewall-drop", "forward_v6", || firewall::in_router(V6, "forward")).needs(NC_NFT),
    S::hit("timeout.firewall-drop", "prerouting_of_the_router", || firewall::in_router(V6, "prerouting")).needs(NC_NFT),
    S::hit("timeout.firewall-drop", "postrouting_of_the_router", || firewall::in_router(V4, "postrouting")).needs(NC_NFT),
    S::hit("timeout.firewall-drop", "postrouting_v4", || firewall::postrouting(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "postrouting_v6", || firewall::postrouting(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "ingress", firewall::ingress).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "iptables_nft_v4", || firewall::iptables(V4, "nft")).needs(IPTABLES_NFT),
    S::hit("timeout.firewall-drop", "iptables_nft_v6", || firewall::iptables(V6, "nft")).needs(IPTABLES_NFT),
    S::hit("timeout.firewall-drop", "iptables_legacy_v4", || firewall::iptables(V4, "legacy")).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "iptables_legacy_v6", || firewall::iptables(V6, "legacy")).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "rule_of_a_base_chain", rule::base_chain).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_jumped_to", || rule::jumped_to("jump")).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_gone_to", || rule::jumped_to("goto")).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_with_a_verdict_map", || rule::verdict_map("accept")).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_with_a_verdict_map_before_a_policy", || rule::verdict_map("drop")).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_with_a_set", rule::named_set).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_with_a_limit", rule::limit).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_with_a_state", rule::connection_state).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_at_ingress_v4", || rule::ingress(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_at_ingress_v6", || rule::ingress(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_at_egress", rule::egress).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_of_a_bridge_v4", || rule::bridge(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_of_a_bridge_v6", || rule::bridge(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_of_iptables_nft_v4", || rule::iptables(V4)).needs(IPTABLES_NFT),
    S::hit("timeout.firewall-drop", "rule_of_iptables_nft_v6", || rule::iptables(V6)).needs(IPTABLES_NFT),
    S::hit("timeout.firewall-drop", "rule_deleted_as_told_v4", || rule::deleted_as_told(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_deleted_as_told_v6", || rule::deleted_as_told(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "policy_behind_rules", rule::policy_behind_rules).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "policy_behind_a_verdict_map", rule::policy_behind_a_verdict_map).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "policy_after_return", rule::policy_after_return).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_of_the_second_table", rule::second_of_two_tables).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_behind_counters", rule::counted_before).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "rule_replaced_meanwhile", rule::replaced_meanwhile).needs(NFT),
    S::hit("timeout.firewall-drop", "same_rule_in_another_namespace", rule::same_rule_elsewhere).needs(NFT),
    S::hit("timeout.firewall-drop", "legacy_rule_jumped_to_v4", || compared::jumped_to(V4)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_rule_jumped_to_v6", || compared::jumped_to(V6)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_other_rule_never_counted", compared::other_rule_never_counted).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_either_of_two", compared::either_of_two).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_told_apart_by_counters", compared::told_apart_by_counters).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_policy_v4", || compared::policy(V4)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_policy_v6", || compared::policy(V6)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_input_of_the_server_v4", || compared::in_server(V4)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_input_of_the_server_v6", || compared::in_server(V6)).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_last_of_three_tables", compared::last_of_three_tables).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_replaced_meanwhile", compared::replaced_meanwhile).needs(IPTABLES_LEGACY),
    S::hit("timeout.firewall-drop", "legacy_same_rule_in_another_namespace", compared::same_rule_elsewhere).needs(IPTABLES_LEGACY),
    S::near_miss("timeout.firewall-drop", "legacy_rule_for_other_port", compared::rule_for_other_port).needs(IPTABLES_LEGACY),
    S::near_miss("timeout.firewall-drop", "legacy_rule_counts_and_accepts", compared::rule_counts_and_accepts).needs(LEGACY_TUN),
    S::hit("timeout.firewall-drop", "compared_rule_v4", || compared::nft_rule(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "compared_rule_v6", || compared::nft_rule(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "compared_policy_after_return", compared::nft_policy_after_return).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "compared_second_of_two_tables", compared::nft_second_of_two_tables).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "traced_rule_v4", || compared::traced_rule(V4)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "traced_rule_v6", || compared::traced_rule(V6)).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "traced_policy", compared::traced_policy).needs(CURL_NFT),
    S::hit("timeout.firewall-drop", "traced_alone", compared::traced_alone).needs(NFT),
    S::hit("timeout.firewall-drop", "trace_leaves_nothing", compared::trace_leaves_nothing).needs(NFT),
    S::hit("timeout.firewall-drop", "rule_added_meanwhile", changed::rule_added).needs(NFT),
    S::hit("timeout.firewall-drop", "another_rule_added_meanwhile", changed::other_changes).needs(NFT),
    S::near_miss("timeout.firewall-drop", "rule_for_other_port", firewall::rule_for_other_port).needs(CURL_NFT),
    S::near_miss("timeout.firewall-drop", "rule_counts_and_accepts", firewall::rule_counts_and_accepts).needs(CURL_NFT),
    S::near_miss("timeout.firewall-drop", "first_syn_only", firewall::first_syn_only).needs(CURL_NFT),
    S::near_miss("timeout.firewall-drop", "rule_in_an_unrelated_namespace", firewall::unrelated_namespace).needs(NFT_TUN),
    S::near_miss("timeout.firewall-drop", "same_tuple_dropped_elsewhere", firewall::same_tuple_elsewhere).needs(NFT_TUN),
    S::near_miss("timeout.firewall-drop", "conntrack_table_full", firewall::conntrack_table_full).needs(CONNTRACK).alone(),

    S::hit("timeout.conntrack-full", "v4", firewall::conntrack_table_full).needs(CONNTRACK).alone(),
    S::near_miss("timeout.conntrack-full", "nearly_full", firewall::conntrack_table_nearly_full).needs(CONNTRACK).alone(),
    S::near_miss("timeout.conntrack-full", "legacy_rule", || firewall::iptables(V4, "legacy")).needs(IPTABLES_LEGACY),

    S::hit("timeout.bpf-drop", "tc_v4", || dropper::tc_filter(V4)),
    S::hit("timeout.bpf-drop", "tc_v6", || dropper::tc_filter(V6)),
    S::hit("timeout.bpf-drop", "tcx_of_the_router", dropper::tcx_of_the_router),
    S::hit("timeout.bpf-drop", "tc_drops_the_answer", dropper::tc_drops_the_answer),
    S::hit("timeout.bpf-drop", "xdp_of_the_server_v4", || dropper::xdp_of_the_server(V4, Xdp::Generic)),
    S::hit("timeout.bpf-drop", "xdp_of_the_server_v6", || dropper::xdp_of_the_server(V6, Xdp::Generic)),
    S::hit("timeout.bpf-drop", "native_xdp_of_the_server", || dropper::xdp_of_the_server(V4, Xdp::Native)),
    S::hit("timeout.bpf-drop", "control_group_v4", || dropper::control_group(V4)),
    S::hit("timeout.bpf-drop", "control_group_v6", || dropper::control_group(V6)),
    S::hit("timeout.bpf-drop", "control_group_rejects_the_answer", dropper::control_group_rejects_the_answer),
    S::near_miss("timeout.bpf-drop", "another_port", dropper::another_port).needs(CURL),
    S::near_miss("timeout.bpf-drop", "a_rule_behind_the_program", dropper::rule_behind_a_program).needs(NFT),

    S::hit("timeout.qdisc-drop", "v4", || dropper::queue(V4)),
    S::hit("timeout.qdisc-drop", "v6", || dropper::queue(V6)),
    S::near_miss("timeout.qdisc-drop", "queue_with_room", dropper::queue_with_room).needs(CURL),

    S::hit("timeout.mtu-blackhole", "v4", || mtu::silenced(V4)).needs(NFT),
    S::hit("timeout.mtu-blackhole", "v6", || mtu::silenced(V6)).needs(NFT),
    S::near_miss("timeout.mtu-blackhole", "discovered", mtu::discovered),

    S::hit("timeout.forwarding-disabled", "v4", || dropper::no_forwarding(V4)),
    S::hit("timeout.forwarding-disabled", "v6", || dropper::no_forwarding(V6)),
    S::near_miss("timeout.forwarding-disabled", "hosts_that_are_no_routers", dropper::only_routers_forward).needs(CURL),
    S::near_miss("timeout.forwarding-disabled", "rule_of_the_router", || firewall::in_router(V4, "forward")).needs(NC_NFT),

    S::hit("timeout.reply-dropped", "input_v4", || reply::input(V4)).needs(CURL_NFT),
    S::hit("timeout.reply-dropped", "input_v6", || reply::input(V6)).needs(CURL_NFT),
    S::hit("timeout.reply-dropped", "conntrack_invalid", reply::conntrack_invalid).needs(CONNTRACK),
    S::hit("timeout.reply-dropped", "conntrack_window", reply::conntrack_window).needs(CONNTRACK_TUN),
    S::hit("timeout.reply-dropped", "output_of_the_server_v4", || reply::output_of_the_server(V4)).needs(NC_NFT),
    S::hit("timeout.reply-dropped", "output_of_the_server_v6", || reply::output_of_the_server(V6)).needs(NC_NFT),
    S::hit("timeout.reply-dropped", "forward_on_the_way_back", reply::forward_on_the_way_back).needs(CURL_NFT),
    S::hit("timeout.reply-dropped", "rst_v4", || reply::rst_dropped(V4)).needs(NFT),
    S::hit("timeout.reply-dropped", "rst_v6", || reply::rst_dropped(V6)).needs(NFT),
    S::hit("timeout.reply-dropped", "bad_checksum_v4", || reply::bad_checksum(V4)).needs(NFT_TUN),
    S::hit("timeout.reply-dropped", "bad_checksum_v6", || reply::bad_checksum(V6)).needs(NFT_TUN),
    S::near_miss("timeout.reply-dropped", "first_answer_only", reply::first_answer_only).needs(CURL_NFT),
    S::near_miss("timeout.reply-dropped", "answer_after_the_client_left", || silence::answer_comes_after(V4)).needs(TUN),
    S::near_miss("timeout.reply-dropped", "replies_of_another_server", reply::replies_of_another_server).needs(NFT_TUN),

    S::hit("timeout.reverse-path-filter", "syn_at_the_router", reverse_path::syn_at_the_router),
    S::hit("timeout.reverse-path-filter", "answer_at_the_client", reverse_path::answer_at_the_client),
    S::near_miss("timeout.reverse-path-filter", "loose", reverse_path::loose),
    S::near_miss("timeout.reverse-path-filter", "strict_and_symmetric", reverse_path::strict_and_symmetric).needs(CURL),
    S::near_miss("timeout.reverse-path-filter", "v6_by_a_rule", reverse_path::v6_by_a_rule).needs(NFT),
    S::near_miss("timeout.reverse-path-filter", "another_flow", reverse_path::another_flow).needs(TUN),

    S::hit("timeout.accept-queue-full", "v4", || listener::accept_queue_full(V4)).needs(CURL),
    S::hit("timeout.accept-queue-full", "v6", || listener::accept_queue_full(V6)).needs(CURL),
    S::hit("timeout.accept-queue-full", "kernel_gives_up", listener::accept_queue_full_errno),
    S::hit("timeout.accept-queue-full", "stopped_service_on_loopback", listener::stopped_service).needs(CURL),
    S::near_miss("timeout.accept-queue-full", "nearly_full", listener::nearly_full),
    S::near_miss("timeout.accept-queue-full", "drained_in_time", listener::drained_in_time),
    S::near_miss("timeout.accept-queue-full", "full_on_another_port", listener::full_on_another_port).needs(NFT),

    S::hit("timeout.syn-queue-full", "v4", || listener::syn_queue_full(V4)).needs(SYN_QUEUE),
    S::hit("timeout.syn-queue-full", "v6", || listener::syn_queue_full(V6)).needs(SYN_QUEUE),
    S::hit("timeout.syn-queue-full", "max_syn_backlog", listener::max_syn_backlog).needs(SYN_QUEUE),
    S::near_miss("timeout.syn-queue-full", "syn_cookies", listener::syn_cookies).needs(CURL_NFT),
    S::near_miss("timeout.syn-queue-full", "half_full", listener::syn_queue_half_full).needs(CURL_NFT),
    S::near_miss("timeout.syn-queue-full", "accept_queue_is_full", listener::accept_queue_without_cookies).needs(CURL),

    S::hit("timeout.peer-vanished", "v4", || established::peer_vanished(V4)).needs(TUN),
    S::hit("timeout.peer-vanished", "v6", || established::peer_vanished(V6)).needs(TUN),
    S::hit("timeout.peer-vanished", "python_loses_patience", established::python_loses_patience).needs(PYTHON_TUN),
    S::near_miss("timeout.peer-vanished", "lossy_but_alive", established::lossy_but_alive).needs(TUN),
    S::near_miss("timeout.peer-vanished", "acknowledges_without_answer", established::acknowledges_without_answer).needs(TUN),
    S::near_miss("timeout.peer-vanished", "long_user_timeout_not_reached", established::long_user_timeout).needs(TUN),

    S::hit("timeout.keepalive", "v4", || established::keepalive(V4)).needs(TUN),
    S::hit("timeout.keepalive", "v6", || established::keepalive(V6)).needs(TUN),
    S::near_miss("timeout.keepalive", "answered", established::keepalive_answered).needs(TUN),
    S::near_miss("timeout.keepalive", "data_in_flight", established::keepalive_with_data).needs(TUN),
    S::near_miss("timeout.keepalive", "user_timeout_decides", established::keepalive_with_user_timeout).needs(TUN),

    S::hit("timeout.user-timeout", "v4", || established::user_timeout(V4)).needs(TUN),
    S::hit("timeout.user-timeout", "v6", || established::user_timeout(V6)).needs(TUN),
    S::hit("timeout.user-timeout", "while_connecting_v4", || established::user_timeout_while_connecting(V4)).needs(TUN),
    S::hit("timeout.user-timeout", "while_connecting_v6", || established::user_timeout_while_connecting(V6)).needs(TUN),
    S::near_miss("timeout.user-timeout", "syn_retries_decide", established::syn_retries_decide).needs(TUN),
    S::near_miss("timeout.user-timeout", "peer_answers", established::user_timeout_unused).needs(TUN),
];

/// A table `fw` of `family` (`inet`, `ip`, `ip6`) with one chain `c` of these rules at `hook`.
fn chain(family: &str, hook: &str, rules: &str) -> String {
    format!("table {family} fw {{ chain c {{ type filter hook {hook} priority 0; {rules}; }}; }}")
}

/// Requires `certain` or `likely`.
fn sure(diagnosis: Diagnosis<'_>) -> Result<Diagnosis<'_>> {
    let confidence = diagnosis.at("/confidence");
    ensure!(confidence == "certain" || confidence == "likely", "only {confidence}: {:#}", diagnosis.value);
    Ok(diagnosis)
}

/// Requires that the kernel named the chain whose policy it was. On 6.1 it may be found by comparing, and is likely then.
fn sure_of_policy(diagnosis: Diagnosis<'_>) -> Result<Diagnosis<'_>> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    if release.starts_with("6.1.") && diagnosis.at("/firewall/exact") == false {
        return diagnosis.has("/confidence", "likely");
    }
    diagnosis.certain()?.has("/firewall/exact", true)
}

/// Requires that it happened in `namespace`, by number and name.
fn happened_in<'a>(diagnosis: Diagnosis<'a>, namespace: &Namespace) -> Result<Diagnosis<'a>> {
    diagnosis.has("/where/netns", namespace.inode())?.has("/where/netns_name", namespace.name())
}

/// The client's `nd-client` with these steps, under netdiag.
fn run_steps(net: &Topology, steps: &str) -> Result<netdiag_tests::netdiag::Report> {
    net.netdiag_run(&netdiag_tests::clients::steps(steps)?)
}

/// A shell script inside the client's namespace, under netdiag; `$1` is `nd-client`.
fn run_shell(net: &Topology, script: &str) -> Result<netdiag_tests::netdiag::Report> {
    let client = netdiag_tests::clients::steps("")?;
    let words = ["sh", "-c", script, "sh"].map(str::to_owned);
    net.netdiag_run(&words.into_iter().chain(client).collect::<Vec<_>>())
}
