//! What the fault scenarios of netdiag are made of.
//!
//! A scenario builds a small network out of namespaces ([`net`]), puts a server or a misbehaving
//! remote host in it ([`remote`]), lets a real client fail ([`clients`]) under netdiag ([`netdiag`]),
//! and says which diagnosis it expects. [`scenario`] holds the registry and the runner.
//!
//! Everything needs root. No packet leaves the namespaces that a scenario made.

pub mod bpf;
pub mod bpf_objects;
pub mod clients;
pub mod container;
pub mod datagrams;
pub mod dropping;
pub mod foreign;
pub mod hooks;
pub mod init;
pub mod net;
pub mod netdiag;
pub mod process;
pub mod remote;
pub mod scenario;
pub mod servers;
pub mod steps;
pub mod tools;
