//! What a person or a program reads: cards, JSON Lines, pages.
//!
//! Both languages are made of one struct per kind ([`Report`], [`ConnectionReport`], [`Closing`]); a card
//! contains nothing that its JSON does not.

mod card;
mod clock;
mod closing;
mod connection;
mod cost;
mod drop;
mod drop_counts;
mod drop_text;
mod event;
mod fold;
mod held;
mod icmp;
mod json;
mod last_holder;
mod owner;
mod page;
mod past;
mod past_drops;
mod path;
mod report;
mod sink;
mod socket;
mod socket_text;
mod style;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod time_wait;
mod time_wait_text;
mod timeline;

pub use card::{card, repeat_line};
pub use clock::Clock;
pub use closing::{Closing, Lost};
pub use connection::ConnectionReport;
pub use cost::Cost;
pub use drop::{DropReport, SamplePart};
pub use drop_counts::{DropCounts, ReasonCount};
pub use drop_text::{drop_block, drop_line, normal_line};
pub use event::Event;
pub use fold::Folder;
pub use json::JsonLines;
pub use last_holder::LastHolderReport;
pub use owner::{KeeperReport, keeper_text};
pub use page::page;
pub use past::{Gap, PastHead, PastSummary, problem, when};
pub use past_drops::PastDropsReport;
pub use report::{
    ConnectionPart, CoveragePart, Endpoint, FirewallPart, Head, ProcessPart, Report, Translated,
};
pub use sink::{Sink, Stream};
pub use socket::{HolderPart, RemarkPart, SocketReport};
pub use socket_text::{port_text, socket_table};
pub use style::{Look, Style, utf8_locale};
pub use time_wait::{Told, time_wait_json};
pub use time_wait_text::time_wait_text;
