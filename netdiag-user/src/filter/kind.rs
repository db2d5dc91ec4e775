//! The words before a value: what kind it is of, and which protocol and direction it is for.

use super::eval::{Direction, Protocol};
use super::lexer::{Problem, Token, hint};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No word of the kind was given: an address, or an address with a prefix length.
    Bare,
    Host,
    Net,
    Port,
    PortRange,
    Pid,
    Comm,
    Netns,
    Code,
}

impl Kind {
    pub fn from_keyword(word: &str) -> Option<Self> {
        Some(match word {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            "pid" => Kind::Pid,
            "comm" => Kind::Comm,
            "netns" => Kind::Netns,
            "code" => Kind::Code,
            _ => return None,
        })
    }

    /// Of the owner or the diagnosis, not of the packets: takes neither protocol nor direction.
    pub fn is_own(self) -> bool {
        matches!(self, Kind::Pid | Kind::Comm | Kind::Netns | Kind::Code)
    }

    /// Any word is a value, so a mistyped keyword would be one too.
    pub fn takes_any_word(self) -> bool {
        matches!(self, Kind::Host | Kind::Comm | Kind::Netns | Kind::Code)
    }

    /// What must come after it.
    pub fn expected(self) -> &'static str {
        match self {
            Kind::Bare => "an address",
            Kind::Host => "an address or a host name",
            Kind::Net => "a network such as `10.0.0.0/8`",
            Kind::Port => "a port number or a service name",
            Kind::PortRange => "two ports such as `8000-8080`",
            Kind::Pid => "a process id",
            Kind::Comm => "a command name",
            Kind::Netns => "the name or the inode number of a network namespace",
            Kind::Code => "a diagnosis code such as `timeout.*`",
        }
    }
}

/// What comes before a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Qualifiers {
    pub protocol: Option<Protocol>,
    pub direction: Direction,
    pub kind: Kind,
}

impl Default for Qualifiers {
    fn default() -> Self {
        Qualifiers { protocol: None, direction: Direction::Either, kind: Kind::Bare }
    }
}

impl Qualifiers {
    /// Whether the kind, which is `token`, takes the protocol and the direction before it.
    pub fn check(self, token: &Token, directed: bool) -> Result<(), Problem> {
        let word = token.keyword().unwrap_or_default();
        match self.protocol {
            Some(protocol) if self.kind.is_own() => {
                let protocol = protocol.keyword();
                Err(token.unexpected("`and` or `or`", hint(Some(format!("{protocol} and {word}")))))
            }
            Some(protocol @ (Protocol::Icmp | Protocol::Icmp6))
                if matches!(self.kind, Kind::Port | Kind::PortRange) =>
            {
                Err(token.problem(format!("expected `host` or `net`: `{}` has no ports", protocol.keyword())))
            }
            _ if directed && self.kind.is_own() => {
                let message =
                    format!("expected `host`, `net`, `port` or an address: `{word}` has no direction");
                Err(token.problem(message))
            }
            _ => Ok(()),
        }
    }
}
