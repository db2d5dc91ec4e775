use std::io;

/// Why something could not be learnt from `/proc` or netlink.
#[derive(Debug, thiserror::Error)]
pub enum EnrichError {
    /// A system call or a read of `/proc` failed.
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// The kernel answered a netlink request with an error.
    #[error("{what}: {}", io::Error::from_raw_os_error(*errno))]
    Netlink { what: &'static str, errno: i32 },
    /// A netlink answer was shorter than it says, or longer than the receive buffer.
    #[error("{what}: malformed netlink answer")]
    Malformed { what: &'static str },
    /// The kernel took a netlink request and did not answer it.
    #[error("{what}: no answer")]
    NoAnswer { what: &'static str },
    /// Source and destination of a route lookup are of different families.
    #[error("source and destination are not of the same address family")]
    MixedFamilies,
    /// A name that is no sysctl key.
    #[error("not a sysctl key: {0}")]
    BadKey(String),
    /// Work that was handed to a thread in another network namespace panicked.
    #[error("the thread in the network namespace panicked")]
    Panicked,
}

impl EnrichError {
    pub(super) fn errno(what: &'static str, errno: nix::errno::Errno) -> Self {
        Self::Io { what, source: errno.into() }
    }

    /// The `errno` of the kernel's answer to a netlink request, if this is one.
    pub fn netlink_errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
