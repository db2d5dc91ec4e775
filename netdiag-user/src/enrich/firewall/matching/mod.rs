//! Which rules may have dropped a packet, by comparing it with the ruleset.
//!
//! Where the kernel does not say which rule it was. What a rule asks for and cannot be known from the packet (a mark, a
//! limit, an extension that is not known here) makes it a rule that may fit, never one that does not.

pub(super) mod nft;
mod subject;
#[cfg(test)]
mod tests;
mod walk;
pub(super) mod xtables;

pub(super) use subject::Subject;
pub(super) use walk::{Base, Body, Chain, Chains, Found, Named, Outcome, Rule, Table, Verdict};

/// Whether something holds for the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fits {
    No,
    Maybe,
    Yes,
}

impl Fits {
    /// Whether both hold.
    pub(super) fn and(self, other: Self) -> Self {
        self.min(other)
    }

    /// Whether either holds.
    pub(super) fn or(self, other: Self) -> Self {
        self.max(other)
    }

    pub(super) fn negated(self, negated: bool) -> Self {
        match self {
            _ if !negated => self,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Fits {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}
