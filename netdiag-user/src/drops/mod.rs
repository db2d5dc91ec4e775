//! Drops of the whole machine: what each is, whose it is, and all put together.

mod dropped;
mod groups;
pub mod reasons;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod who;

pub use dropped::{Dropped, Way, Whose};
pub use groups::{By, Group, Groups, ReasonTotal};
pub use who::Who;
