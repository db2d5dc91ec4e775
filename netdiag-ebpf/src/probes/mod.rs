//! One file per probe: what it hooks, why, what it costs.

mod drop;
mod error;
mod icmp;
mod neighbour;
mod overflow;
mod peek;
mod process;
mod reset;
mod result;
mod retransmit;
mod route;
mod socket;
mod time_wait;
mod wire;
