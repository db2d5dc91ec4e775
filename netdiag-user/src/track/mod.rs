//! Records to connections with a timeline.
//!
//! [`Tracker`] keeps a bounded window of what was seen and, when a connection ends badly, gathers everything
//! that belongs to it: its own steps, drops, resets, wire packets, ICMP, route and neighbour failures.

mod belongs;
mod connection;
mod hook;
mod index;
mod taken;
mod teller;
#[cfg(test)]
mod tests;
mod timeline;
mod tracker;
mod translated;
mod waiting;
mod window;

pub use connection::{Connection, End, Ends, Side};
pub use hook::{Hook, hook_of};
pub use timeline::{Moment, Place, What};
pub use tracker::{Due, Finished, Limits, Tracker};
