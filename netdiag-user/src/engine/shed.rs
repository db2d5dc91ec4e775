//! What an engine that costs too much can do without.

use super::Engine;

/// What to leave out. Nothing of it is asked of a connection that works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shed {
    /// tc on the interfaces of a namespace with a suspect connection.
    pub wire: bool,
    /// Looking at listeners' queues, and asking the kernel which rule dropped a packet.
    pub samples: bool,
    /// Looking for the owner of a socket whose beginning was not seen.
    pub owners: bool,
}

impl Shed {
    /// As coverage names them.
    pub fn names(self) -> Vec<String> {
        let all = [(self.wire, "wire"), (self.samples, "samples"), (self.owners, "owners")];
        all.into_iter().filter(|(shed, _)| *shed).map(|(_, name)| name.to_owned()).collect()
    }
}

/// Time that went into what can be shed, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    pub samples_ns: u64,
    pub owners_ns: u64,
}

impl Engine {
    /// Leaves this out from now on, or takes it up again. tc goes at once where it came for a suspect connection.
    pub fn shed(&mut self, shed: Shed) {
        self.shed = shed;
        if shed.wire {
            self.retire_wire(u64::MAX);
        }
    }

    pub fn spent(&self) -> Spent {
        Spent {
            samples_ns: self.namings.total_ns() + self.comparisons.total_ns() + self.samplings_ns,
            owners_ns: self.searches.total_ns() - self.samplings_ns,
        }
    }
}
