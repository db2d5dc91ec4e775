//! Memory that the start needed and the rest of the run does not.

/// Gives free memory back to the system. Reading the kernel's BTF leaves megabytes that glibc would keep, and
/// netdiag stays for months. Other allocators give theirs back on their own.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) is safe in any thread at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
