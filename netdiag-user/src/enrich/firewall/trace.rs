//! nftables' own tracing of packets (`meta nftrace`), where the user asked for it: it names the rule exactly where the
//! kernel's evaluation cannot be read.
//!
//! It needs a table of netdiag's own in the packet's network namespace, with a rule for each flow in question; nothing is
//! added before a packet of it was dropped, so the copy that is sent again is traced. The table is owned by the socket of
//! an `nft` that reads from a pipe of netdiag's (`flags owner`, Linux 5.12). However netdiag ends, the pipe is closed
//! then, `nft` ends, and the kernel takes the table away.

mod message;

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use self::message::{Step, Verdict};
use super::command::PATH;
use crate::enrich::netlink::Socket;
use crate::enrich::netns;
use crate::probes::{Basis, DropRule, Tuple, protocol};

/// include/uapi/linux/netfilter/nfnetlink.h: `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;
/// Namespaces with a table of netdiag's, and flows that are traced in one.
const MAX_TABLES: usize = 8;
const MAX_FLOWS: usize = 16;
/// Verdicts and packets that are kept.
const MAX_KEPT: usize = 256;
/// Before all that iptables and nftables call by a name, the tracking of connections included.
const PRIORITY: i32 = -450;
/// `nft` ends at once when its input does.
const END: Duration = Duration::from_millis(500);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Tracers {
    /// By inode number; `None` where it cannot be.
    known: HashMap<u64, Option<Tracer>>,
}

#[derive(Debug)]
struct Tracer {
    nft: Child,
    socket: Socket,
    flows: Vec<Tuple>,
    /// Packets by the number that the kernel gave them.
    packets: VecDeque<(u32, Tuple)>,
    dropped: VecDeque<(Tuple, DropRule)>,
}

impl Tracers {
    /// What the kernel told of the last packet of this flow that was dropped.
    pub(super) fn take(&mut self, inode: u64, flow: &Tuple) -> Option<DropRule> {
        let tracer = self.known.get_mut(&inode)?.as_mut()?;
        tracer.listen();
        let last = tracer.dropped.iter().rposition(|(of, _)| of == flow)?;
        tracer.dropped.remove(last).map(|(_, rule)| rule)
    }

    /// Traces packets of this flow from now on.
    pub(super) fn want(&mut self, inode: u64, flow: &Tuple) {
        if !self.known.contains_key(&inode) {
            if self.known.len() >= MAX_TABLES {
                return;
            }
            self.known.insert(inode, Tracer::start(inode));
        }
        if let Some(Some(tracer)) = self.known.get_mut(&inode) {
            tracer.add(flow);
        }
    }
}

/// No two netdiags have the same.
fn table() -> String {
    format!("inet netdiag_trace_{}", std::process::id())
}

impl Tracer {
    fn start(inode: u64) -> Option<Self> {
        let handle = netns::find(inode)?;
        let (socket, nft) = netns::enter(&handle, || {
            let socket = Socket::netfilter_group(GROUP).ok()?;
            let nft = Command::new("nft")
                .arg("-i")
                .env("PATH", PATH)
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            Some((socket, nft))
        })
        .ok()??;
        let mut tracer =
            Self { nft, socket, flows: Vec::new(), packets: VecDeque::new(), dropped: VecDeque::new() };
        let table = table();
        tracer.tell(&format!("add table {table} {{ flags owner; }}"));
        for hook in ["prerouting", "output"] {
            tracer.tell(&format!(
                "add chain {table} {hook} {{ type filter hook {hook} priority {PRIORITY}; policy accept; }}"
            ));
        }
        Some(tracer)
    }

    fn add(&mut self, flow: &Tuple) {
        if self.flows.len() >= MAX_FLOWS || self.flows.contains(flow) {
            return;
        }
        let Some(words) = words(flow) else { return };
        self.flows.push(*flow);
        for hook in ["prerouting", "output"] {
            self.tell(&format!("add rule {} {hook} {words} meta nftrace set 1", table()));
        }
    }

    /// Without an `nft` that listens there is no table, and so no trace.
    fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.nft.stdin {
            let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        }
    }

    fn listen(&mut self) {
        let Self { socket, packets, dropped, .. } = self;
        socket.heard(|kind, payload| {
            let Some(step) = Step::read(kind, payload) else { return };
            if let Some(tuple) = step.packet {
                packets.retain(|(id, _)| *id != step.id);
                packets.push_back((step.id, tuple));
            }
            let known = packets.iter().rev().find(|(id, _)| *id == step.id);
            if let (Some((_, tuple)), Some(rule)) = (known, dropped_by(step)) {
                dropped.push_back((*tuple, rule));
            }
            packets.drain(..packets.len().saturating_sub(MAX_KEPT));
            dropped.drain(..dropped.len().saturating_sub(MAX_KEPT));
        });
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.nft.stdin.take());
        let end = Instant::now() + END;
        while Instant::now() < end {
            if !matches!(self.nft.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its socket ends with it, and with that the table.
        let _ = self.nft.kill();
        let _ = self.nft.wait();
    }
}

/// In nft's words; `None` for what has no ports.
fn words(flow: &Tuple) -> Option<String> {
    let protocol = match flow.protocol {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        _ => return None,
    };
    let (from, to) = (flow.source, flow.destination);
    let family = if to.is_ipv4() { "ip" } else { "ip6" };
    Some(format!(
        "{family} saddr {} {family} daddr {} {protocol} sport {} {protocol} dport {}",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    ))
}

fn dropped_by(step: Step) -> Option<DropRule> {
    let handle = match step.verdict {
        Verdict::Rule { handle } => Some(handle),
        Verdict::Policy => None,
        Verdict::Other => return None,
    };
    Some(DropRule {
        family: step.family.to_owned(),
        table: step.table,
        chain: step.chain,
        handle,
        basis: Basis::Trace,
        ..DropRule::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_in_nfts_words() {
        let flow = Tuple {
            protocol: protocol::TCP,
            source: "[fd00::1]:40000".parse().unwrap(),
            destination: "[fd00::2]:80".parse().unwrap(),
        };
        let expected = "ip6 saddr fd00::1 ip6 daddr fd00::2 tcp sport 40000 tcp dport 80";
        assert_eq!(words(&flow).as_deref(), Some(expected));
        assert_eq!(words(&Tuple { protocol: protocol::ICMP, ..flow }), None);
    }
}
