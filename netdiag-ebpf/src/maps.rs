//! Maps, read-only globals and the one way to send a record.

use core::hint::black_box;
use core::ptr::{addr_of, read_volatile};

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use netdiag_ebpf::config::{DROP_REASONS, DROP_SEND, ERRNO_WORDS, PLACES, Places};
use netdiag_ebpf::counters::{COUNTER_COUNT, Counter};
use netdiag_ebpf::fields::{ABSENT, FIELD_COUNT, Field};
use netdiag_ebpf::records::call::CALLS;
use netdiag_ebpf::records::{Header, Interest, Owner, PacketInfo, PeekAnswer, Timeline, Tuple};

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

/// Time of the last insert into [`INTEREST`]: spares a flood of drops the look-up.
#[map]
static INTEREST_LAST: Array<u64> = Array::with_max_entries(1, 0);

/// How long a connection may want packets after its last insert.
const INTEREST_NS: u64 = 180_000_000_000;

#[map]
pub static COUNTERS: PerCpuArray<[u64; COUNTER_COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// Functions whose drops without a reason are told, where user space knows of something there that drops.
#[map]
static DROP_PLACES: Array<Places> = Array::with_max_entries(1, 0);

/// Working memory of probe `wire`, which would not fit the 512 bytes of stack; one for each direction.
#[map]
pub static WIRE_SCRATCH: PerCpuArray<WireScratch> = PerCpuArray::with_max_entries(2, 0);

/// What the program `peek` read last.
#[map]
pub static PEEKED: Array<PeekAnswer> = Array::with_max_entries(1, 0);

/// Working memory for a packet and the one that it quotes, of each user of [`Scratch`].
#[map]
static PACKET_SCRATCH: PerCpuArray<[PacketInfo; 2]> = PerCpuArray::with_max_entries(3, 0);

/// Who uses the working memory; none of them interrupts itself.
#[derive(Clone, Copy)]
pub enum Scratch {
    IcmpReceived = 0,
    DeviceIngress = 1,
    DeviceEgress = 2,
}

/// Two empty packets.
#[inline(always)]
pub fn packet_scratch(user: Scratch) -> Option<&'static mut [PacketInfo; 2]> {
    // SAFETY: a live per-CPU map value of this user alone.
    let packets = unsafe { &mut *PACKET_SCRATCH.get_ptr_mut(user as u32)? };
    packets[0] = PacketInfo::default();
    packets[1] = PacketInfo::default();
    Some(packets)
}

/// Network namespaces whose packets the tracepoints of probe `wire` may send, by inode number.
#[map]
pub static WATCHED_NETNS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct WireScratch {
    pub packet: PacketInfo,
    pub quoted: Tuple,
}

/// Packets of this remote end, or of one flow, matter from now on.
#[inline(always)]
pub fn take_interest(interest: Interest) {
    // A failed insert costs wire evidence only, and the LRU map makes room by itself.
    let _ = INTEREST.insert(interest, 1, 0);
    if let Some(last) = INTEREST_LAST.get_ptr_mut(0) {
        // SAFETY: a live map value; any recent time will do.
        unsafe { *last = bpf_ktime_get_ns() };
    }
}

/// Whether any packet matters.
#[inline(always)]
pub fn is_any_interest() -> bool {
    // SAFETY: a live map value.
    let last = INTEREST_LAST.get_ptr(0).map_or(0, |last| unsafe { *last });
    // SAFETY: no arguments.
    last != 0 && unsafe { bpf_ktime_get_ns() }.wrapping_sub(last) < INTEREST_NS
}

/// Whether packets of this flow, or of this remote end, matter.
#[inline(always)]
pub fn is_interesting(family: u16, address: &[u8; 16], port: u16, local_port: u16) -> bool {
    let mut key = Interest { address: *address, port, family, local_port, _pad: 0 };
    if INTEREST.get_ptr(key).is_some() {
        return true;
    }
    key.local_port = 0;
    INTEREST.get_ptr(key).is_some()
}

/// NAT made other ends of those that the socket has (`asked`): if packets of the one flow matter, those of the other do
/// from now on. Returns whether they do.
#[inline(always)]
pub fn follow_translated(asked: &Tuple, packet: &Tuple) -> bool {
    let of_any =
        Interest { address: asked.daddr, port: asked.dport, family: asked.family, local_port: 0, _pad: 0 };
    let local_port = match INTEREST.get_ptr(of_any).is_some() {
        true => 0,
        false if INTEREST.get_ptr(Interest { local_port: asked.sport, ..of_any }).is_some() => packet.sport,
        false => return false,
    };
    take_interest(Interest { address: packet.daddr, port: packet.dport, local_port, ..of_any });
    true
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

/// The address of a read-only global, the same in all programs.
#[inline(always)]
pub fn origin() -> *const u32 {
    addr_of!(CONFIG)
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

/// Whether this address is in one of the places that user space asked about.
#[inline(always)]
pub fn is_asked_place(address: u64) -> bool {
    let Some(places) = DROP_PLACES.get_ptr(0) else { return false };
    let mut index = 0;
    while index < PLACES {
        // SAFETY: a live map value, in bounds; half of an update asks about nothing that could do harm.
        let [from, to] = unsafe { (*places)[index] };
        if to == 0 {
            return false;
        }
        if from <= address && address < to {
            return true;
        }
        index += 1;
    }
    false
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
