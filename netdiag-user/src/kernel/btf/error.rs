use std::{io, path::PathBuf};

/// Why a question to BTF has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// This kernel (or module) has no such type, member, function or tracepoint.
    #[error("not in this kernel's BTF: {what}")]
    NotFound {
        /// What was asked for, and where the search ended.
        what: String,
    },
    /// Several types of this name exist, and they give different answers.
    #[error("several different types in this kernel's BTF fit: {what}")]
    Ambiguous {
        /// What was asked for.
        what: String,
    },
    /// The data is not valid BTF.
    #[error("malformed BTF at byte {offset}: {what}")]
    Malformed {
        /// Position in the file, in bytes.
        offset: usize,
        /// Which rule is broken there.
        what: &'static str,
    },
    /// The BTF file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

impl BtfError {
    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }
}
