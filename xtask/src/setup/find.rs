//! What is on the machine already.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::pair::{Compiler, Linker};
use crate::cmd;

/// The compilers that can build eBPF programs, the preferred first: the toolchain that builds the rest of
/// netdiag, then rustup's others, then the one in /usr.
pub fn compilers() -> Vec<Compiler> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let others = toolchains().into_iter().map(Some);
    for toolchain in active_toolchain().into_iter().map(Some).chain(others).chain([None]) {
        let sysroot = match &toolchain {
            Some(name) => rustup_sysroot(name),
            None => Some(PathBuf::from("/usr")),
        };
        let Some(sysroot) = sysroot.filter(|dir| seen.insert(dir.clone())) else { continue };
        found.extend(compiler(toolchain, &sysroot));
    }
    found
}

/// The toolchain at `sysroot`, if it has the sources of `core` and is new enough for this workspace.
pub fn compiler(toolchain: Option<String>, sysroot: &Path) -> Option<Compiler> {
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
        || !sysroot.join("bin/cargo").is_file()
    {
        return None;
    }
    let text = cmd::output(Command::new(sysroot.join("bin/rustc")).arg("-Vv"))?;
    let release = field(&text, "release")?.to_owned();
    if version(&release)? < version(env!("CARGO_PKG_RUST_VERSION"))? {
        return None;
    }
    let llvm = major(field(&text, "LLVM version")?)?;
    let nightly = release.contains("-nightly") || release.contains("-dev");
    Some(Compiler { toolchain, sysroot: sysroot.to_owned(), release, llvm, nightly })
}

/// rustup's toolchain for this workspace.
pub fn active_toolchain() -> Option<String> {
    let text =
        cmd::output(Command::new("rustup").args(["show", "active-toolchain"]).current_dir(crate::root()))?;
    text.split_whitespace().next().map(str::to_owned)
}

fn toolchains() -> Vec<String> {
    let text = cmd::output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    // Nightly takes `-Z` options by itself, so it goes before the rest.
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
}

fn rustup_sysroot(toolchain: &str) -> Option<PathBuf> {
    let path = cmd::output(Command::new("rustup").args(["which", "--toolchain", toolchain, "rustc"]))?;
    Some(Path::new(path.trim()).parent()?.parent()?.to_owned())
}

/// The bpf-linkers: netdiag's own, those on PATH, cargo's.
pub fn linkers() -> Vec<Linker> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![own_tools().join("bin")];
    dirs.extend(std::env::split_paths(&path));
    dirs.push(cargo_home().join("bin"));
    let mut seen = HashSet::new();
    dirs.into_iter()
        .map(|dir| dir.join("bpf-linker"))
        .filter(|path| path.is_file() && seen.insert(path.clone()))
        .filter_map(|path| linker(&path))
        .collect()
}

/// The bpf-linker at `path`, unless it does not run.
pub fn linker(path: &Path) -> Option<Linker> {
    // LLVM's own `--version` ends the program before it links anything.
    let text =
        cmd::output(Command::new(path).args(["--llvm-args=--version", "--output=/dev/null", "/dev/null"]))?;
    let llvm = text.lines().find_map(|line| line.split_once("LLVM version "))?;
    Some(Linker { path: path.to_owned(), llvm: major(llvm.1)? })
}

/// Where netdiag keeps a bpf-linker when the machine's own must stay as it is.
pub fn own_tools() -> PathBuf {
    cargo_home().join("netdiag")
}

pub fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| "/root".into());
        home.join(".cargo")
    })
}

/// The value of `key: value` in what `rustc -Vv` prints.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

fn major(version: &str) -> Option<u32> {
    version.trim().split('.').next()?.parse().ok()
}

/// Major and minor version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(path: &Path, body: &str) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("write");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }

    #[test]
    fn reads_a_compiler() {
        let dir = tempfile::tempdir().expect("tempdir");
        let print = "printf 'rustc 1.99.0-nightly\\nrelease: 1.99.0-nightly\\nLLVM version: 23.1.0\\n'";
        script(&dir.path().join("bin/rustc"), print);
        script(&dir.path().join("bin/cargo"), "");
        assert_eq!(compiler(None, dir.path()), None, "no sources of core");

        script(&dir.path().join("lib/rustlib/src/rust/library/core/src/lib.rs"), "");
        let found = compiler(None, dir.path()).expect("complete now");
        assert_eq!((found.llvm, found.nightly), (23, true));

        script(&dir.path().join("bin/rustc"), "printf 'release: 1.85.0\\nLLVM version: 19.1.7\\n'");
        assert_eq!(compiler(None, dir.path()), None, "too old");
    }

    #[test]
    fn reads_a_linker() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("bpf-linker");
        script(&path, "printf 'Debian LLVM version 22.1.8\\n  Optimized build.\\n'");
        assert_eq!(linker(&path).map(|linker| linker.llvm), Some(22));
        script(&path, "exit 127");
        assert_eq!(linker(&path), None, "it does not run");
    }
}
