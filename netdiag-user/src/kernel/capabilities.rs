//! Which of the capabilities(7) that netdiag needs this process has.

use super::KernelError;
use super::btf::Btf;

/// Bit numbers from include/uapi/linux/capability.h and what netdiag does with each.
const NEEDED: &[(u32, &str, &str)] = &[
    (39, "CAP_BPF", "load programs and maps"),
    (38, "CAP_PERFMON", "tracing programs and kernel memory reads"),
    (12, "CAP_NET_ADMIN", "tc programs"),
    (21, "CAP_SYS_ADMIN", "other network namespaces"),
];

/// Names and uses of the needed capabilities that are missing. CAP_SYS_ADMIN stands for CAP_BPF and
/// CAP_PERFMON on kernels before 5.8 and is accepted for them everywhere, as the kernel does.
pub fn missing() -> Result<Vec<(&'static str, &'static str)>, KernelError> {
    let path = "/proc/self/status";
    let status =
        std::fs::read_to_string(path).map_err(|source| KernelError::Io { path: path.to_owned(), source })?;
    Ok(missing_in(effective(&status)))
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing_in(effective: u64) -> Vec<(&'static str, &'static str)> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    let admin = has(21);
    NEEDED
        .iter()
        .filter(|(bit, _, _)| !(has(*bit) || admin && matches!(bit, 38 | 39)))
        .map(|(_, name, what)| (*name, *what))
        .collect()
}

/// Error that names what is missing, if anything is.
pub fn require() -> Result<(), KernelError> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|(name, what)| format!("{name} ({what})")).collect();
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
    fn root_misses_nothing() {
        assert_eq!(missing_in(u64::MAX), []);
    }

    #[test]
    fn an_ordinary_user_misses_all() {
        assert_eq!(missing_in(0).len(), NEEDED.len());
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        let names: Vec<_> = missing_in(1 << 21).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn reads_the_status_file() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
        assert_eq!(effective("garbage"), 0);
    }
}
