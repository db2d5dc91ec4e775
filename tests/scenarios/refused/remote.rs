//! Somebody on the way says no in the peer's place.

use anyhow::Result;
use netdiag_tests::clients::{self, connect};
use netdiag_tests::net::{Family, Topology};
use netdiag_tests::netdiag::Report;
use netdiag_tests::remote::{Behaviour, IcmpKind, Remote, Sender};

use super::{MIDDLEBOX, PEER, REMOTE_REJECT};

pub fn by_icmp(family: Family, from: Sender, port: u16) -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from };
    let _remote = Remote::start(&net.router, &[(port, refuses)])?;
    let report = net.netdiag_run(&connect(family.remote(port))?)?;
    let (side, sender) = match from {
        Sender::Router => ("path", family.remote_router()),
        Sender::Peer => ("peer", family.remote(0).ip()),
    };
    report
        .exits(1)?
        .the_only(REMOTE_REJECT)?
        .certain()?
        .errno(Some("ECONNREFUSED"))?
        .has("/where/side", side)?
        .mentions("/summary", &sender.to_string())?;
    Ok(())
}

/// A datagram is sent and refused.
fn send(net: &Topology, address: std::net::SocketAddr) -> Result<Report> {
    net.netdiag_run(&clients::steps(&format!("udp connect={address} timeout=2000 send=9 recv=9"))?)
}

/// Who sent an ICMP error about a datagram is seen on the wire.
pub fn datagram(family: Family, port: u16) -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from: Sender::Router };
    let _remote = Remote::start(&net.router, &[(port, refuses)])?;
    let report = send(&net, family.remote(port))?;
    let found = report.exits(1)?.the_only(REMOTE_REJECT)?.has("/confidence", "likely")?;
    found.has("/connection/protocol", "udp")?.errno(Some("ECONNREFUSED"))?;
    Ok(())
}

/// A host says so of a datagram that no socket takes.
pub fn datagram_by_peer(port: u16) -> Result<()> {
    let net = Topology::new()?;
    let refuses = Behaviour::Icmp { kind: IcmpKind::PortUnreachable, from: Sender::Peer };
    let _remote = Remote::start(&net.router, &[(port, refuses)])?;
    send(&net, Family::V4.remote(port))?.exits(1)?.the_only(PEER)?;
    Ok(())
}

/// One port of the peer answers, and then another is reset with this TTL.
fn reset_after_an_answer(family: Family, ttl: u8, port: u16, code: &str) -> Result<()> {
    let net = Topology::new()?;
    let ports = [(port, Behaviour::Accept), (port + 1, Behaviour::Reset { ttl })];
    let _remote = Remote::start(&net.router, &ports)?;
    let works = clients::steps(&format!("connect={} send=9 recv=9 close", family.remote(port)))?.join(" ");
    let reset = connect(family.remote(port + 1))?.join(" ");
    let script = format!("{works} && exec {reset}");
    let report = net.netdiag_run(&["sh", "-c", &script].map(str::to_owned))?;
    let found = report.exits(1)?.the_only(code)?.errno(Some("ECONNREFUSED"))?;
    found.has("/confidence", "likely")?.has("/connection/peer/port", port + 1)?;
    Ok(())
}

pub fn from_nearer(family: Family, port: u16) -> Result<()> {
    reset_after_an_answer(family, 63, port, MIDDLEBOX)
}

/// The peer's own TTL, and another initial value over as many routers.
pub fn like_the_peer(port: u16) -> Result<()> {
    reset_after_an_answer(Family::V4, netdiag_tests::remote::REMOTE_TTL, port, PEER)?;
    reset_after_an_answer(Family::V6, 255 - (64 - netdiag_tests::remote::REMOTE_TTL), port, PEER)
}

/// Nothing is known of how the peer answers.
pub fn never_answered(port: u16) -> Result<()> {
    let net = Topology::new()?;
    let _remote = Remote::start(&net.router, &[(port, Behaviour::Reset { ttl: 63 })])?;
    net.netdiag_run(&connect(Family::V4.remote(port))?)?.exits(1)?.the_only(PEER)?;
    Ok(())
}
