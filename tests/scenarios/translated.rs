//! NAT of the client's own host makes another destination of the one that the application asked for.

use anyhow::{Result, ensure};
use netdiag_tests::clients::{connect, curl, steps};
use netdiag_tests::net::Family::{self, V4, V6};
use netdiag_tests::net::{Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report, Watch};
use netdiag_tests::remote::{Behaviour, Remote};
use netdiag_tests::scenario::{Need, Scenario};
use netdiag_tests::{servers, tools};

const NFT: &[Need] = &[Need::Nftables, Need::Conntrack];
const CURL: &[Need] = &[Need::Tool("curl"), Need::Nftables, Need::Conntrack];
const TUN: &[Need] = &[Need::Nftables, Need::Conntrack, Need::Tun];
const CURL_TUN: &[Need] = &[Need::Tool("curl"), Need::Nftables, Need::Conntrack, Need::Tun];
const IPTABLES: &[Need] = &[Need::IptablesNft, Need::Conntrack, Need::Tun];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::hit("timeout.no-reply", "translated_v4", || silent(V4)).needs(CURL_TUN),
    Scenario::hit("timeout.no-reply", "translated_v6", || silent(V6)).needs(CURL_TUN),
    Scenario::hit("timeout.no-reply", "translated_before_it_was_watched", found_by_watch).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "translated_v4", || closed_port(V4)).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "translated_v6", || closed_port(V6)).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "kube_proxy", kube_proxy).needs(IPTABLES),
    Scenario::hit("refused.no-listener", "translated_v4", || closed_port_here(V4)).needs(NFT),
    Scenario::hit("refused.no-listener", "translated_v6", || closed_port_here(V6)).needs(NFT),
    Scenario::hit("refused.no-listener", "redirected_v4", || redirected(V4)).needs(NFT),
    Scenario::hit("refused.no-listener", "redirected_v6", || redirected(V6)).needs(NFT),
    Scenario::hit("refused.no-listener", "translated_watched_v4", || closed_port_watched(V4)).needs(NFT),
    Scenario::hit("refused.no-listener", "translated_watched_v6", || closed_port_watched(V6)).needs(NFT),
    Scenario::hit("refused.no-listener", "redirected_watched", redirected_watched).needs(NFT),
    Scenario::hit("refused.peer-no-listener", "translated_watched_v4", || behind_nat(V4)).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "translated_watched_v6", || behind_nat(V6)).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "translated_by_its_host", behind_nat_of_its_host).needs(TUN),
    Scenario::hit("refused.peer-no-listener", "own_address_translated", own_address).needs(TUN),
    Scenario::near_miss("refused.peer-no-listener", "translated_other_port_watched", other_port_watched)
        .needs(TUN),
    Scenario::hit("timeout.firewall-drop", "translated_output", || dropped_in_output(V4)).needs(CURL),
    Scenario::hit("timeout.firewall-drop", "translated_forward_v4", || dropped_in_router(V4)).needs(CURL),
    Scenario::hit("timeout.firewall-drop", "translated_forward_v6", || dropped_in_router(V6)).needs(CURL),
    Scenario::hit("unreachable.blackhole-route", "translated_v4", || blackhole(V4)).needs(CURL),
    Scenario::hit("unreachable.blackhole-route", "translated_v6", || blackhole(V6)).needs(CURL),
    Scenario::near_miss("timeout.firewall-drop", "translated_for_other_port", healthy).needs(NFT),
    Scenario::near_miss("timeout.no-reply", "translated_and_answered", healthy_redirect).needs(NFT),
];

/// What the application asks for: the port of an address that no host has.
fn service(family: Family) -> std::net::SocketAddr {
    let address = if family == V4 { "10.96.0.10:80" } else { "[fd96::10]:80" };
    address.parse().expect("an address")
}

