//! A process as reports tell it.

use serde::{Deserialize, Serialize};

use crate::enrich::process::Process;
use crate::probes::Owner;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessPart {
    /// Thread group id.
    pub pid: u32,
    pub comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    pub uid: u32,
    /// Path in the cgroup file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl ProcessPart {
    /// What the kernel side saw and, if that is the same process, what `/proc` adds.
    pub fn new(owner: Option<&Owner>, process: Option<&Process>) -> Option<Self> {
        let read = process.filter(|process| owner.is_none_or(|owner| owner.pid == process.pid));
        match (owner, read) {
            (_, Some(process)) => Some(Self {
                pid: process.pid,
                comm: process.comm.clone(),
                exe: process.exe.clone(),
                command_line: process.command_line.clone(),
                uid: owner.map_or(process.uid, |owner| owner.uid),
                cgroup: process.cgroup.clone(),
                unit: process.unit.clone(),
                container: process.container.clone(),
                pod: process.pod.clone(),
            }),
            (Some(owner), None) => {
                Some(Self { pid: owner.pid, comm: owner.comm.to_string(), uid: owner.uid, ..Self::default() })
            }
            (None, None) => None,
        }
    }

    /// `curl[4213]`
    pub(in crate::output) fn label(process: Option<&Self>) -> String {
        process.map_or_else(
            || "unknown process".to_owned(),
            |process| format!("{}[{}]", process.comm, process.pid),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn what_proc_says_of_another_process_is_not_used() {
        let owner = testing::owner("curl", 4213);
        let other = Process { pid: 1, comm: "init".into(), ..Process::default() };
        assert_eq!(ProcessPart::new(Some(&owner), Some(&other)).unwrap().comm, "curl");
        let same =
            Process { pid: 4213, comm: "curl".into(), unit: Some("a.service".into()), ..Process::default() };
        assert_eq!(ProcessPart::new(Some(&owner), Some(&same)).unwrap().unit.as_deref(), Some("a.service"));
        assert!(ProcessPart::new(None, None).is_none());
    }
}
