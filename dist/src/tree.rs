//! Where a package puts what.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{workspace, written};

/// A directory with all files in their places.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
}

/// Files of this workspace, and where they go.
const COPIED: &[(&str, &str)] = &[
    ("packaging/systemd/netdiag-agent.service", "lib/systemd/system/netdiag-agent.service"),
    ("packaging/systemd/group.conf", "lib/systemd/system/netdiag-agent.service.d/group.conf"),
    ("packaging/sysusers/netdiag.conf", "usr/lib/sysusers.d/netdiag.conf"),
    ("packaging/prometheus/netdiag.rules.yml", "usr/share/netdiag/netdiag.rules.yml"),
    ("packaging/grafana/netdiag.json", "usr/share/netdiag/netdiag.json"),
    ("README.md", "usr/share/doc/netdiag/README.md"),
    ("CHANGELOG.md", "usr/share/doc/netdiag/CHANGELOG.md"),
    ("LICENSE-MIT", "usr/share/doc/netdiag/copyright"),
    ("LICENSE-APACHE", "usr/share/doc/netdiag/LICENSE-APACHE"),
];

/// What the program itself writes, and where that goes.
const WRITTEN: &[(&[&str], &str)] = &[
    (&["agent", "--print-config"], CONFIG),
    (&["man"], "usr/share/man/man1/netdiag.1"),
    (&["completions", "bash"], "usr/share/bash-completion/completions/netdiag"),
    (&["completions", "zsh"], "usr/share/zsh/vendor-completions/_netdiag"),
    (&["completions", "fish"], "usr/share/fish/vendor_completions.d/netdiag.fish"),
];

/// The program.
pub const PROGRAM: &str = "usr/bin/netdiag";
/// The one file that its owner may change.
pub const CONFIG: &str = "etc/netdiag/agent.toml";

impl Tree {
    /// Anew.
    ///
    /// # Errors
    /// When a file cannot be had or written.
    pub fn make(root: &Path, program: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let tree = Self { root: root.to_owned() };
        tree.put(PROGRAM, &fs::read(program)?, 0o755)?;
        for (from, to) in COPIED {
            let content = fs::read(workspace().join(from)).with_context(|| (*from).to_owned())?;
            tree.put(to, &content, 0o644)?;
        }
        for (arguments, to) in WRITTEN {
            tree.put(to, &written(Command::new(program).args(*arguments))?, 0o644)?;
        }
        Ok(tree)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(path);
        if let Some(directory) = path.parent() {
            // Whatever the umask of who builds: others must be able to come in.
            let mut made = self.root.clone();
            fs::create_dir_all(directory)?;
            for part in directory.strip_prefix(&self.root)? {
                made.push(part);
                fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
            }
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Every file, from the root.
    pub fn files() -> impl Iterator<Item = &'static str> {
        let copied = COPIED.iter().map(|(_, to)| *to);
        let written = WRITTEN.iter().map(|(_, to)| *to);
        std::iter::once(PROGRAM).chain(copied).chain(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_there() {
        for (from, _) in COPIED {
            assert!(workspace().join(from).is_file(), "{from}");
        }
        let mut all: Vec<&str> = Tree::files().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Tree::files().count());
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let directory = tempfile::tempdir().expect("tempdir");
        let tree = Tree { root: directory.path().join("root") };
        tree.put("a/b/c", b"x", 0o644).expect("put");
        let mode =
            |path: &str| fs::metadata(tree.root.join(path)).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o755, 0o755, 0o644));
    }
}
