//! The routing tables say no, each in its own way.

use anyhow::Result;
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::{clients, servers};

use super::{broke_in, flag, other_network, port_is_closed, says, server_network};
use crate::timeout::changed::before;

/// The server's network has this kind of route at the client.
fn with_route(family: Family, kind: &str) -> Result<Topology> {
    let net = Topology::new()?;
    net.client.ip(&format!("route add {kind} {}", server_network(family)))?;
    Ok(net)
}

/// A policy rule of the client has this to say about the server's network.
fn with_rule(family: Family, action: &str) -> Result<Topology> {
    let net = Topology::new()?;
    let (flag, network) = (flag(family), server_network(family));
    net.client.ip(&format!("{flag} rule add pref 90 to {network} {action}"))?;
    Ok(net)
}

/// A `throw` route ends the lookup in the main table: the default route there is never looked at.
pub fn throw(family: Family) -> Result<()> {
    let net = with_route(family, "throw")?;
    let report = net.netdiag_run(&clients::curl(family.server(8080), 3.0))?;
    let diagnosis = report.exits(7)?.the_only("unreachable.no-route")?.certain()?;
    diagnosis.errno(Some("ENETUNREACH"))?.has("/where/stage", "route")?.has("/process/comm", "curl")?;
    broke_in(diagnosis, &net.client)?;
    Ok(())
}

pub fn unreachable_rule(family: Family) -> Result<()> {
    let net = with_rule(family, "unreachable")?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.no-route")?.errno(Some("ENETUNREACH"))?;
    says(diagnosis.certain()?, "rule 90")?;
    Ok(())
}

/// TCP talks to single hosts only, and says so with the words of routing.
pub fn broadcast_address() -> Result<()> {
    let net = Topology::new()?;
    let report = net.netdiag_run(&clients::steps("tcp connect=10.77.1.255:8080")?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.no-route")?.errno(Some("ENETUNREACH"))?;
    says(diagnosis, "broadcast")?;
    Ok(())
}

/// The SYN arrives, but the router does not know the way to the source that the client has bound.
pub fn no_way_back(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let source = match family {
        Family::V4 => "10.88.0.1",
        Family::V6 => "fd88::1",
    };
    net.client.ip(&format!("addr add {source} dev lo"))?;
    let _server = servers::echo(&net.server, family.server(8080))?;
    let bind = match family {
        Family::V4 => format!("{source}:0"),
        Family::V6 => format!("[{source}]:0"),
    };
    let steps = format!("tcp bind={bind} connect={},2500", family.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    let diagnosis = report.exits(3)?.the_only("unreachable.no-route")?.errno(None)?;
    broke_in(says(diagnosis, source)?, &net.router)?;
    Ok(())
}

pub fn throw_for_another_prefix() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        net.client.ip(&format!("route add throw {}", other_network(family)))?;
        port_is_closed(&net, family.server(9301))?;
    }
    Ok(())
}

pub fn no_default_route(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.ip(&format!("{} route del default", flag(family)))?;
    let report = net.netdiag_run(&clients::grandchild(&clients::connect(family.server(8080))?))?;
    let diagnosis = report.exits(1)?.the_only("unreachable.no-default-route")?.certain()?;
    diagnosis.errno(Some("ENETUNREACH"))?.has("/process/comm", "nd-client")?;
    broke_in(diagnosis, &net.client)?;
    Ok(())
}

/// No default route is no fault where another route leads there.
pub fn a_route_covers_it() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        net.client.ip(&format!("{} route del default", flag(family)))?;
        net.client.ip(&format!("route add {} via {}", server_network(family), family.router()))?;
        port_is_closed(&net, family.server(9302))?;
    }
    Ok(())
}

pub fn blackhole(family: Family) -> Result<()> {
    let net = with_route(family, "blackhole")?;
    let report = net.netdiag_run(&clients::python(family.server(8080), None, 0))?;
    let diagnosis = report.exits(1)?.the_only("unreachable.blackhole-route")?.certain()?;
    diagnosis.errno(Some("EINVAL"))?.has("/where/stage", "route")?;
    broke_in(says(diagnosis, server_network(family))?, &net.client)?;
    Ok(())
}

pub fn blackhole_rule(family: Family) -> Result<()> {
    let net = with_rule(family, "blackhole")?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.blackhole-route")?.errno(Some("EINVAL"))?;
    says(diagnosis.certain()?, "rule 90")?;
    Ok(())
}

