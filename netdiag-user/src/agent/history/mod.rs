//! The store of what was diagnosed: SQLite files, one a day, written by a thread of its own and read by
//! `netdiag history`, whether an agent runs or not.

pub mod files;
mod fold;
mod query;
mod redact;
mod schema;
mod store;
mod tell;
#[cfg(test)]
mod tests;
mod writer;

pub use fold::{Folded, Group, fold};
pub use query::{Past, Query, Row, past};
pub use redact::{redact, without_arguments};
pub use store::Settings;
pub use tell::{Told, tell};
pub use writer::{Counts, Writer};
