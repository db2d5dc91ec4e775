//! kube-proxy rejects for a Service without endpoints, in each of its modes.

use anyhow::{Result, ensure};
use netdiag_tests::clients::{self, connect};
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::{Diagnosis, Report};

use super::{REJECT, SERVICE};

/// As kube-proxy's iptables mode writes it (pkg/proxy/iptables/proxier.go).
fn iptables(namespace: &Namespace, program: &str, family: Family, port: u16, comment: &str) -> Result<()> {
    let address = family.server(0).ip().to_string();
    let port = port.to_string();
    let add = |words: &[&str]| namespace.run(&[&[program], words].concat())?.exits(0).map(drop);
    add(&["-N", "KUBE-SERVICES"])?;
    add(&["-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "KUBE-SERVICES"])?;
    add(&["-A", "KUBE-SERVICES", "-d", &address, "-p", "udp", "--dport", "53", "-j", "REJECT"])?;
    let rule = ["-A", "KUBE-SERVICES", "-m", "comment", "--comment", comment, "-d", &address, "-p", "tcp"];
    add(&[&rule[..], &["-m", "tcp", "--dport", &port, "-j", "REJECT"]].concat())
}

fn no_endpoints<'a>(report: &'a Report, place: &Namespace, confidence: &str) -> Result<Diagnosis<'a>> {
    let found = report.exits(1)?.the_only(SERVICE)?.errno(Some("ECONNREFUSED"))?;
    found
        .has("/confidence", confidence)?
        .has("/where/netns", place.inode())?
        .mentions("/summary", "default/web:http has no endpoints")?
        .mentions("/next_steps/0/command", "kubectl -n default get endpointslices")
}

pub fn by_iptables(variant: &str, family: Family, port: u16) -> Result<()> {
    let net = Topology::new()?;
    let program = format!("{}-{variant}", if family == Family::V4 { "iptables" } else { "ip6tables" });
    iptables(&net.client, &program, family, port, "default/web:http has no endpoints")?;
    let report = net.netdiag_run(&connect(family.server(port))?)?;
    no_endpoints(&report, &net.client, if variant == "nft" { "certain" } else { "likely" })?
        .has("/firewall/chain", "KUBE-SERVICES")?
        .has("/firewall/rule_number", 2)?
        .has("/firewall/exact", variant == "nft")?;
    Ok(())
}

/// As its nftables mode has it (pkg/proxy/nftables/proxier.go).
fn nftables(family: Family, port: u16) -> String {
    let (ip, table) = (family.nft(), if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" });
    let address = family.server(0).ip();
    format!(
        "table {ip} kube-proxy {{
            comment \"rules for kube-proxy\"
            map no-endpoint-services {{
                type {table} . inet_proto . inet_service : verdict
                comment \"vmap to drop or reject packets to services with no endpoints\"
                elements = {{
                    {address} . tcp . 9 comment \"default/other:http\" : goto reject-chain,
                    {address} . tcp . {port} comment \"default/web:http\" : goto reject-chain }}
            }}
            map no-endpoint-nodeports {{
                type inet_proto . inet_service : verdict
                elements = {{ tcp . 30080 comment \"default/third\" : goto reject-chain }}
            }}
            chain reject-chain {{
                comment \"helper for @no-endpoint-services / @no-endpoint-nodeports\"
                reject
            }}
            chain service-endpoints-check {{
                {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
            }}
            chain filter-output {{
                type filter hook output priority -110
                ct state new jump service-endpoints-check
            }}
         }}"
    )
}

pub fn by_nftables(family: Family, port: u16) -> Result<()> {
    let net = Topology::new()?;
    net.client.nft(&nftables(family, port))?;
    let report = net.netdiag_run(&connect(family.server(port))?)?;
    no_endpoints(&report, &net.client, "certain")?
        .has("/firewall/table", "kube-proxy")?
        .has("/firewall/chain", "reject-chain")?
        .has("/firewall/exact", true)?;
    Ok(())
}

pub fn udp(port: u16) -> Result<()> {
    let net = Topology::new()?;
    // At the output hook the sender would get EPERM.
    let rules =
        nftables(Family::V4, port).replace(". tcp .", ". udp .").replace("hook output", "hook forward");
    net.router.nft(&rules)?;
    let client =
        clients::steps(&format!("udp connect={} timeout=2000 send=9 recv=9", Family::V4.server(port)))?;
    let report = net.netdiag_run(&client)?;
    ensure!(report.dump().contains("default/web:http"), "{}", report.dump());
    report.exits(1)?.the_only(SERVICE)?;
    Ok(())
}

/// The same rule with another comment.
pub fn another_comment(variant: &str, port: u16) -> Result<()> {
    let net = Topology::new()?;
    iptables(&net.client, &format!("iptables-{variant}"), Family::V4, port, "default/web:http is closed")?;
    let report = net.netdiag_run(&connect(Family::V4.server(port))?)?;
    report.exits(1)?.the_only(REJECT)?.has("/firewall/comment", "default/web:http is closed")?;
    Ok(())
}
