//! The program under test: started, stopped, and its report read.

mod agent;
mod drops;
mod report;
mod run;
mod vectors;
mod watch;

use std::path::{Path, PathBuf};

pub use agent::{Agent, Answer, Home};
pub use drops::{Drop, Drops, DropsReport};
pub use report::{Diagnosis, Report};
pub use run::Run;
pub use watch::Watch;

/// Options for every netdiag under test: with `NETDIAG_TEST_ATTACH=kprobe`, probes are attached by kprobes.
pub fn options() -> Vec<String> {
    let attach = std::env::var("NETDIAG_TEST_ATTACH").ok().filter(|kind| !kind.is_empty());
    attach.map_or_else(Vec::new, |kind| vec!["--attach".to_owned(), kind])
}

/// The binary under test: `NETDIAG_BIN`, else the newer of this workspace's release and debug builds.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("NETDIAG_BIN") {
        return Some(path.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("netdiag"))
        .find(|path| path.is_file())
}
