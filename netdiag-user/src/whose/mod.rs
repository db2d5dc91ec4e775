//! Whose the sockets of this machine are, in all network namespaces: those that are open, and those in TIME_WAIT,
//! which belong to no process any more.

pub mod close_wait;
mod inventory;
pub mod last_holders;
pub mod port;
pub mod pressure;
pub mod remarks;
mod subject;
pub mod time_wait;

pub use inventory::{Ask, Held, Inventory, Listeners, Side};
