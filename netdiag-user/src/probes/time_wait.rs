use netdiag_ebpf::records::{TimeWaitOwner, time_wait_flag};

use super::{Owner, owner};

/// Who closed a connection first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub owner: Owner,
    /// A thread of the kernel did it: for the kernel itself, or for a process that is not known.
    pub by_kernel: bool,
}

/// `None` where no process is named.
pub fn decode(raw: &TimeWaitOwner) -> Option<Closed> {
    let by_kernel = raw.flags & time_wait_flag::KERNEL_THREAD != 0;
    owner(&raw.owner).map(|owner| Closed { time_ns: raw.closed_ns, owner, by_kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_a_process_is_none() {
        let mut value = TimeWaitOwner { closed_ns: 5, ..TimeWaitOwner::default() };
        assert_eq!(decode(&value), None);
        value.owner.tgid = 77;
        value.owner.comm[..4].copy_from_slice(b"curl");
        value.flags = time_wait_flag::KERNEL_THREAD;
        let closed = decode(&value).unwrap();
        assert_eq!((closed.owner.pid, closed.owner.comm.as_str(), closed.by_kernel), (77, "curl", true));
        assert_eq!(closed.time_ns, 5);
    }
}
