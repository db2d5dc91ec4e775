//! A remote host in user space, which does to each port what the scenario asks for.
//!
//! The kernel sees a TUN device with routes to 192.0.2.0/24, 198.51.100.0/24, fd77:9::/64 and
//! fd77:8::/64; what it sends there is answered (or not) by a thread that follows a [`Behaviour`].

mod behaviour;
mod host;
mod icmp;
mod packet;
mod tcp;
mod tun;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use behaviour::{Behaviour, IcmpKind, Sender};
pub use packet::{Flags, Packet, Transport};

use crate::net::Namespace;
use host::Host;
use tun::Tun;

/// TTL of what the remote host sends: the hops to it are 64 - 57 (and one less after a router here).
pub const REMOTE_TTL: u8 = 57;
const TICK: Duration = Duration::from_millis(20);

/// One packet on the remote's side of the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Since the remote was started.
    pub at: Duration,
    /// Sent by the remote (and not received).
    pub sent: bool,
    /// The packet.
    pub packet: Packet,
}

/// A running remote host. Dropping it removes its device.
#[derive(Debug)]
pub struct Remote {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    /// The name of its device.
    pub const DEVICE: &'static str = "nd-remote";

    /// Starts a remote host behind `namespace`, usually the router's or the client's. A port that
    /// is not listed is closed: RST for TCP, port unreachable for UDP.
    ///
    /// # Errors
    /// When the device cannot be made.
    pub fn start(namespace: &Namespace, ports: &[(u16, Behaviour)]) -> Result<Self> {
        let device = namespace.enter(|| Tun::open(Self::DEVICE))??;
        let _ = namespace.sysctl(&format!("net/ipv6/conf/{}/addr_gen_mode", Self::DEVICE), "1");
        namespace.ip_batch(&format!(
            "addr add 192.0.2.1/24 dev {device}
             addr add fd77:9::1/64 dev {device} nodad
             link set {device} up
             route add 198.51.100.0/24 dev {device}
             route add fd77:8::/64 dev {device}",
            device = Self::DEVICE
        ))?;
        crate::net::wait_until_ready(namespace)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let host = Host::new(ports.iter().cloned());
        let thread = std::thread::Builder::new().name("remote".to_owned()).spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || serve(&device, host, &seen, &stop)
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Every packet so far, sent and received, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The TCP SYNs received for `port`, retransmissions included.
    pub fn syns(&self, port: u16) -> Vec<Seen> {
        let of_port = |seen: &Seen| !seen.sent && seen.packet.destination_port() == Some(port);
        self.seen().into_iter().filter(of_port).filter(|seen| seen.packet.is_syn()).collect()
    }

    /// Waits until a packet passes `wanted`, and returns the first that does.
    ///
    /// # Errors
    /// When none does within `limit`; the last packets are in the message.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = self.seen().into_iter().find(&wanted) {
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "the remote did not see it within {limit:?}:\n{}",
                self.dump()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last packets as text, one a line, with how many there were before them.
    pub fn dump(&self) -> String {
        const SHOWN: usize = 60;
        let line = |seen: &Seen| {
            let direction = if seen.sent { "sent" } else { "got " };
            format!("  {:>9.3} s {direction} {}\n", seen.at.as_secs_f64(), seen.packet)
        };
        let seen = self.seen();
        let hidden = seen.len().saturating_sub(SHOWN);
        std::iter::once(format!("  {hidden} packets, then\n"))
            .chain(seen[hidden..].iter().map(line))
            .collect()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(device: &Tun, mut host: Host, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    let start = Instant::now();
    let mut due: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let record = |sent: bool, bytes: &[u8]| {
        let Some(packet) = Packet::parse(bytes) else { return };
        let entry = Seen { at: start.elapsed(), sent, packet };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    };
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while due.front().is_some_and(|(when, _)| *when <= now) {
            if let Some((_, bytes)) = due.pop_front() {
                record(true, &bytes);
                device.write(&bytes);
            }
        }
        let wait = due.front().map_or(TICK, |(when, _)| when.saturating_duration_since(now).min(TICK));
        let mut descriptors = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        // Rounded up: waking a little late beats spinning through the last millisecond.
        let timeout = PollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut descriptors, timeout), Ok(1..)) {
            continue;
        }
        while let Some(length) = device.read(&mut buffer) {
            record(false, &buffer[..length]);
            for reply in host.receive(Instant::now(), &buffer[..length]) {
                let when = Instant::now() + reply.after;
                let place = due.partition_point(|(other, _)| *other <= when);
                due.insert(place, (when, reply.bytes));
            }
        }
    }
}
