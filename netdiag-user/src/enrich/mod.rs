//! What `/proc` and netlink tell about a connection that failed: processes, sockets, routes, neighbours,
//! interfaces, settings and counters, each in the network namespace where it happened.
//!
//! Functions take `Option<&NetnsHandle>`; `None` is the caller's own network namespace. The structs that they
//! return can be saved and read back. What goes away while it is being read is `None`, missing or an error,
//! never a panic.

pub mod behaviour;
mod cgroup;
pub mod cgroup_ids;
pub mod changes;
pub mod conntrack;
pub mod containers;
pub mod droppers;
mod error;
pub mod facts;
mod fib;
pub mod firewall;
pub mod gather;
pub mod holders;
pub mod links;
pub mod listeners;
pub mod neighbours;
mod netlink;
pub mod netns;
mod nf_tables;
mod notices;
pub mod owners;
pub mod port_range;
pub mod process;
pub mod queues;
mod reach;
pub mod route_text;
pub mod routes;
pub mod rules;
pub mod sockets;
pub mod sysctl;
pub mod tcp_info;
#[cfg(test)]
mod testing;
pub mod time_wait;

pub use error::EnrichError;
