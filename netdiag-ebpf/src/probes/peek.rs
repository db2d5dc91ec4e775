//! Probe `peek`: kernel memory that user space asks for.
//!
//! Hook: none. It is a raw tracepoint program that is never attached: user space runs it by `BPF_PROG_TEST_RUN`
//! (5.10) with an address, and reads the answer from a map. Everything in it is to be mistrusted there. It serves to
//! confirm what a dropped packet's stack says of the firewall's rule.
//!
//! Cost: nothing, but for a few system calls per dropped packet that is explained. A kernel whose lockdown is
//! `confidentiality` reads nothing.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use crate::kernel::raw;
use crate::maps::PEEKED;

/// Argument: an address in the page that is wanted.
#[raw_tracepoint]
pub fn peek(ctx: RawTracePointContext) -> i32 {
    if let Some(answer) = PEEKED.get_ptr_mut(0) {
        // SAFETY: a live map value; user space runs one at a time.
        raw::copy_page(ctx.arg(0), unsafe { &mut *answer });
    }
    0
}
