//! Where the figures are from.

use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use serde::Serialize;

/// The machine, the sources and the moment.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub system: String,
    pub date: String,
    pub commit: String,
    pub command: String,
}

impl Machine {
    /// Reads /proc and asks git; what cannot be known is "unknown".
    pub fn read(root: &Path, command: String) -> Self {
        let file = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = field(&file("/proc/cpuinfo"), "model name");
        let memory = field(&file("/proc/meminfo"), "MemTotal");
        let memory_kb: u64 = memory.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or(0);
        Self {
            cpu: or_unknown(cpu),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_bytes: memory_kb * 1024,
            kernel: or_unknown(file("/proc/sys/kernel/osrelease").trim().to_owned()),
            system: or_unknown(pretty_name(&file("/etc/os-release"))),
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            commit: or_unknown(commit(root)),
            command,
        }
    }
}

fn or_unknown(text: String) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text }
}

fn field(text: &str, key: &str) -> String {
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    };
    text.lines().find_map(value).unwrap_or_default()
}

fn pretty_name(text: &str) -> String {
    let value = |line: &str| Some(line.strip_prefix("PRETTY_NAME=")?.trim_matches('"').to_owned());
    text.lines().find_map(value).unwrap_or_default()
}

/// The commit, with a word if the tree has changes.
fn commit(root: &Path) -> String {
    // The tree may belong to the user who called sudo.
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(["-c", "safe.directory=*", "-C"]).arg(root).args(arguments).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { format!("{hash} with changes") } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        assert_eq!(field("a : 1\nmodel name\t: Some CPU @ 2 GHz\n", "model name"), "Some CPU @ 2 GHz");
        assert_eq!(field("MemTotal:  24 kB\n", "MemTotal"), "24 kB");
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
