use super::btf::BtfError;

/// Why the kernel side could not start. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("this kernel has no BTF ({0}): netdiag needs a kernel built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf(BtfError),
    #[error(
        "this kernel ({release}) {lacks}: netdiag needs Linux 6.1 or later (or a kernel with that part of it)"
    )]
    TooOld { release: String, lacks: &'static str },
    #[error(
        "this kernel is locked down (confidentiality), which forbids programs to read its memory: netdiag works \
         with lockdown=integrity or none (kernel command line, Secure Boot)"
    )]
    LockedDown,
    #[error("cannot read the kernel's BTF for aya: {0}")]
    AyaBtf(#[from] aya::BtfError),
    #[error("missing capability {0}: run netdiag as root, or grant it (a container needs --cap-add)")]
    MissingCapability(String),
    #[error("the kernel's BTF does not name the required field {path}: {source}")]
    MissingField { path: &'static str, source: BtfError },
    #[error("{path} is {found} bytes in this kernel, netdiag reads {expected}")]
    FieldSize { path: &'static str, found: u32, expected: u32 },
    #[error("the kernel refused netdiag's maps: {0}")]
    Maps(#[from] aya::EbpfError),
    #[error("the probe `{probe}` is required and cannot be attached: {why}")]
    RequiredProbe { probe: &'static str, why: String },
    #[error("netdiag's own object has no {what} named {name}")]
    Object { what: &'static str, name: String },
    #[error("a map could not be used: {0}")]
    Map(#[from] aya::maps::MapError),
    #[error("cannot read {path}: {source}")]
    Io { path: String, source: std::io::Error },
}
