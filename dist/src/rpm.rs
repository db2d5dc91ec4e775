//! The package for distributions with rpm, and whether all of it is there when it is unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rpm::{
    BuildConfig, CompressionType, Dependency, FileFlags, FileOptions, Package, PackageBuilder, Scriptlet,
};

use super::tree::{CONFIG, PROGRAM, Tree};
use super::{has, runs, workspace, written};

const ARCHITECTURE: &str = "x86_64";
const RELEASE: &str = "1";

/// Where other distributions have what Debian has elsewhere.
const MOVED: &[(&str, &str)] = &[
    ("lib/systemd/", "usr/lib/systemd/"),
    ("usr/share/zsh/vendor-completions/", "usr/share/zsh/site-functions/"),
    ("usr/share/doc/netdiag/copyright", "usr/share/licenses/netdiag/LICENSE-MIT"),
    ("usr/share/doc/netdiag/LICENSE-APACHE", "usr/share/licenses/netdiag/LICENSE-APACHE"),
];

/// Directories that are this package's own, and go with it.
const DIRECTORIES: &[&str] =
    &["/etc/netdiag", "/usr/share/netdiag", "/usr/share/doc/netdiag", "/usr/share/licenses/netdiag"];

/// Where a file of the tree goes.
fn place(file: &str) -> String {
    let moved = MOVED.iter().find_map(|(from, to)| Some(format!("/{to}{}", file.strip_prefix(from)?)));
    moved.unwrap_or_else(|| format!("/{file}"))
}

/// What rpm must know of a file beyond its content.
fn options(file: &str) -> FileOptions {
    let place = place(file);
    let options = FileOptions::new(&place).permissions(if file == PROGRAM { 0o755 } else { 0o644 });
    if file == CONFIG {
        options.config().noreplace().into()
    } else if place.starts_with("/usr/share/licenses/") {
        options.license().into()
    } else if place.starts_with("/usr/share/doc/") || place.starts_with("/usr/share/man/") {
        options.doc().into()
    } else {
        options.into()
    }
}

fn script(name: &str) -> Result<Scriptlet> {
    let path = workspace().join("packaging/rpm").join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(Scriptlet::new(text).prog(vec!["/bin/sh"]))
}

