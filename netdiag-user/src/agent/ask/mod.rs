//! What commands ask a running agent, over a unix socket.
//!
//! One request a connection. The agent begins with a line that says who it is ([`Hello`]), the command sends one line
//! ([`Request`]), and gets lines until [`Line::End`] or [`Line::Error`]; every line is one JSON value. Only root and
//! one group may ask. The threads that talk to them have no rights and see no files; what they were asked goes to
//! others, which have no say in how much is sent and when, and none of them is the agent's main loop.

mod access;
mod answers;
mod client;
mod drops;
mod frame;
mod owners;
mod past;
mod sources;

use serde::{Deserialize, Serialize};

pub(super) use answers::{Answers, Door};
pub use client::{Agent, NotAsked};
pub(super) use drops::DropBook;
pub use drops::{DropsPart, PastDrop};
pub(super) use sources::Sources;

/// Raised by a change after which an older command or an older agent would misunderstand the other.
pub const PROTOCOL: u32 = 1;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Version of netdiag.
    #[serde(default)]
    pub version: String,
    /// When the agent began, microseconds since 1970, UTC.
    #[serde(default)]
    pub since_us: i64,
    /// It can say who closed connections.
    #[serde(default)]
    pub owners: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// The drops since the agent began: lines of [`DropsPart`].
    Drops,
    /// Who closed what is in TIME_WAIT.
    TimeWait,
    /// Who held a port last: lines of [`crate::whose::last_holders::LastHolder`], the latest first.
    Port { port: u16 },
    /// What was diagnosed: lines of [`super::history::Told`].
    History {
        /// Microseconds since 1970, UTC.
        since_us: i64,
        /// `None`: what is stored under a later time, too.
        until_us: Option<i64>,
        code: Option<String>,
        filter: Vec<String>,
        details: bool,
    },
}

/// A line of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line<T> {
    Item(T),
    End,
    Error(String),
}
