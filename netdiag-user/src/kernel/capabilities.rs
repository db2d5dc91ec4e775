//! Which of the capabilities(7) that netdiag needs this process has.

use super::KernelError;
use super::btf::Btf;

/// One of capabilities(7).
#[derive(Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its number in include/uapi/linux/capability.h.
    pub bit: u32,
    pub name: &'static str,
    /// What netdiag does with it.
    pub what: &'static str,
    /// Nothing works without; the others only make that more is known.
    pub needed: bool,
}

const fn capability(bit: u32, name: &'static str, what: &'static str, needed: bool) -> Capability {
    Capability { bit, name, what, needed }
}

/// All that netdiag makes use of. The unit of the agent gives the same.
pub const USED: &[Capability] = &[
    capability(39, "CAP_BPF", "load programs and maps", true),
    capability(38, "CAP_PERFMON", "tracing programs and kernel memory reads", true),
    capability(12, "CAP_NET_ADMIN", "tc programs", true),
    capability(21, "CAP_SYS_ADMIN", "other network namespaces", true),
    capability(19, "CAP_SYS_PTRACE", "which process holds a socket", false),
    capability(2, "CAP_DAC_READ_SEARCH", "files of other users' processes", false),
    capability(34, "CAP_SYSLOG", "names of kernel functions", false),
];

/// The sets of a process that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    pub effective: u64,
    /// What a program that it starts can have at most.
    pub bounding: u64,
}

impl Sets {
    /// Of this process.
    ///
    /// # Errors
    /// Without /proc.
    pub fn own() -> Result<Self, KernelError> {
        let path = "/proc/self/status";
        let status = std::fs::read_to_string(path)
            .map_err(|source| KernelError::Io { path: path.to_owned(), source })?;
        Ok(Self::of(&status))
    }

    fn of(status: &str) -> Self {
        let set = |field: &str| {
            let hex = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
        };
        Self { effective: set("CapEff"), bounding: set("CapBnd") }
    }
}

/// Those of [`USED`] that a set lacks. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON on kernels before 5.8 and is
/// accepted for them everywhere, as the kernel does.
pub fn lacking(set: u64) -> impl Iterator<Item = &'static Capability> {
    let has = move |bit: u32| set >> bit & 1 == 1;
    USED.iter().filter(move |used| !(has(used.bit) || has(21) && matches!(used.bit, 38 | 39)))
}

/// The needed capabilities that this process lacks.
///
/// # Errors
/// Without /proc.
pub fn missing() -> Result<Vec<&'static Capability>, KernelError> {
    Ok(lacking(Sets::own()?.effective).filter(|used| used.needed).collect())
}

/// Error that names what is missing, if anything is.
pub fn require() -> Result<(), KernelError> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|used| format!("{} ({})", used.name, used.what)).collect();
    Err(KernelError::MissingCapability(names.join(", ")))
}

/// Error if lockdown forbids reading kernel memory, without which no program of netdiag can be loaded.
pub fn require_no_lockdown() -> Result<(), KernelError> {
    // Without securityfs the kernel's refusal of the first program has to do.
    match std::fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) if text.contains("[confidentiality]") => Err(KernelError::LockedDown),
        _ => Ok(()),
    }
}

/// Error if the kernel is older than what netdiag's programs are made of. By its own types and not by its version:
/// distributions bring parts of newer kernels to older ones.
pub fn require_recent(btf: &Btf) -> Result<(), KernelError> {
    let has = |tracepoint: &str| btf.tracepoint_params(tracepoint).is_ok();
    let reason = btf.tracepoint_params("kfree_skb").is_ok_and(|params| params.len() > 2);
    let lacks = if !(reason && btf.has_type("skb_drop_reason")) {
        "does not say why it drops a packet (from Linux 5.17)"
    } else if !has("inet_sk_error_report") {
        "does not report the errors of sockets (from Linux 5.16)"
    } else {
        return Ok(());
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Err(KernelError::TooOld { release: release.trim().to_owned(), lacks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing() {
        assert_eq!(lacking(u64::MAX).count(), 0);
    }

    #[test]
    fn an_ordinary_user_lacks_all() {
        assert_eq!(lacking(0).count(), USED.len());
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        let names: Vec<_> = lacking(1 << 21).map(|used| used.name).collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYSLOG"]);
    }

    #[test]
    fn reads_the_status_file() {
        let sets = Sets::of("Name:\tx\nCapEff:\t000001fffeffffff\nCapBnd:\t0000000000000004\n");
        assert_eq!(sets, Sets { effective: 0x1ff_feff_ffff, bounding: 4 });
        assert_eq!(Sets::of("garbage"), Sets { effective: 0, bounding: 0 });
    }
}
