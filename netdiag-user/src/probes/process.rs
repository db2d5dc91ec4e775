use netdiag_ebpf::records::ExecRecord;
use serde::{Deserialize, Serialize};

use super::{Owner, owner};

/// A followed process runs a program in another network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    pub time_ns: u64,
    pub owner: Option<Owner>,
    pub netns: u32,
}

pub(super) fn decode(raw: &ExecRecord) -> Exec {
    Exec { time_ns: raw.header.time_ns, owner: owner(&raw.owner), netns: raw.owner.netns }
}
