//! Compiles netdiag-ebpf for the BPF target and puts the object at `$OUT_DIR/netdiag-ebpf`.
//!
//! `cargo xtask setup` chose the compiler and the linker and wrote them to `target/netdiag-toolchain`;
//! without that file rustup's nightly and the `bpf-linker` on PATH are taken. docs/building.md says more.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HINT: &str = "run `cargo xtask setup`, which finds or installs the compiler and linker for eBPF";

fn main() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=netdiag-ebpf was not compiled: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest_dir.parent().ok_or("the package is not in the workspace")?;
    for source in ["netdiag-ebpf/src", "netdiag-ebpf/Cargo.toml", "netdiag-user/build.rs", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }

    let toolchain = Toolchain::read(&root.join("target/netdiag-toolchain"));
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // One directory for debug and release builds, which embed the same object. It must not be the one that
    // the running cargo has locked.
    let target_dir = out.ancestors().nth(4).ok_or("OUT_DIR has an unknown layout")?.join("bpf");

    let mut cargo = toolchain.cargo();
    cargo.current_dir(root).args(["build", "--quiet", "--package", "netdiag-ebpf", "--bin", "netdiag-ebpf"]);
    cargo.args(["--features", "bpf", "--release", "-Zbuild-std=core", "--target", target]);
    cargo.arg("--target-dir").arg(&target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", toolchain.flags(&variable("CARGO_CFG_TARGET_ARCH")?));
    let status = cargo.status().map_err(|error| format!("cannot run {cargo:?} ({error}); {HINT}"))?;
    if !status.success() {
        return Err(format!(
            "see the messages above ({status}); if they are about the toolchain, `core`, LLVM or bpf-linker, {HINT}"
        ));
    }
    let object = target_dir.join(target).join("release/netdiag-ebpf");
    std::fs::copy(&object, out.join("netdiag-ebpf"))
        .map(|_bytes| ())
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// What compiles eBPF: the lines `key=value` of the file that `cargo xtask setup` wrote.
struct Toolchain(HashMap<String, String>);

impl Toolchain {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if !text.is_empty() {
            // A missing file would make cargo run this script every time.
            println!("cargo::rerun-if-changed={}", path.display());
        }
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn cargo(&self) -> Command {
        let mut cargo = match self.get("cargo") {
            Some(path) => Command::new(path),
            None => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "cargo"]);
                rustup
            }
        };
        // What the running cargo set for itself, and clippy's wrapper.
        for name in [
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "CARGO",
            "CARGO_BUILD_TARGET",
            "RUSTUP_TOOLCHAIN",
        ] {
            cargo.env_remove(name);
        }
        if let Some(rustc) = self.get("rustc") {
            cargo.env("RUSTC", rustc);
        }
        if let Some(bootstrap) = self.get("bootstrap") {
            cargo.env("RUSTC_BOOTSTRAP", bootstrap);
        }
        cargo
    }

    fn flags(&self, arch: &str) -> String {
        let arch = if arch.starts_with("riscv64") { "riscv64" } else { arch };
        let linker = self.get("linker").unwrap_or("bpf-linker");
        [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            format!("-Clinker={linker}"),
            "-Clink-arg=--btf".to_owned(),
        ]
        .join("\x1f")
    }
}
