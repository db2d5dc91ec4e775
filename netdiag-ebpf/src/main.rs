//! The programs that run in the kernel. One file per probe in `probes/`, kernel pointers only in `kernel/`.
#![no_std]
#![no_main]

mod answer;
mod dropped_syns;
mod kernel;
mod limits;
mod maps;
mod probes;
mod sockets;
mod totals;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here can panic: the verifier would refuse the loop.
    loop {}
}

// The kernel refuses GPL-only helpers (probe_read_kernel, get_stack) to any other licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
