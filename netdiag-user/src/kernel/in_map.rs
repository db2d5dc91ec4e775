//! Records of netdiag-ebpf as keys and values of maps.

use netdiag_ebpf::histogram::Histogram;
use netdiag_ebpf::records::{Interest, LastListener, LastListenerKey, TimeWaitKey, TimeWaitOwner};

/// One of them, for aya.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct InMap<T>(pub T);

macro_rules! pod {
    ($($t:ty),*) => {
        // SAFETY: repr(C) structs of plain integers; their sizes, asserted beside them, are the sums of their fields',
        // so there is no padding.
        $(unsafe impl aya::Pod for InMap<$t> {})*
    };
}
pod!(Histogram, Interest, LastListener, LastListenerKey, TimeWaitKey, TimeWaitOwner);
