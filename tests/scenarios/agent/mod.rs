//! `netdiag agent` finds what is injected, keeps it, counts it, and says so when it cannot.

mod asked;
mod clock;
mod config;
mod counts;
mod disk;
mod doctor;
mod latency;
mod life;
mod owners;
mod store;

use std::time::Duration;

use anyhow::Result;
use netdiag_tests::clients;
use netdiag_tests::net::{Family, Namespace};
use netdiag_tests::scenario::{Need, Scenario};

const SOON: Duration = Duration::from_secs(15);
const BPFTOOL: &[Need] = &[Need::Tool("bpftool")];
/// The sample of what changes the whole machine, and puts it right again: in virtual machines only.
const OWN_MACHINE: &str = "own-machine";
const FAILURES: &str = "netdiag_connection_failures_total";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::healthy("agent_stores_what_fails", store::stores_what_fails),
    Scenario::healthy("agent_killed_loses_nothing_stored", store::killed_loses_nothing_stored).needs(BPFTOOL),
    Scenario::healthy("agent_history_chooses", store::history_chooses),
    Scenario::healthy("agent_history_without_a_store", store::history_without_a_store),
    Scenario::healthy("agent_arguments_are_not_stored", store::arguments_are_not_stored),
    Scenario::healthy("agent_counts_what_is_injected", counts::counts_what_is_injected),
    Scenario::healthy("agent_counts_the_firewall_s_rule", counts::counts_the_firewall_s_rule)
        .needs(&[Need::Nftables]),
    Scenario::healthy("agent_counts_sockets", counts::counts_sockets).limit(Duration::from_secs(120)),
    Scenario::healthy("agent_tells_whose_time_wait", counts::tells_whose_time_wait)
        .limit(Duration::from_secs(120)),
    Scenario::healthy("agent_does_without_owners", counts::does_without_owners),
    // The counts are those of the whole machine.
    Scenario::healthy("agent_latency_of_each_connection", latency::counts_each_connection)
        .limit(Duration::from_secs(120))
        .alone(),
    Scenario::healthy("agent_latency_local_apart", latency::tells_local_connections_apart)
        .limit(Duration::from_secs(120))
        .alone(),
    Scenario::healthy("agent_does_without_latency", latency::does_without),
    Scenario::healthy("agent_labels_are_bounded", counts::labels_are_bounded).limit(Duration::from_secs(120)),
    Scenario::healthy("agent_pages", counts::pages),
    Scenario::healthy("agent_full_disk", disk::full),
    Scenario::healthy("agent_read_only_disk", disk::read_only),
    Scenario::healthy("agent_damaged_file", disk::damaged_file).needs(&[Need::Tool("date")]),
    Scenario::healthy("agent_configuration_errors", config::errors),
    Scenario::healthy("agent_default_configuration", config::default),
    Scenario::healthy("agent_reload", config::reload),
    Scenario::healthy("agent_doctor_of_its_home", doctor::of_its_home),
    Scenario::healthy("agent_doctor_of_a_wrong_configuration", doctor::of_a_wrong_configuration),
    Scenario::healthy("agent_doctor_of_a_store_of_another_user", doctor::of_a_store_of_another_user),
    Scenario::healthy("agent_doctor_of_missing_capabilities", doctor::of_missing_capabilities)
        .needs(&[Need::Tool("setpriv")])
        .limit(Duration::from_secs(90)),
    Scenario::healthy("agent_second_is_told", life::second_is_told),
    Scenario::healthy("agent_needs_no_more_than_its_unit_gives", life::needs_no_more_than_its_unit_gives)
        .needs(&[Need::Tool("setpriv")]),
    Scenario::healthy("agent_gives_up_rights", life::gives_up_rights),
    // Its burst uses up what others may be told of.
    Scenario::healthy("agent_stopped_for_a_while", clock::stopped_for_a_while)
        .limit(Duration::from_secs(120))
        .alone(),
    Scenario::healthy("agent_clock_is_set", clock::set).only_in(OWN_MACHINE).alone(),
    Scenario::healthy("watch_clock_is_set", clock::set_while_watching).only_in(OWN_MACHINE).alone(),
    Scenario::healthy("agent_prometheus_scrapes", counts::prometheus_scrapes)
        .needs(&[Need::Tool("prometheus"), Need::Tool("curl")]),
    Scenario::healthy("agent_keeps_within_its_budget", life::keeps_within_its_budget)
        .needs(&[Need::Nftables])
        .limit(Duration::from_secs(120)),
    Scenario::healthy("agent_asked_for_drops", asked::for_drops).needs(&[Need::Nftables]),
    Scenario::healthy("agent_asked_by_its_group", asked::by_its_group)
        .needs(&[Need::Tool("setpriv"), Need::Nftables]),
    Scenario::healthy("agent_asked_in_vain", asked::in_vain),
    Scenario::healthy("agent_knows_who_closed", owners::of_time_wait).needs(&[Need::Tool("ss")]),
    Scenario::healthy("agent_knows_who_left_it_to_the_peer", owners::of_what_waits_for_the_peer)
        .needs(&[Need::Tool("ss")]),
    Scenario::healthy("agent_knows_who_held_a_port", owners::of_a_port),
    Scenario::healthy("agent_tells_systemd", life::tells_systemd),
    Scenario::healthy("agent_namespaces_come_and_go", life::namespaces_come_and_go).alone(),
];

/// A host whose connections alone an agent is to look at.
struct Host {
    namespace: Namespace,
    filter: String,
}

impl Host {
    fn new() -> Result<Self> {
        let namespace = Namespace::new("host")?;
        let filter = format!("netns {}", namespace.inode());
        Ok(Self { namespace, filter })
    }

    fn variable(&self) -> (&str, &str) {
        ("NETDIAG_FILTER", &self.filter)
    }

    /// One connection to each port; nothing listens there.
    fn refused(&self, ports: std::ops::Range<u16>) -> Result<()> {
        for port in ports {
            self.namespace.run(&clients::connect(Family::V4.loopback(port))?)?.exits(1)?;
        }
        Ok(())
    }
}
