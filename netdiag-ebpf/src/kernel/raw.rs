//! Kernel memory without a type: the stack that a program runs on, and any address that user space asks for.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use netdiag_ebpf::records::{FRAME_WORDS, PEEK_BYTES, PeekAnswer};

/// One read must not cross the end of a stack, beyond which there may be nothing.
const CHUNK: usize = 256;
const CHUNK_WORDS: usize = CHUNK / 8;
/// A program's variables, and what a call adds.
const MAX_FRAME: u64 = 1024;

/// Writes an address on the kernel's stack, below the frame of the program that calls.
#[inline(never)]
fn note_stack(to: &mut u64) {
    let mut here = 0u64;
    // SAFETY: as in `copy_frames`.
    unsafe { (&raw mut here).write_volatile(0) };
    as_number(&raw const here, to);
}

/// The verifier allows no access above the frame through a pointer to it. An address that has been in memory is a
/// number, and a probe read takes any number.
#[inline(always)]
fn as_number(pointer: *const u64, memory: &mut u64) -> u64 {
    let memory = &raw mut *memory;
    // SAFETY: live memory; volatile, so that the compiler does not keep the pointer instead.
    unsafe {
        memory.write_volatile(pointer as u64);
        memory.read_volatile()
    }
}

/// Copies the frames of this program's callers, innermost first, and returns how many words there were. `base` gets
/// the address that the copy begins at.
#[inline(always)]
pub fn copy_frames(base: &mut u64, to: &mut [u64; FRAME_WORDS]) -> u32 {
    let mut here = 0u64;
    // SAFETY: a live value; volatile, so that the compiler makes no constant of it, which would be no stack memory.
    unsafe { (&raw mut here).write_volatile(0) };
    note_stack(base);
    let callee = *base;
    let own = as_number(&raw const here, base);
    // From 6.13 on the variables of a program like this one are not on the kernel's stack (`priv_stack_mode`); those of
    // a small function that it calls are. Where they are, this program's own need not be copied.
    let start = if own.wrapping_sub(callee) < MAX_FRAME { own } else { callee };
    *base = start;
    let mut words = 0;
    let mut chunk = 0;
    let mut whole = true;
    while chunk < FRAME_WORDS / CHUNK_WORDS {
        let at = chunk * CHUNK_WORDS;
        // SAFETY: CHUNK bytes from word `at` on are inside `to`; the helper checks the source, and writes zeros where
        // it cannot read.
        let read = unsafe {
            let source = (start + (chunk * CHUNK) as u64) as *const c_void;
            bpf_probe_read_kernel(to.as_mut_ptr().add(at).cast(), CHUNK as u32, source)
        };
        whole &= read == 0;
        if whole {
            words += CHUNK_WORDS as u32;
        }
        chunk += 1;
    }
    words
}

/// Copies the page that `address` is in.
#[inline(always)]
pub fn copy_page(address: u64, to: &mut PeekAnswer) {
    let source = (address & !(PEEK_BYTES as u64 - 1)) as *const c_void;
    // SAFETY: the destination is as large as the size given; the helper checks the source.
    let result = unsafe { bpf_probe_read_kernel(to.bytes.as_mut_ptr().cast(), PEEK_BYTES as u32, source) };
    to.read = (result == 0) as u64;
}
