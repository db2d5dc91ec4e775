use netdiag_ebpf::records::{DropRecord, FRAME_WORDS, FramesDropRecord, STACK_DEPTH};
use serde::{Deserialize, Serialize};

use super::DecodeError;
use super::packet::{Packet, packet};
use super::socket::DroppedSyn;

/// A packet that the kernel threw away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drop {
    pub time_ns: u64,
    #[serde(skip)]
    pub sock: u64,
    /// `skb_drop_reason` of this kernel.
    pub reason: u32,
    /// Address of the instruction that freed the packet.
    pub location: u64,
    /// Like drops before this one that were over the rate.
    pub suppressed: u32,
    /// What the kernel side limited it by: flow and reason, hashed.
    #[serde(skip)]
    pub limit_key: u32,
    pub packet: Packet,
    /// Return addresses, innermost first; empty where none was taken.
    pub stack: Vec<u64>,
    /// What the stack's frames held; empty where that was not taken.
    #[serde(skip)]
    pub frames: Frames,
    /// The firewall's rule, once it is looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<DropRule>>,
}

impl Drop {
    /// What is known of a drop that only the end of the SYN's connection tells of.
    pub fn of_syn(syn: &DroppedSyn) -> Self {
        Self {
            time_ns: syn.time_ns,
            sock: 0,
            reason: syn.reason,
            location: 0,
            suppressed: 0,
            limit_key: 0,
            packet: Packet::syn(syn.tuple, syn.netns),
            stack: Vec::new(),
            frames: Frames::default(),
            rule: None,
        }
    }

    /// Whether this socket, of this network namespace, sent the packet.
    pub fn was_sent_by(&self, sock: u64, netns: u32) -> bool {
        self.sock != 0 && self.sock == sock && self.packet.netns == netns && self.packet.iif == 0
    }
}

/// The memory of the kernel's stack at a drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frames {
    /// Innermost first.
    pub words: Vec<u64>,
    /// Address of the packet's network namespace; 0 where unknown.
    pub net: u64,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    #[default]
    Nftables,
    /// iptables-nft: a rule of iptables that nftables runs.
    Iptables,
    /// iptables with tables of its own in the kernel.
    IptablesLegacy,
}

/// How it is known which rule it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The kernel's own evaluation of this packet named it.
    #[default]
    Kernel,
    /// nftables' packet tracing named it, for this packet.
    Trace,
    /// Of the rules that fit the packet its counter alone grew when packets were dropped.
    Counter,
    /// The packet was compared with the ruleset.
    Matching,
}

impl Basis {
    fn is_kernel(&self) -> bool {
        *self == Self::Kernel
    }

    /// Whether it is a fact and no inference.
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Kernel | Self::Trace)
    }
}

/// The rule that dropped a packet, or the chain whose policy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropRule {
    pub engine: Engine,
    /// `inet`, `ip`, `ip6`, `netdev`, `bridge`, `arp`.
    pub family: String,
    pub table: String,
    /// Tells the table from a later one of its name.
    pub table_handle: u64,
    pub chain: String,
    /// Unique in its table; `None` where the chain's policy decided, and for iptables-legacy, which has none.
    pub handle: Option<u64>,
    /// Its place in the chain, from 1, as iptables counts.
    pub number: Option<u64>,
    /// It did not drop in silence: it answered with RST or an ICMP error.
    pub rejects: bool,
    /// In its own words; `None` where it could not be read.
    pub text: Option<String>,
    pub comment: Option<String>,
    /// It was not in the ruleset any more when that was read.
    pub gone: bool,
    #[serde(skip_serializing_if = "Basis::is_kernel")]
    pub basis: Basis,
    /// Others that fit the packet as well, where it was compared with the ruleset; the first of all is the one at hand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<DropRule>,
    /// The comment of the element of a verdict map that led to this rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
}

impl DropRule {
    pub fn is_policy(&self) -> bool {
        self.handle.is_none() && self.number.is_none()
    }

    /// This and all others that it may have been.
    pub fn candidates(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// Whether it may have answered with RST or an ICMP error.
    pub fn may_reject(&self) -> bool {
        self.candidates().any(|rule| rule.rejects)
    }

    /// `inet filter output handle 12`
    pub fn name(&self) -> String {
        let Self { family, table, chain, .. } = self;
        match (self.handle, self.number) {
            (Some(handle), _) => format!("{family} {table} {chain} handle {handle}"),
            (None, Some(number)) => format!("{family} {table} {chain} rule {number}"),
            (None, None) => format!("{family} {table} {chain} policy"),
        }
    }

    /// The name, and how sure it is.
    pub fn label(&self) -> String {
        let name = self.name();
        match (self.basis.is_exact(), self.others.len()) {
            (true, _) => name,
            (false, 0) => format!("probably {name}"),
            (false, others) => format!("{name}, or {others} more"),
        }
    }
}

pub(super) fn decode(raw: &DropRecord) -> Result<Drop, DecodeError> {
    let depth = (raw.stack_len as usize).min(STACK_DEPTH);
    Ok(Drop {
        time_ns: raw.header.time_ns,
        sock: raw.sock,
        reason: raw.reason,
        location: raw.location,
        suppressed: raw.suppressed,
        limit_key: raw.limit_key,
        packet: packet(&raw.packet)?,
        stack: raw.stack[..depth].to_vec(),
        frames: Frames::default(),
        rule: None,
    })
}

pub(super) fn decode_frames(raw: &FramesDropRecord) -> Result<Drop, DecodeError> {
    let words = (raw.frames_len as usize).min(FRAME_WORDS);
    let frames = Frames { words: raw.frames[..words].to_vec(), net: raw.net };
    Ok(Drop { frames, ..decode(&raw.drop)? })
}