/// A rule of the client's host for the service.
fn nat(namespace: &Namespace, family: Family, verdict: &str) -> Result<()> {
    let (ip, address) = (family.nft(), service(family).ip());
    let rule = format!("{ip} daddr {address} tcp dport 80 {verdict}");
    let chain = format!("chain out {{ type nat hook output priority -100; {rule}; }}");
    namespace.nft(&format!("table {ip} services {{ {chain}; }}"))?;
    Ok(())
}

fn to(namespace: &Namespace, family: Family, backend: std::net::SocketAddr) -> Result<()> {
    nat(namespace, family, &format!("dnat to {backend}"))
}

/// The connection is told as the application asked for it, and with what became of it.
fn is_told(found: Diagnosis<'_>, family: Family, backend: std::net::SocketAddr) -> Result<Diagnosis<'_>> {
    let asked = service(family);
    found
        .has("/connection/peer/address", asked.ip().to_string())?
        .has("/connection/peer/port", asked.port())?
        .has("/connection/translated/peer/address", backend.ip().to_string())?
        .has("/connection/translated/peer/port", backend.port())?
        .mentions("/summary", &asked.to_string())?
        .mentions("/explanation", &backend.to_string())
}

fn silent(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    to(&net.client, family, family.remote(8080))?;
    let report = net.netdiag_run(&curl(service(family), 2.5))?;
    let found = report.exits(28)?.the_only("timeout.no-reply")?.has("/confidence", "likely")?;
    let found = is_told(found, family, family.remote(8080))?.has("/where/interface", "eth0")?;
    let on_wire =
        |all: &Vec<serde_json::Value>| all.iter().filter(|one| one["event"] == "syn-on-wire").count();
    ensure!(found.at("/evidence").as_array().is_some_and(|all| on_wire(all) >= 2), "{}", report.dump());
    Ok(())
}

/// Connection tracking tells of a connection that began before the wire was watched.
fn found_by_watch() -> Result<()> {
    tools::load_conntrack_netlink();
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(8080, Behaviour::Silent)])?;
    to(&net.client, V4, V4.remote(8080))?;
    let watch = Watch::start(&net.namespaces(), &[])?;
    net.client.run(&steps(&format!("tcp connect={},2500", service(V4)))?)?.exits(3)?;
    let report = watch.stop()?;
    is_told(report.the_only("timeout.no-reply")?, V4, V4.remote(8080))?;
    Ok(())
}

fn closed_port(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    to(&net.client, family, family.remote(8080))?;
    let report = net.netdiag_run(&connect(service(family))?)?;
    let found = report.exits(1)?.the_only("refused.peer-no-listener")?.errno(Some("ECONNREFUSED"))?;
    is_told(found, family, family.remote(8080))?.has("/where/side", "peer")?;
    Ok(())
}

/// Watched without a filter: no packet is seen on the wire, and the RST takes the entry of connection tracking along.
fn refused_watched(net: &Topology, to: std::net::SocketAddr) -> Result<Report> {
    let watch = Watch::start(&net.namespaces(), &[])?;
    net.client.run(&connect(to)?)?.exits(1)?;
    let report = watch.stop()?;
    ensure!(report.diagnoses.len() == 1, "{}", report.dump());
    Ok(report)
}

/// The drop of the SYN, in another namespace of this machine, tells what became of it.
fn closed_port_watched(family: Family) -> Result<()> {
    let net = Topology::new()?;
    to(&net.client, family, family.server(8080))?;
    let report = refused_watched(&net, service(family))?;
    let found = report.the_only("refused.no-listener")?.certain()?;
    is_told(found, family, family.server(8080))?.has("/where/netns", net.server.inode())?;
    Ok(())
}

fn redirected_watched() -> Result<()> {
    let net = Topology::new()?;
    nat(&net.client, V4, "redirect to :8081")?;
    let report = refused_watched(&net, service(V4))?;
    let found = report.the_only("refused.no-listener")?.certain()?;
    is_told(found, V4, V4.loopback(8081))?.has("/where/netns", net.client.inode())?;
    Ok(())
}