/// # Errors
/// When a file cannot be read or the package not be written.
pub fn build(tree: &Tree, to: &Path) -> Result<PathBuf> {
    let mut config = BuildConfig::v4().compression(CompressionType::Gzip);
    // As dpkg-deb does it.
    if let Some(time) = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u32>().ok()) {
        config = config.source_date(time);
    }
    let summary = "Why did this connection fail?";
    let mut package = PackageBuilder::new(
        "netdiag",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_LICENSE"),
        ARCHITECTURE,
        summary,
    );
    package.using_config(config).release(RELEASE).url(env!("CARGO_PKG_REPOSITORY"));
    package.description(
        "netdiag watches the kernel with eBPF and explains connections that are refused,\ntime out, have no route or \
         are reset: what happened, where, how sure that is,\nand what to do next.",
    );
    for directory in DIRECTORIES {
        package.with_dir_entry(FileOptions::dir(*directory).permissions(0o755))?;
    }
    for file in Tree::files() {
        package.with_file(tree.root.join(file), options(file)).with_context(|| file.to_owned())?;
    }
    package.pre_install_script(script("pre")?).post_install_script(script("post")?);
    package.pre_uninstall_script(script("preun")?).post_uninstall_script(script("postun")?);
    // It names the firewall's rules; without it netdiag works, and knows less.
    package.recommends(Dependency::any("nftables"));
    let path = to.join(format!("netdiag-{}-{RELEASE}.{ARCHITECTURE}.rpm", env!("CARGO_PKG_VERSION")));
    package.build()?.write_file(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Unpacks it, looks at all of it and runs it; with rpm itself too, where that is.
///
/// # Errors
/// When something is missing, other than it was, or does not run.
pub fn try_out(path: &Path, tree: &Tree, directory: &Path) -> Result<()> {
    anew(directory)?;
    let package = Package::open(path)?;
    look(&package, tree)?;
    let unpacked = directory.join("unpacked");
    package.extract(&unpacked)?;
    is_the_tree(&unpacked, tree)?;
    runs(&unpacked.join(PROGRAM), &unpacked.join(CONFIG))?;
    if has("rpm") {
        install(path, tree, &directory.join("installed"))?;
    } else {
        println!("dist: no rpm: the package was unpacked and not installed");
    }
    Ok(fs::remove_dir_all(directory)?)
}

fn anew(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(fs::create_dir_all(directory)?)
}

/// What the package says of itself.
fn look(package: &Package, tree: &Tree) -> Result<()> {
    package.verify_digests()?;
    let about = &package.metadata;
    ensure!(about.get_name()? == "netdiag" && about.get_version()? == env!("CARGO_PKG_VERSION"));
    let group = about.get_provides()?.into_iter().any(|provided| provided.name == "group(netdiag)");
    ensure!(group, "it does not provide its group");
    let entries = about.get_file_entries()?;
    ensure!(entries.len() == DIRECTORIES.len() + Tree::files().count(), "{} files", entries.len());
    for file in Tree::files() {
        let place = place(file);
        let entry = entries.iter().find(|entry| entry.path() == Path::new(&place));
        let entry = entry.with_context(|| format!("{place} is missing"))?;
        let size = usize::try_from(fs::metadata(tree.root.join(file))?.len())?;
        ensure!(entry.size() == size, "{place} has {} bytes and not {size}", entry.size());
        ensure!((entry.user(), entry.group()) == ("root", "root"), "{place} is {}'s", entry.user());
        let kept = FileFlags::CONFIG | FileFlags::NOREPLACE;
        ensure!(entry.flags().contains(kept) == (file == CONFIG), "{place}: its owner's changes");
        ensure!(entry.permissions() & 0o022 == 0, "{place} can be written by others");
    }
    Ok(())
}

fn is_the_tree(there: &Path, tree: &Tree) -> Result<()> {
    for file in Tree::files() {
        let place = there.join(place(file).trim_start_matches('/'));
        let content = fs::read(&place).with_context(|| place.display().to_string())?;
        ensure!(content == fs::read(tree.root.join(file))?, "{} has another content", place.display());
    }
    Ok(())
}

/// In a root of its own, which has no shell for scripts, and no other packages.
fn install(path: &Path, tree: &Tree, root: &Path) -> Result<()> {
    let rpm = |arguments: &[&str]| {
        let mut command = Command::new("rpm");
        command.args(["--root", &root.to_string_lossy(), "--noscripts", "--nodeps"]).args(arguments);
        written(&mut command)
    };
    fs::create_dir_all(root)?;
    let package = path.to_string_lossy();
    written(Command::new("rpm").args(["--checksig", "--nosignature", &package]))?;
    rpm(&["--install", "--nosignature", &package])?;
    is_the_tree(root, tree)?;
    runs(&root.join(PROGRAM), &root.join(CONFIG))?;
    rpm(&["--verify", "netdiag"])?;
    let store = root.join("var/lib/netdiag/history");
    fs::create_dir_all(&store)?;
    fs::write(root.join(CONFIG), "# changed by its owner\n")?;
    rpm(&["--erase", "netdiag"])?;
    for file in Tree::files() {
        let place = root.join(place(file).trim_start_matches('/'));
        ensure!(!place.exists(), "{} was left behind", place.display());
    }
    let saved = root.join(format!("{CONFIG}.rpmsave"));
    ensure!(saved.is_file() && store.is_dir(), "what its owner may need was removed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("usr/bin/netdiag"), "/usr/bin/netdiag");
        let unit = "lib/systemd/system/netdiag-agent.service";
        assert_eq!(place(unit), format!("/usr/{unit}"));
        assert_eq!(place("usr/share/doc/netdiag/copyright"), "/usr/share/licenses/netdiag/LICENSE-MIT");
        for (from, _) in MOVED {
            assert!(Tree::files().any(|file| file.starts_with(from)), "{from} is nowhere");
        }
    }

    #[test]
    fn what_is_packed_is_what_is_unpacked() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let tree = Tree { root: directory.path().join("root") };
        for file in Tree::files() {
            let content = if file.contains("sysusers") { "g netdiag -\n" } else { file };
            tree.put(file, content.as_bytes(), 0o644)?;
        }
        let path = build(&tree, directory.path())?;
        let package = Package::open(&path)?;
        look(&package, &tree)?;
        let unpacked = directory.path().join("unpacked");
        package.extract(&unpacked)?;
        is_the_tree(&unpacked, &tree)?;
        let scripts = package.metadata.get_pre_uninstall_script()?.script;
        assert!(scripts.contains("disable --now netdiag-agent.service"), "{scripts}");
        Ok(())
    }

    #[test]
    fn scripts_are_of_a_shell() -> Result<()> {
        for name in ["pre", "post", "preun", "postun"] {
            written(Command::new("sh").arg("-n").arg(workspace().join("packaging/rpm").join(name)))?;
        }
        Ok(())
    }
}
