//! One drop, with names for the kernel's numbers.

use std::net::SocketAddr;

use crate::filter::Subject;
use crate::probes::{DropRule, Owner, Packet};
use crate::track::Hook;

use super::reasons::Class;

/// The way of a packet through this machine's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From here.
    Outbound,
    /// To here.
    Inbound,
    /// From elsewhere to elsewhere.
    Forwarded,
    /// It came in; whether it was for this host is not known.
    CameIn,
}

impl Way {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Forwarded => "forwarded",
            Self::CameIn => "incoming",
        }
    }
}

/// Whose a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Process(Owner),
    /// No socket of its network namespace fits it.
    Nobody,
    /// Nobody looked: there was no time.
    Unknown,
}

impl Whose {
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Process(owner) => Some(owner),
            Self::Nobody | Self::Unknown => None,
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Dropped {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub reason: u32,
    /// The kernel's name, without its prefix.
    pub reason_name: String,
    /// Kernel function.
    pub symbol: Option<String>,
    pub hook: Option<Hook>,
    pub class: Class,
    /// What the reason means, in words; may be empty.
    pub meaning: &'static str,
    pub packet: Packet,
    pub netns_name: Option<String>,
    pub way: Way,
    pub whose: Whose,
    pub rule: Option<Box<DropRule>>,
    /// Somebody looked for the rule: then one that is not there is not known.
    pub rule_looked_up: bool,
    /// Like drops before it that had no record.
    pub suppressed: u64,
    pub limit_key: u32,
}

impl Dropped {
    /// Drops that its record stands for.
    pub fn count(&self) -> u64 {
        1 + self.suppressed
    }
}

impl Subject for Dropped {
    fn protocol(&self) -> u8 {
        self.packet.tuple.protocol
    }

    fn source(&self) -> Option<SocketAddr> {
        Some(self.packet.tuple.source)
    }

    fn destination(&self) -> Option<SocketAddr> {
        Some(self.packet.tuple.destination)
    }

    fn hostname(&self) -> Option<&str> {
        None
    }

    fn pid(&self) -> Option<u32> {
        self.whose.owner().map(|owner| owner.pid)
    }

    fn comm(&self) -> Option<&str> {
        self.whose.owner().map(|owner| owner.comm.as_str())
    }

    fn netns(&self) -> Option<u32> {
        (self.packet.netns != 0).then_some(self.packet.netns)
    }

    fn netns_name(&self) -> Option<&str> {
        self.netns_name.as_deref()
    }

    fn code(&self) -> Option<&str> {
        self.class.code()
    }
}
