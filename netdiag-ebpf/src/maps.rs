//! Maps, read-only globals and the one way to send a record.

use core::hint::black_box;
use core::ptr::{addr_of, read_volatile};

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray, RingBuf};
use netdiag_ebpf::config::{DROP_REASONS, DROP_SEND, ERRNO_WORDS};
use netdiag_ebpf::counters::{COUNTER_COUNT, Counter};
use netdiag_ebpf::fields::{ABSENT, FIELD_COUNT, Field};
use netdiag_ebpf::records::call::CALLS;
use netdiag_ebpf::records::{Header, Owner, PacketInfo, SocketEntry, Timeline, Tuple};

/// Byte offset of each field of `netdiag_ebpf::fields`, written by user space before load.
#[unsafe(no_mangle)]
static OFFSETS: [u32; FIELD_COUNT] = [ABSENT; FIELD_COUNT];
/// Bits of `netdiag_ebpf::config`.
#[unsafe(no_mangle)]
static CONFIG: u32 = 0;
/// netdiag's own network namespace.
#[unsafe(no_mangle)]
static OWN_NETNS: u32 = 0;
/// What to do with a drop, by reason.
#[unsafe(no_mangle)]
static DROP_ACTION: [u8; DROP_REASONS] = [DROP_SEND; DROP_REASONS];
/// Errors of system calls that are sent, as a bit set.
#[unsafe(no_mangle)]
static ERRNO_MASK: [u64; ERRNO_WORDS] = [0; ERRNO_WORDS];

/// Numbers of connect, bind, sendto, sendmsg and listen on this architecture, in the order of `records::call`.
#[unsafe(no_mangle)]
static SOCKET_CALLS: [u32; CALLS] = [u32::MAX; CALLS];

/// Records for user space.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Open sockets, by address of the socket. Preallocated: an insert never waits for memory.
#[map]
pub static SOCKETS: HashMap<u64, SocketEntry> = HashMap::with_max_entries(65536, 0);

/// Timelines of sockets in trouble. LRU: under a storm of trouble the oldest make room.
#[map]
pub static TIMELINES: LruHashMap<u64, Timeline> = LruHashMap::with_max_entries(4096, 0);

/// Processes that `run` follows, by tgid.
#[map]
pub static TRACKED: HashMap<u32, u8> = HashMap::with_max_entries(16384, 0);

/// Who connected a UDP socket, by address of the socket, for followed processes. A UDP socket has no state
/// changes, so nothing tells when it is gone: the LRU map forgets.
#[map]
pub static UDP_OWNERS: LruHashMap<u64, UdpOwner> = LruHashMap::with_max_entries(1024, 0);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct UdpOwner {
    pub owner: Owner,
    /// To tell this socket from a later one at the same address.
    pub local_port: u32,
    pub peer_port: u32,
}

/// Remote ends (and flows to them) whose packets the tc programs send.
#[map]
pub static INTEREST: LruHashMap<Interest, u8> = LruHashMap::with_max_entries(4096, 0);

