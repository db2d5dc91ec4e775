//! Records of netdiag-ebpf as keys and values of maps.

use netdiag_ebpf::records::{Interest, TimeWaitKey, TimeWaitOwner};

/// One of them, for aya.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct InMap<T>(pub T);

macro_rules! pod {
    ($($t:ty),*) => {
        // SAFETY: repr(C) structs of plain integers; their sizes, asserted in netdiag-ebpf/src/records.rs, are the
        // sums of their fields', so there is no padding.
        $(unsafe impl aya::Pod for InMap<$t> {})*
    };
}
pod!(Interest, TimeWaitKey, TimeWaitOwner);
