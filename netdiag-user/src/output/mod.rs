//! What a person or a program reads: cards, JSON Lines, pages.
//!
//! Both languages are made of one struct per kind ([`Report`], [`ConnectionReport`], [`Closing`]); a card
//! contains nothing that its JSON does not.

mod card;
mod clock;
mod closing;
mod connection;
mod cost;
mod event;
mod fold;
mod icmp;
mod json;
mod page;
mod past;
mod path;
mod report;
mod sink;
mod style;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;

pub use card::{card, repeat_line};
pub use clock::Clock;
pub use closing::{Closing, Lost};
pub use connection::ConnectionReport;
pub use cost::Cost;
pub use event::Event;
pub use fold::Folder;
pub use json::JsonLines;
pub use page::page;
pub use past::{Gap, PastHead, PastSummary, problem};
pub use report::{
    ConnectionPart, CoveragePart, Endpoint, FirewallPart, Head, ProcessPart, Report, Translated,
};
pub use sink::{Sink, Stream};
pub use style::{Look, Style, utf8_locale};