/// A forwarded packet is swallowed without a word: the client waits in vain.
pub fn blackhole_in_router(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.router.ip(&format!("route add blackhole {}", family.server(0).ip()))?;
    let steps = format!("tcp connect={},2200", family.server(8080));
    let report = net.netdiag_run(&clients::steps(&steps)?)?;
    let diagnosis = report.exits(3)?.the_only("unreachable.blackhole-route")?.errno(None)?;
    // The IPv4 lookup does not say in which namespace it was.
    match family {
        Family::V4 => drop(diagnosis.has("/confidence", "possible")?.has("/where/netns", ())?),
        Family::V6 => drop(broke_in(diagnosis.has("/confidence", "likely")?, &net.router)?),
    }
    Ok(())
}

/// A program that tries addresses in turn soon lets go of this one; that it is lost is known all the same.
pub fn blackhole_in_router_and_soon_closed() -> Result<()> {
    let net = Topology::new()?;
    let address = Family::V6.server(8080);
    net.router.ip(&format!("route add blackhole {}", address.ip()))?;
    let report = net.netdiag_run(&clients::steps(&format!("tcp connect={address},250"))?)?;
    let diagnosis = report.exits(3)?.the_only("unreachable.blackhole-route")?.errno(None)?;
    broke_in(diagnosis, &net.router)?;
    Ok(())
}

/// A route that refuses, but not this destination: the closed port is the trouble.
pub fn covers_another_prefix(kind: &str) -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        net.client.ip(&format!("route add {kind} {}", other_network(family)))?;
        port_is_closed(&net, family.server(9303))?;
    }
    Ok(())
}

/// A blackhole that covers a block, of which this part is in use.
pub fn a_longer_prefix_wins() -> Result<()> {
    let net = Topology::new()?;
    for family in Family::BOTH {
        let block = if family == Family::V4 { "10.0.0.0/8" } else { "fd00::/8" };
        net.client.ip_batch(&format!(
            "route add blackhole {block}
             route add {} via {}",
            server_network(family),
            family.router()
        ))?;
        let _server = servers::http(&net.server, family.server(8080))?;
        net.netdiag_run(&clients::curl(family.server(8080), 3.0))?.exits(0)?.nothing()?;
    }
    Ok(())
}

pub fn unreachable(family: Family) -> Result<()> {
    let net = with_route(family, "unreachable")?;
    let report = net.netdiag_run(&clients::nc(family.server(8080), 3))?;
    let diagnosis = report.exits(1)?.the_only("unreachable.unreachable-route")?.certain()?;
    diagnosis.errno(Some("EHOSTUNREACH"))?.has("/process/comm", "nc")?;
    broke_in(says(diagnosis, server_network(family))?, &net.client)?;
    Ok(())
}

pub fn prohibit(family: Family) -> Result<()> {
    let net = with_route(family, "prohibit")?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.prohibit-route")?.certain()?;
    broke_in(says(diagnosis.errno(Some("EACCES"))?, server_network(family))?, &net.client)?;
    Ok(())
}

pub fn prohibit_rule(family: Family) -> Result<()> {
    let net = with_rule(family, "prohibit")?;
    let report = net.netdiag_run(&clients::connect(family.server(8080))?)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.prohibit-route")?.errno(Some("EACCES"))?;
    says(diagnosis.certain()?, "rule 90")?;
    Ok(())
}

/// Another route goes at the same time, which leads elsewhere.
pub fn removed_meanwhile() -> Result<()> {
    let net = Topology::new()?;
    net.client.ip("route add 10.99.0.0/16 dev eth0")?;
    let address = Family::V4.server(8080);
    let script = format!(
        "ip route del 10.99.0.0/16; ip -4 route del default; sleep 0.3; \"$1\" tcp connect={address},1400"
    );
    let words = ["sh", "-c", &script, "sh"].map(str::to_owned);
    let command: Vec<String> = words.into_iter().chain(clients::steps("")?).collect();
    let report = net.netdiag_run(&command)?;
    let diagnosis = report.exits(1)?.the_only("unreachable.no-default-route")?;
    before(diagnosis, "route-removed", &["default via 10.77.1.1 dev eth0"])?;
    Ok(())
}
