//! Which compiler and which linker go together.
//!
//! rustc hands bpf-linker LLVM bitcode, and LLVM reads bitcode of its own major version and of older ones
//! only: so the linker's LLVM must be the compiler's or newer.

use std::fmt;
use std::path::PathBuf;

/// A Rust toolchain that has the sources of `core`, which `-Z build-std` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// rustup's name of it; None for one that is not rustup's.
    pub toolchain: Option<String>,
    /// The directory with `bin/rustc`.
    pub sysroot: PathBuf,
    pub release: String,
    /// The major version of its LLVM.
    pub llvm: u32,
    /// Nightly accepts `-Z` options as it is; other channels need `RUSTC_BOOTSTRAP=1`.
    pub nightly: bool,
}

impl Compiler {
    pub fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    pub fn cargo(&self) -> PathBuf {
        self.sysroot.join("bin/cargo")
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} (LLVM {}) {}", self.release, self.llvm, self.rustc().display())
    }
}

/// A bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// The major version of its LLVM.
    pub llvm: u32,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker (LLVM {}) {}", self.llvm, self.path.display())
    }
}

/// A compiler and a linker that fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub compiler: Compiler,
    pub linker: Linker,
}

/// The first compiler, in the order given, that a linker fits, with the first such linker.
pub fn choose(compilers: &[Compiler], linkers: &[Linker]) -> Option<Pair> {
    compilers.iter().find_map(|compiler| {
        let linker = linkers.iter().find(|linker| linker.llvm >= compiler.llvm)?;
        Some(Pair { compiler: compiler.clone(), linker: linker.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(release: &str, llvm: u32) -> Compiler {
        Compiler {
            toolchain: None,
            sysroot: "/usr".into(),
            release: release.into(),
            llvm,
            nightly: release.ends_with("nightly"),
        }
    }

    fn linker(llvm: u32) -> Linker {
        Linker { path: format!("/l{llvm}").into(), llvm }
    }

    #[test]
    fn linker_must_not_be_older() {
        assert_eq!(choose(&[compiler("1.99.0-nightly", 23)], &[linker(22)]), None);
        assert!(choose(&[compiler("1.95.0", 22)], &[linker(22)]).is_some());
        assert!(choose(&[compiler("1.95.0", 22)], &[linker(23)]).is_some());
    }

    #[test]
    fn falls_back_to_a_compiler_that_fits() {
        let pair =
            choose(&[compiler("1.99.0-nightly", 23), compiler("1.96.0", 22)], &[linker(21), linker(22)])
                .expect("1.96.0 fits");
        assert_eq!((pair.compiler.release.as_str(), pair.linker.llvm), ("1.96.0", 22));
    }
}
