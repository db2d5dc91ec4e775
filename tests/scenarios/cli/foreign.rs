//! tc programs of others see every packet, whether netdiag comes or goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdiag_tests::foreign::Counter;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::Watch;
use netdiag_tests::{clients, hooks};
use nix::net::if_::if_nametoindex;

const REFUSED: &str = "refused.peer-no-listener";

/// What each of the others has counted.
type Counts = Vec<u64>;

/// A filter on clsact, and where the kernel has them TCX programs.
struct Others<'a> {
    host: &'a Namespace,
    tcx: Vec<Counter>,
}

impl Others<'_> {
    fn add_tcx(&mut self) -> Result<()> {
        if hooks::has_tcx() {
            let counter = self.host.enter(|| Counter::on_ingress(if_nametoindex("eth0")?))??;
            self.tcx.push(counter);
        }
        Ok(())
    }

    fn counts(&self) -> Result<Counts> {
        let shown = self.host.run(&["tc", "-s", "filter", "show", "dev", "eth0", "ingress"])?.stdout;
        // Sent 148 bytes 2 pkt (dropped 0, overlimits 0 requeues 0)
        let sent = shown.lines().find_map(|line| line.trim().strip_prefix("Sent "));
        let packets =
            sent.and_then(|rest| rest.split_whitespace().nth(2)).context("no count of tc's filter")?;
        let mut counts = vec![packets.parse()?];
        for counter in &self.tcx {
            counts.push(counter.packets()?);
        }
        Ok(counts)
    }

    /// Each of them sees the RST that answers a SYN.
    fn see_a_packet(&self, host: &Namespace) -> Result<()> {
        let before = self.counts()?;
        host.run(&clients::connect(Family::V4.server(18520))?)?.exits(1)?;
        let after = self.counts()?;
        let all = before.iter().zip(&after).all(|(before, after)| after > before);
        ensure!(all, "not every tc program saw the answer: {before:?}, then {after:?}");
        Ok(())
    }
}

pub fn go_on() -> Result<()> {
    let net = Topology::new()?;
    let host = &net.client;
    host.tc("qdisc add dev eth0 clsact")?;
    host.tc("filter add dev eth0 ingress matchall action pass")?;
    let mut others = Others { host, tcx: Vec::new() };
    others.add_tcx()?;
    others.see_a_packet(host)?;
    let there = hooks::present(Some(host))?;

    let watch = Watch::start_inside(&[host], &["dst port 18520"])?;
    others.see_a_packet(host)?;
    others.add_tcx()?;
    others.see_a_packet(host)?;
    watch.wait_for(REFUSED, Duration::from_secs(5))?;
    watch.stop()?.exits(0)?.one_of(REFUSED)?;

    others.see_a_packet(host)?;
    others.tcx.truncate(1);
    // The kernel takes programs away after a moment.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let left = hooks::present(Some(host))?;
        if left == there {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "tc hooks were {there:?}, now are {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
