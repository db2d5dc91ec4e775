//! What the programs in the kernel and user space agree on: records, the table of kernel fields,
//! configuration and counters. Plain integers only, sizes asserted, no `aya`.
//!
//! Every record starts with a [`records::Header`]. User space decodes with checks: a kind, length or value
//! that it does not know is an error, never a transmute.
#![no_std]

pub mod config;
pub mod counters;
pub mod fields;
pub mod histogram;
pub mod records;
