//! The Debian package, and whether it can be installed and removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::tree::{CONFIG, PROGRAM, Tree};
use super::{runs, workspace, written};

const ARCHITECTURE: &str = "amd64";
/// Files that their owner may change.
const CONFFILES: &str = "/etc/netdiag/agent.toml\n";
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

#[derive(Debug)]
pub struct Package {
    pub path: PathBuf,
}

/// Its description. nft names the firewall's rules; without it netdiag works, and knows less.
fn control(bytes: u64) -> String {
    format!(
        "Package: netdiag\nVersion: {}\nArchitecture: {ARCHITECTURE}\nMaintainer: netdiag <netdiag@localhost>\n\
         Installed-Size: {}\nRecommends: nftables\nSection: net\nPriority: optional\nHomepage: {}\nDescription: why \
         did this connection fail?\n netdiag watches the kernel with eBPF and explains connections that are refused,\n \
         time out, have no route or are reset: what happened, where, how sure that is,\n and what to do next.\n",
        env!("CARGO_PKG_VERSION"),
        bytes.div_ceil(1024),
        env!("CARGO_PKG_REPOSITORY"),
    )
}

impl Package {
    /// # Errors
    /// When dpkg-deb refuses.
    pub fn build(tree: &Tree, to: &Path) -> Result<Self> {
        let bytes =
            Tree::files().filter_map(|file| fs::metadata(tree.root.join(file)).ok()).map(|file| file.len());
        tree.put("DEBIAN/control", control(bytes.sum()).as_bytes(), 0o644)?;
        tree.put("DEBIAN/conffiles", CONFFILES.as_bytes(), 0o644)?;
        for script in SCRIPTS {
            let content = fs::read(workspace().join("packaging/deb").join(script))?;
            tree.put(&format!("DEBIAN/{script}"), &content, 0o755)?;
        }
        let path = to.join(format!("netdiag_{}_{ARCHITECTURE}.deb", env!("CARGO_PKG_VERSION")));
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree.root).arg(&path);
        written(&mut command)?;
        Ok(Self { path })
    }

    /// Installs it in a root of its own, runs it, removes and purges it.
    ///
    /// # Errors
    /// When something is missing, does not run, or is left behind.
    pub fn try_out(&self, root: &Path) -> Result<()> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let administration = root.join("var/lib/dpkg");
        for directory in ["info", "updates", "triggers"] {
            fs::create_dir_all(administration.join(directory))?;
        }
        fs::write(administration.join("status"), "")?;
        dpkg(root, &["--install", &self.path.to_string_lossy()])?;
        for file in Tree::files() {
            ensure!(root.join(file).is_file(), "{file} was not installed");
        }
        let config = root.join(CONFIG);
        runs(&root.join(PROGRAM), &config)?;
        let store = root.join("var/lib/netdiag/history");
        fs::create_dir_all(&store)?;
        dpkg(root, &["--remove", "netdiag"])?;
        for file in Tree::files().filter(|file| !CONFFILES.contains(file)) {
            ensure!(!root.join(file).exists(), "{file} was left behind");
        }
        ensure!(config.is_file() && store.is_dir(), "what its owner may need was removed");
        dpkg(root, &["--purge", "netdiag"])?;
        ensure!(!config.exists() && !store.exists(), "a purge left something behind");
        fs::remove_dir_all(root)?;
        Ok(())
    }
}

/// Without a chroot: there is no shell in that root.
fn dpkg(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display()));
    command
        .args(["--log=/dev/null", "--force-script-chrootless", "--force-not-root", "--no-triggers"])
        .args(arguments);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    written(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_what_dpkg_wants() {
        let text = control(2_000);
        for field in ["Package: netdiag\n", "Architecture: amd64\n", "Installed-Size: 2\n", "Description: "] {
            assert!(text.contains(field), "{text}");
        }
        assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
    }
}
