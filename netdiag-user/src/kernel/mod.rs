//! The border to the kernel: its BTF, what it allows, the programs, and their records as bytes.

pub mod attach;
pub mod attach_ids;
pub mod btf;
pub mod capabilities;
pub mod clock;
pub mod counters;
pub mod drops;
mod error;
pub mod histograms;
mod in_map;
pub mod last_listeners;
pub mod loader;
mod misses;
pub mod offsets;
pub mod peek;
pub mod reasons;
pub mod registry;
pub mod stats;
pub mod symbols;
pub mod time_wait;
pub mod wire;

pub use error::KernelError;
