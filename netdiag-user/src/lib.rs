//! netdiag: why did this connection fail?
//!
//! Dependencies point one way: `kernel` -> `probes` -> `track` -> `diagnoses` -> `output`; `enrich` serves
//! `diagnoses` and `whose`; `engine` wires them; `agent` keeps the engine running for months.

pub mod agent;
pub mod diagnoses;
pub mod drops;
pub mod engine;
pub mod enrich;
pub mod filter;
pub mod kernel;
mod memory;
pub mod output;
pub mod probes;
pub mod track;
pub mod when;
pub mod whose;
