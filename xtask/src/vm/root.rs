//! What the virtual machine's root directory holds besides the programs under test: the tools that scenarios
//! use, from this machine, with their libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::initramfs::Initramfs;
use crate::cmd;

/// Programs that must be there: those of `setup`'s packages, and what every Debian has.
const TOOLS: &[&str] = &[
    "sh",
    "ip",
    "tc",
    "ss",
    "nft",
    "iptables-legacy",
    "ip6tables-legacy",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables",
    "ip6tables",
    "curl",
    "nc",
    "modprobe",
    "date",
    "cat",
    "echo",
    "env",
    "false",
    "head",
    "kill",
    "ls",
    "mkdir",
    "mount",
    "printf",
    "rm",
    "rmdir",
    "sed",
    "grep",
    "seq",
    "sleep",
    "sort",
    "stty",
    "tail",
    "tee",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "unshare",
    "nsenter",
    "wc",
    "yes",
    "setsid",
    "setpriv",
    "id",
    "uname",
];
/// Programs that only some scenarios need; without them those are skipped, which must be expected.
const OPTIONAL_TOOLS: &[&str] = &["bpftool", "conntrack", "dig", "ping", "script", "sysctl", "traceroute"];

/// Python without what needs other libraries or nobody's script imports.
const PYTHON_PACKAGES: &[&str] =
    &["__pycache__", "collections", "encodings", "importlib", "json", "lib-dynload", "re"];

const DATA: &[&str] =
    &["/etc/protocols", "/etc/services", "/etc/iproute2", "/usr/share/iproute2", "/usr/lib/tc"];
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// Adds it all.
///
/// # Errors
/// When a tool is missing on this machine.
pub fn add(to: &mut Initramfs) -> Result<()> {
    // Debian's layout since 12; the tools' own paths then lead through these links.
    for (link, target) in
        [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
    {
        to.symlink(Path::new(link), target)?;
    }
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run", "/root", "/var/tmp", "/etc/netns"] {
        to.directory(Path::new(directory))?;
    }
    to.data(
        Path::new("/etc/passwd"),
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    to.data(Path::new("/etc/group"), 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    to.data(Path::new("/etc/nsswitch.conf"), 0o644, b"passwd: files\ngroup: files\nhosts: files\n")?;
    to.data(Path::new("/etc/hosts"), 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;

    let mut libraries = BTreeSet::new();
    for name in TOOLS {
        let path = system_tool(name).with_context(|| format!("no {name} on this machine"))?;
        add_program(to, &path, &mut libraries)?;
    }
    for path in OPTIONAL_TOOLS.iter().filter_map(|name| system_tool(name)) {
        add_program(to, &path, &mut libraries)?;
    }
    add_python(to, &mut libraries)?;
    add_extensions(to)?;
    for library in &libraries {
        add_linked(to, library)?;
    }
    for data in DATA.iter().map(Path::new) {
        if data.is_dir() {
            to.tree(data, &merged(data), &|_| true)?;
        } else if data.is_file() {
            to.file(data, data)?;
        }
    }
    if Path::new(LOADER_CACHE).is_file() {
        to.file(Path::new(LOADER_CACHE), Path::new(LOADER_CACHE))?;
    }
    Ok(())
}

/// The distribution's own program, not one that a version manager put first on PATH.
fn system_tool(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let own = directories.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
    own.or_else(|| cmd::find(name))
}

fn add_program(to: &mut Initramfs, path: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    add_linked(to, path)?;
    libraries.extend(libraries_of(path)?);
    Ok(())
}

/// The file itself, and a link where the path is another: xtables does what its name says.
fn add_linked(to: &mut Initramfs, path: &Path) -> Result<()> {
    let real = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    to.file(&real, &merged(&real))?;
    let path = merged(path);
    if path != merged(&real) {
        to.symlink(&path, &merged(&real).to_string_lossy())?;
    }
    Ok(())
}

/// The path below `/usr`, for a machine where `/bin` is a directory of its own as well.
fn merged(path: &Path) -> PathBuf {
    let top = ["/bin", "/sbin", "/lib", "/lib64"].iter().any(|top| path.starts_with(top));
    if top { Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path)) } else { path.to_owned() }
}

/// What `ldd` says that the dynamic linker would load; nothing for a static program or a script.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.ends_with("not found")) {
        bail!("{}: {}", program.display(), line.trim());
    }
    Ok(text.lines().filter_map(library).collect())
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn library(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

fn add_python(to: &mut Initramfs, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let path = system_tool("python3").context("no python3 on this machine")?;
    add_program(to, &path, libraries)?;
    let real = path.canonicalize()?;
    let name = real.file_name().context("python3 has no name")?;
    let prefix = real.parent().and_then(Path::parent).context("python3 is in no bin directory")?;
    let modules = prefix.join("lib").join(name);
    let wanted = |path: &Path| {
        let Ok(inside) = path.strip_prefix(&modules) else { return false };
        let top = inside.components().next().and_then(|part| part.as_os_str().to_str()).unwrap_or_default();
        top.ends_with(".py") || PYTHON_PACKAGES.contains(&top)
    };
    to.tree(&modules, &modules, &wanted)
}

/// iptables loads its matches and targets from a directory.
fn add_extensions(to: &mut Initramfs) -> Result<()> {
    let directories =
        [format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH), "/usr/lib/xtables".to_owned()];
    for directory in directories.iter().map(Path::new).filter(|directory| directory.is_dir()) {
        to.tree(directory, directory, &|_| true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ldd() {
        let paths: Vec<_> = [
            "\tlinux-vdso.so.1 (0x00007ffd)",
            "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f2)",
            "\tnot a dynamic executable",
        ]
        .iter()
        .filter_map(|line| library(line))
        .collect();
        assert_eq!(
            paths,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert_eq!(merged(&paths[1]), Path::new("/usr/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(merged(Path::new("/usr/lib/x.so")), Path::new("/usr/lib/x.so"));
    }
}
