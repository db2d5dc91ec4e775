//! tc programs of others see every packet, whether netdiag comes or goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use netdiag_tests::foreign::Counter;
use netdiag_tests::net::{Family, Namespace, Topology};
use netdiag_tests::netdiag::Watch;
use netdiag_tests::{clients, hooks};
use nix::net::if_::if_nametoindex;

const REFUSED: &str = "refused.no-listener";

/// A filter on clsact, and where the kernel has them TCX programs.
struct Others<'a> {
    host: &'a Namespace,
    counters: Vec<Counter>,
}

impl Others<'_> {
    fn add_tcx(&mut self) -> Result<()> {
        if hooks::has_tcx() {
            let counter = self.host.enter(|| Counter::on_ingress(if_nametoindex("eth0")?))??;
            self.counters.push(counter);
        }
        Ok(())
    }

    fn counts(&self) -> Result<Vec<u64>> {
        self.counters.iter().map(Counter::packets).collect()
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
    let mut others = Others { host, counters: vec![Counter::filter_on_ingress(host, "eth0")?] };
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
    // The one that came after netdiag.
    others.counters.truncate(2);
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
