//! The only place that does arithmetic on kernel pointers.
//!
//! Two ways to read a field: [`load`] is a plain load that the verifier checks against the pointer's BTF type
//! (for arguments of tp_btf programs, only fields of the declared struct); [`probe`] copies through
//! `bpf_probe_read_kernel` and works for any address. Offsets come from the table in `netdiag_ebpf::fields`.

pub mod raw;
pub mod skb;
pub mod sock;
pub mod task;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use netdiag_ebpf::fields::{ABSENT, Field};

use crate::maps::offset;

/// Plain load of `field` through a pointer that the verifier knows the type of.
///
/// # Safety
/// `base` is a non-null BTF-typed pointer to the struct that `field` belongs to, and the field is required.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T {
    // SAFETY: the caller's contract; the verifier refuses anything else at load time.
    unsafe { base.cast::<u8>().add(offset(field) as usize).cast::<T>().read_volatile() }
}

/// Copies `field` of the struct at `base`; `None` where the kernel has no such field or the read faults.
#[inline(always)]
pub fn probe<T: Copy>(base: *const c_void, field: Field) -> Option<T> {
    let offset = offset(field);
    if offset == ABSENT {
        return None;
    }
    probe_at(base, offset as usize)
}

/// Copies a value at `base + offset`.
#[inline(always)]
pub fn probe_at<T: Copy>(base: *const c_void, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let source = base.cast::<u8>().wrapping_add(offset).cast::<c_void>();
    // SAFETY: the destination is as large as the size given; the helper checks the source.
    let result = unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, source) };
    // SAFETY: the helper filled it; all `T` used are integers and arrays of integers.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Copies an address of `family` at `base + offset`; zeros where the read faults, and behind the four bytes of IPv4.
#[inline(always)]
pub fn copy_address(base: *const c_void, offset: u32, family: u32, to: &mut [u8; 16]) {
    *to = [0; 16];
    let length = if family == sock::AF_INET6 as u32 { 16 } else { 4 };
    let source = base.cast::<u8>().wrapping_add(offset as usize).cast::<c_void>();
    // SAFETY: at most 16 bytes into 16 bytes; the helper checks the source.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), length, source) };
}

/// A pointer field, `None` where it is absent or null.
#[inline(always)]
pub fn probe_pointer(base: *const c_void, field: Field) -> Option<*const c_void> {
    let pointer: u64 = probe(base, field)?;
    (pointer != 0).then_some(pointer as *const c_void)
}

/// Inode number of a `struct net`; 0 where it does not look like one (stale pointers of recycled packets).
#[inline(always)]
pub fn netns_inum(net: *const c_void) -> u32 {
    // include/linux/proc_ns.h: dynamic and initial inode numbers of /proc start here.
    const FIRST: u32 = 0xEFFF_FFF0;
    match probe::<u32>(net, Field::NetInum) {
        Some(inum) if inum >= FIRST => inum,
        _ => 0,
    }
}