/// Of another host there is no drop: the rule is all that can be named.
fn behind_nat(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    to(&net.client, family, family.remote(8080))?;
    let report = refused_watched(&net, service(family))?;
    let found = report.the_only("refused.peer-no-listener")?.has("/confidence", "possible")?;
    found
        .mentions("/summary", &family.remote(8080).to_string())?
        .mentions("/explanation", " services out handle ")?
        .has("/alternatives/0", "refused.no-listener")?
        .mentions("/next_steps/0/command", "nft -a list chain")?;
    Ok(())
}

/// The client is a container; NAT is that of the host, where netdiag is.
fn behind_nat_of_its_host() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let rule = format!("ip daddr {} tcp dport 80 dnat to {}", service(V4).ip(), V4.remote(8080));
    net.router.nft(&format!(
        "table ip services {{ chain pre {{ type nat hook prerouting priority -100; {rule}; }}; }}"
    ))?;
    let watch = Watch::start_inside(&[&net.router, &net.client], &[])?;
    net.client.run(&connect(service(V4))?)?.exits(1)?;
    let report = watch.stop()?;
    let found = report.the_only("refused.peer-no-listener")?.has("/confidence", "possible")?;
    found
        .mentions("/summary", &V4.remote(8080).to_string())?
        .has("/next_steps/0/command", "nft -a list chain ip services pre")?;
    Ok(())
}

/// Nothing listens on the port of the host's own address, and nothing is meant to: its rule sends it elsewhere.
fn own_address() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let (own, backend) = (std::net::SocketAddr::new(V4.client(), 80), V4.remote(8080));
    let rule = format!("ip daddr {} tcp dport 80 dnat to {backend}", own.ip());
    net.client.nft(&format!(
        "table ip services {{ chain out {{ type nat hook output priority -100; {rule}; }}; }}"
    ))?;
    let report = refused_watched(&net, own)?;
    let found = report.the_only("refused.peer-no-listener")?.has("/confidence", "possible")?;
    found.mentions("/summary", &backend.to_string())?;
    Ok(())
}

/// There is a rule of NAT, but not for this.
fn other_port_watched() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    to(&net.client, V4, V4.remote(8080))?;
    let report = refused_watched(&net, V4.remote(8081))?;
    let found = report.the_only("refused.peer-no-listener")?.has("/confidence", "likely")?;
    found.has("/where/side", "peer")?.has("/connection/translated", ())?;
    Ok(())
}

/// As kube-proxy's iptables mode writes it (pkg/proxy/iptables/proxier.go).
fn kube_proxy() -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[])?;
    let backend = V4.remote(8080);
    let mark = "-j MARK --or-mark 0x4000";
    let rules = [
        "-N KUBE-SERVICES".to_owned(),
        "-N KUBE-POSTROUTING".to_owned(),
        "-N KUBE-MARK-MASQ".to_owned(),
        "-N KUBE-SVC-WEB".to_owned(),
        "-N KUBE-SEP-ONE".to_owned(),
        "-A OUTPUT -m comment --comment services -j KUBE-SERVICES".to_owned(),
        "-A POSTROUTING -m comment --comment postrouting -j KUBE-POSTROUTING".to_owned(),
        format!("-A KUBE-SERVICES -d {} -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB", service(V4).ip()),
        format!("-A KUBE-MARK-MASQ {mark}"),
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully".to_owned(),
        "-A KUBE-SVC-WEB -j KUBE-MARK-MASQ".to_owned(),
        "-A KUBE-SVC-WEB -m comment --comment default/web:http -j KUBE-SEP-ONE".to_owned(),
        format!("-A KUBE-SEP-ONE -p tcp -m tcp -j DNAT --to-destination {backend}"),
    ];
    for rule in &rules {
        let words: Vec<&str> = ["iptables-nft", "-t", "nat"].into_iter().chain(rule.split(' ')).collect();
        net.client.run(&words)?.exits(0)?;
    }
    let report = net.netdiag_run(&connect(service(V4))?)?;
    let found = report.exits(1)?.the_only("refused.peer-no-listener")?.errno(Some("ECONNREFUSED"))?;
    is_told(found, V4, backend)?;
    Ok(())
}

