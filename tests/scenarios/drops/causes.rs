//! Drops at the socket, in queues, and on the way to the next hop.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netdiag_tests::datagrams::{self, Raw};
use netdiag_tests::net::{Family, Topology};

use super::{PORT, during, raw, send};

pub fn no_socket(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let report = during(&[], || send(&net, family, 1))?;
    report
        .the_only("drop.no-socket", &net.namespaces())?
        .counts(1)?
        .has("/reason", "NO_SOCKET")?
        .has("/sample/netns_name", net.server.name())?
        .has("/sample/direction", "inbound")?
        .has("/where/stage", "socket")?;
    Ok(())
}

pub fn somebody_listens() -> Result<()> {
    let net = Topology::new()?;
    // They answer nothing: an answer would find the client's socket closed.
    let _receivers = Family::BOTH.map(|family| datagrams::receiver(&net.server, family.server(PORT)));
    let report = during(&[], || Family::BOTH.into_iter().try_for_each(|family| send(&net, family, 1)))?;
    report.nothing(&net.namespaces())
}

pub fn checksum(damaged: bool) -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    let packet = Raw { damaged, ..raw(Ipv4Addr::new(10, 77, 1, 2)) };
    let report = during(&[], || packet.send(&net.client, 2))?;
    if !damaged {
        return report.nothing(&net.namespaces());
    }
    report
        .the_only("drop.checksum", &net.namespaces())?
        .counts(2)?
        .has("/reason", "UDP_CSUM")?
        .has("/sample/netns_name", net.server.name())?;
    Ok(())
}

pub fn receive_buffer(family: Family) -> Result<()> {
    let net = Topology::new()?;
    let receiver = datagrams::receiver(&net.server, family.server(PORT))?;
    datagrams::small_buffer(&receiver)?;
    let report = during(&[], || datagrams::send(&net.client, family.server(PORT), 1000, 60))?;
    let drop = report
        .the_only("drop.receive-buffer", &net.namespaces())?
        .has("/reason", "SOCKET_RCVBUFF")?
        .has("/sample/netns_name", net.server.name())?
        .has("/process/pid", std::process::id())?;
    // What the socket has kept was not dropped.
    receiver.set_nonblocking(true)?;
    let kept = std::iter::from_fn(|| receiver.recv(&mut [0; 2000]).ok()).count() as u64;
    ensure!(kept > 0, "nothing arrived");
    drop.counts(60 - kept)?;
    Ok(())
}

pub fn still_room() -> Result<()> {
    let net = Topology::new()?;
    let receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    datagrams::small_buffer(&receiver)?;
    let report = during(&[], || datagrams::send(&net.client, Family::V4.server(PORT), 10, 1))?;
    report.nothing(&net.namespaces())
}

pub fn socket_filter(takes: bool) -> Result<()> {
    let net = Topology::new()?;
    let receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    datagrams::filter(&receiver, takes)?;
    let report = during(&[], || send(&net, Family::V4, 3))?;
    if takes {
        return report.nothing(&net.namespaces());
    }
    report
        .the_only("drop.bpf", &net.namespaces())?
        .counts(3)?
        .has("/reason", "SOCKET_FILTER")?
        .has("/sample/netns_name", net.server.name())?;
    Ok(())
}

pub fn slow_queue() -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    // One packet leaves at once, one waits.
    net.client.tc("qdisc add dev eth0 root tbf rate 8kbit burst 1600 limit 1600")?;
    let report = during(&[], || datagrams::send(&net.client, Family::V4.server(PORT), 1000, 20))?;
    let drop = report
        .the_only("drop.qdisc", &net.namespaces())?
        .has("/sample/netns_name", net.client.name())?
        .has("/sample/direction", "outbound")?
        .has("/where/stage", "qdisc")?;
    ensure!(drop.at("/count").as_u64().is_some_and(|count| (10..20).contains(&count)), "{}", report.dump());
    Ok(())
}

pub fn fast_queue() -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.server, Family::V4.server(PORT))?;
    net.client.tc("qdisc add dev eth0 root tbf rate 1gbit burst 100kb limit 1mb")?;
    let report = during(&[], || datagrams::send(&net.client, Family::V4.server(PORT), 1000, 20))?;
    report.nothing(&net.namespaces())
}

pub fn neighbour(family: Family) -> Result<()> {
    let net = Topology::new()?;
    net.client.sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "100")?;
    net.client.sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "100")?;
    let report = during(&["--follow"], || {
        datagrams::send(&net.client, family.absent_neighbour(9), 10, 2)?;
        std::thread::sleep(netdiag_tests::process::patience(std::time::Duration::from_secs(1)));
        Ok(())
    })?;
    let losses = report.losses(&[&net.client]);
    ensure!(losses.iter().all(|drop| drop.at("/code") == "drop.other"), "{}", report.dump());
    ensure!(losses.iter().all(|drop| drop.at("/where/stage") == "neighbour"), "{}", report.dump());
    let count: u64 = losses.iter().filter_map(|drop| drop.at("/count").as_u64()).sum();
    ensure!(count == 2, "{count}\n{}", report.dump());
    Ok(())
}

pub fn neighbour_answers() -> Result<()> {
    let net = Topology::new()?;
    let _receiver = datagrams::receiver(&net.router, (Family::V4.router(), PORT).into())?;
    let report = during(&[], || datagrams::send(&net.client, (Family::V4.router(), PORT).into(), 10, 2))?;
    report.nothing(&net.namespaces())
}