#[map]
pub static COUNTERS: PerCpuArray<[u64; COUNTER_COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// Rate limits of drops and the like, one direct-mapped table per CPU.
#[map]
pub static LIMITS: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(BUCKETS, 0);

/// Working memory of probe `wire`, which would not fit the 512 bytes of stack; one for each direction.
#[map]
pub static WIRE_SCRATCH: PerCpuArray<WireScratch> = PerCpuArray::with_max_entries(2, 0);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct WireScratch {
    pub packet: PacketInfo,
    pub quoted: Tuple,
}

/// Size of [`LIMITS`]; a power of two.
pub const BUCKETS: u32 = 1024;

/// Records of one flow and cause in one window of [`Bucket`].
pub const BURST: u32 = 10;
/// Length of the window, 2^29 ns (about half a second).
pub const WINDOW_SHIFT: u32 = 29;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bucket {
    pub key: u32,
    pub window: u32,
    pub sent: u32,
    pub suppressed: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Interest {
    pub address: [u8; 16],
    pub port: u16,
    pub family: u16,
    /// The port of this machine's end; 0 for any.
    pub local_port: u16,
    pub _pad: u16,
}

/// Offset of a field; [`ABSENT`] where the kernel has none.
#[inline(always)]
pub fn offset(field: Field) -> u32 {
    // SAFETY: in bounds by construction of `Field`; volatile, so that the initial value is not folded in.
    unsafe { read_volatile(addr_of!(OFFSETS[field as usize])) }
}

#[inline(always)]
pub fn config() -> u32 {
    // SAFETY: as in `offset`.
    unsafe { read_volatile(addr_of!(CONFIG)) }
}

#[inline(always)]
pub fn own_netns() -> u32 {
    // SAFETY: as in `offset`.
    unsafe { read_volatile(addr_of!(OWN_NETNS)) }
}

/// What to do with a drop of this reason.
#[inline(always)]
pub fn drop_action(reason: u32) -> u8 {
    if reason as usize >= DROP_REASONS {
        return DROP_SEND;
    }
    // The verifier does not see through the compiler's zero extension: a mask that the compiler cannot fold
    // bounds the index for it.
    let index = black_box(reason as usize) & (DROP_REASONS - 1);
    // SAFETY: bounded above.
    unsafe { read_volatile(addr_of!(DROP_ACTION).cast::<u8>().add(index)) }
}

/// Whether a system call's error is sent.
#[inline(always)]
pub fn errno_wanted(errno: u32) -> bool {
    if errno as usize >= ERRNO_WORDS * 64 {
        return false;
    }
    let word = black_box(errno as usize / 64) & (ERRNO_WORDS - 1);
    // SAFETY: bounded above, for the verifier as in `drop_action`.
    let bits = unsafe { read_volatile(addr_of!(ERRNO_MASK).cast::<u64>().add(word)) };
    bits >> (errno % 64) & 1 == 1
}

/// Which of `records::call` a system call's number is.
#[inline(always)]
pub fn socket_call(number: u32) -> Option<u32> {
    let mut index = 0;
    while index < CALLS {
        // SAFETY: in bounds; volatile as in `offset`.
        if unsafe { read_volatile(addr_of!(SOCKET_CALLS[index])) } == number {
            return Some(index as u32 + 1);
        }
        index += 1;
    }
    None
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: per-CPU value; a program that interrupts another on this CPU may lose one count.
        unsafe { (*counters)[counter as usize] += 1 };
    }
}

/// Reserves a record, lets `fill` write everything after the header, and sends it. A full ring is counted.
#[inline(always)]
pub fn send<T: 'static>(kind: u16, fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(Counter::LostRing);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: every record type starts with a Header (`records`), and the memory is reserved.
    unsafe {
        record.cast::<Header>().write(Header {
            kind,
            len: size_of::<T>() as u16,
            cpu: bpf_get_smp_processor_id(),
            time_ns: bpf_ktime_get_ns(),
        });
    }
    fill(record);
    entry.submit(0);
    count(Counter::Sent);
}

/// Whether a record of this flow and cause may be sent now; `Some(n)`: yes, and n were suppressed before it.
#[inline(always)]
pub fn permit(key: u32, now_ns: u64) -> Option<u32> {
    let bucket = LIMITS.get_ptr_mut(key & (BUCKETS - 1))?;
    let window = (now_ns >> WINDOW_SHIFT) as u32;
    // SAFETY: a per-CPU map value that the lookup returned; at worst an interrupting program bends one count.
    let bucket = unsafe { &mut *bucket };
    if bucket.key != key || bucket.window != window {
        let suppressed = if bucket.key == key { bucket.suppressed } else { 0 };
        *bucket = Bucket { key, window, sent: 1, suppressed: 0 };
        return Some(suppressed);
    }
    if bucket.sent >= BURST {
        bucket.suppressed += 1;
        return None;
    }
    bucket.sent += 1;
    let suppressed = bucket.suppressed;
    bucket.suppressed = 0;
    Some(suppressed)
}
