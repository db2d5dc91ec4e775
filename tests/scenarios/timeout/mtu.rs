//! A link that takes smaller packets than those before it.

use anyhow::Result;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::servers;

use super::run_steps;

const CODE: &str = "timeout.mtu-blackhole";

/// Behind the router it is narrow, in the way of a tunnel. The server does not know.
fn narrow() -> Result<Topology> {
    let net = Topology::new()?;
    net.router.ip("link set to-server mtu 1300")?;
    Ok(net)
}

/// A firewall of the router lets no message about it out.
pub fn silenced(family: Family) -> Result<()> {
    let net = narrow()?;
    net.router.nft(
        "table inet fw { chain out { type filter hook output priority 0;
           icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }",
    )?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let steps = format!("tcp timeout=3000 connect={} send=9000 recv=9000", family.server(8080));
    let report = run_steps(&net, &steps)?;
    let diagnosis = report.exits(1)?.the_only(CODE)?.certain()?.errno(None)?;
    diagnosis.has("/where/netns", net.router.inode())?.has("/where/stage", "route")?;
    Ok(())
}

/// The first packets are lost, the sender is told, and the next are small enough.
pub fn discovered() -> Result<()> {
    let net = narrow()?;
    for family in Family::BOTH {
        let _server = servers::echo(&net.server, family.server(8080))?;
        let steps = format!("tcp timeout=9000 connect={} send=9000 recv=9000 close", family.server(8080));
        run_steps(&net, &steps)?.exits(0)?.nothing()?;
    }
    Ok(())
}
