//! What a filter may ask about a connection, before it is explained and after.

use crate::engine::Explained;
use crate::filter::{Filter, Subject};
use crate::track::{Connection, Side};

/// Whether a connection may match, as far as is known before it is explained.
pub fn may_match(filter: &Filter, connection: &Connection) -> bool {
    filter.matches(&Subjected { connection, explained: None }) != Some(false)
}

/// Whether one that was explained matches.
pub fn matches(filter: &Filter, explained: &Explained) -> bool {
    let connection = &explained.evidence.connection;
    filter.matches(&Subjected { connection, explained: Some(explained) }) == Some(true)
}

struct Subjected<'a> {
    connection: &'a Connection,
    explained: Option<&'a Explained>,
}

impl Subjected<'_> {
    fn connection(&self) -> &Connection {
        self.connection
    }
}

impl Subject for Subjected<'_> {
    fn protocol(&self) -> u8 {
        self.connection().protocol
    }

    fn source(&self) -> Option<std::net::SocketAddr> {
        let ends = self.connection().asked();
        Some(if self.connection().side == Side::Outbound { ends.local } else { ends.peer })
    }

    fn destination(&self) -> Option<std::net::SocketAddr> {
        let ends = self.connection().asked();
        Some(if self.connection().side == Side::Outbound { ends.peer } else { ends.local })
    }

    fn hostname(&self) -> Option<&str> {
        self.explained?.evidence.facts.hostname.as_deref()
    }

    fn pid(&self) -> Option<u32> {
        self.connection().owner.as_ref().map(|owner| owner.pid)
    }

    fn comm(&self) -> Option<&str> {
        self.connection().owner.as_ref().map(|owner| owner.comm.as_str())
    }

    fn netns(&self) -> Option<u32> {
        Some(self.connection().netns)
    }

    fn netns_name(&self) -> Option<&str> {
        self.explained?.evidence.facts.netns.as_ref()?.name.as_deref()
    }

    fn code(&self) -> Option<&str> {
        self.explained?.diagnosis.as_ref().map(|(diagnosis, _)| diagnosis.code)
    }
}