/// The backend is in another namespace of this machine.
fn closed_port_here(family: Family) -> Result<()> {
    let net = Topology::new()?;
    to(&net.client, family, family.server(8080))?;
    let report = net.netdiag_run(&connect(service(family))?)?;
    let found = report.exits(1)?.the_only("refused.no-listener")?.certain()?;
    is_told(found, family, family.server(8080))?.has("/where/netns", net.server.inode())?;
    Ok(())
}

/// The SYN comes back to where it was sent from, by the loopback interface.
fn redirected(family: Family) -> Result<()> {
    let net = Topology::new()?;
    nat(&net.client, family, "redirect to :8081")?;
    let report = net.netdiag_run(&connect(service(family))?)?;
    let found = report.exits(1)?.the_only("refused.no-listener")?.certain()?;
    is_told(found, family, family.loopback(8081))?.has("/where/netns", net.client.inode())?;
    Ok(())
}

fn drop_chain(family: Family, hook: &str) -> String {
    let rule = format!("{} daddr {} tcp dport 8080 drop", family.nft(), family.server(0).ip());
    format!("table inet fw {{ chain c {{ type filter hook {hook} priority 0; {rule}; }}; }}")
}

fn dropped_by<'a>(found: Diagnosis<'a>, family: Family, place: &Namespace) -> Result<Diagnosis<'a>> {
    is_told(found, family, family.server(8080))?
        .has("/where/netns", place.inode())?
        .has("/firewall/table", "fw")?
        .has("/firewall/exact", true)?
        .mentions("/firewall/rule", "tcp dport 8080 drop")
}

/// Behind NAT in the same hook: the packet leaves no trace in connection tracking.
fn dropped_in_output(family: Family) -> Result<()> {
    dropped_in(family, "output", |net| &net.client)
}

fn dropped_in_router(family: Family) -> Result<()> {
    dropped_in(family, "forward", |net| &net.router)
}

fn dropped_in(family: Family, hook: &str, place: fn(&Topology) -> &Namespace) -> Result<()> {
    let net = Topology::new()?;
    to(&net.client, family, family.server(8080))?;
    place(&net).nft(&drop_chain(family, hook))?;
    let report = net.netdiag_run(&curl(service(family), 1.4))?;
    let found = report.exits(28)?.the_only("timeout.firewall-drop")?.certain()?;
    dropped_by(found, family, place(&net))?;
    Ok(())
}

/// The service has a route, what NAT makes of it has none.
fn blackhole(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let backend = family.server(8080);
    to(&net.client, family, backend)?;
    net.client.ip(&format!("route add blackhole {}", backend.ip()))?;
    let report = net.netdiag_run(&curl(service(family), 1.4))?;
    let found = report.exits(28)?.the_only("unreachable.blackhole-route")?.certain()?.errno(None)?;
    is_told(found, family, backend)?.has("/where/stage", "route")?.has("/firewall", ())?;
    Ok(())
}

/// A rule drops what goes to the service's own port, which no packet has any more.
fn healthy() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(8080))?;
        to(&net.client, family, family.server(8080))?;
        let client = steps(&format!("tcp connect={},2000 send=9 recv=9 close", service(family)))?;
        net.client
            .nft("table inet fw { chain c { type filter hook output priority 0; tcp dport 80 drop; }; }")?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
        net.client.nft("delete table inet fw")?;
    }
    Ok(())
}

fn healthy_redirect() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.client, family.loopback(8081))?;
        nat(&net.client, family, "redirect to :8081")?;
        let client = steps(&format!("tcp connect={},2000 send=9 recv=9 close", service(family)))?;
        net.netdiag_run(&client)?.exits(0)?.nothing()?;
    }
    Ok(())
}
