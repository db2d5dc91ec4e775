//! BPF objects that processes hold.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::process::run;
use crate::tools;

const LIMIT: Duration = Duration::from_secs(30);

/// Programs, links and maps that a process has descriptors of, as bpftool names them.
///
/// # Errors
/// When the process is gone.
pub fn objects(pid: u32) -> Result<BTreeSet<(&'static str, u32)>> {
    const KINDS: [(&str, &str); 3] = [("prog_id:", "prog"), ("link_id:", "link"), ("map_id:", "map")];
    let mut objects = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // It may have been closed in between.
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        for line in text.lines() {
            for (field, kind) in KINDS {
                if let Some(id) = line.strip_prefix(field) {
                    objects.insert((kind, id.trim().parse()?));
                }
            }
        }
    }
    Ok(objects)
}

/// Whether the kernel still has one.
///
/// # Errors
/// When bpftool cannot be run.
pub fn exists(kind: &str, id: u32) -> Result<bool> {
    let mut command = std::process::Command::new(tools::path("bpftool"));
    command.args([kind, "show", "id", &id.to_string()]);
    Ok(run(command, LIMIT)?.code() == 0)
}
