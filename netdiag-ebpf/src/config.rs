//! Read-only settings that user space writes into the frozen `.rodata` global `CONFIG` before load.

/// Follow the processes in the map `TRACKED`, and record their connections from the start (`run`).
pub const FLAG_TRACK_PROCESSES: u32 = 1;
/// Record every connection from the start and send it when it ends (`watch --all`).
pub const FLAG_ALL: u32 = 2;
/// `tcp_send_reset` has the argument `reason` (6.10).
pub const FLAG_RESET_REASON: u32 = 4;

/// Count every drop by its reason in the map `DROP_TOTALS` (`drops`).
pub const FLAG_COUNT_DROPS: u32 = 8;

/// Note in the map `TIME_WAIT_OWNERS` who closes first (`timewait` has the program `time_wait` for it), and in
/// `LAST_LISTENERS` who listened last (`agent`).
pub const FLAG_OWNERS: u32 = 16;

/// Keep the map `HISTOGRAMS` (`agent`).
pub const FLAG_LATENCY: u32 = 32;

/// Buckets that limit the rate of records, each for keys that are equal modulo this number. A power of two.
pub const LIMIT_BUCKETS: u32 = 4096;

/// Drop reasons below this number are looked up in `DROP_ACTION`; any other is [`DROP_SEND`].
pub const DROP_REASONS: usize = 256;
/// The reason is no loss: count it only.
pub const DROP_IGNORE: u8 = 0;
/// Send a record.
pub const DROP_SEND: u8 = 1;
/// Send a record with the kernel stack: it names the netfilter hook.
pub const DROP_SEND_STACK: u8 = 2;
/// Send a record with the kernel stack and the memory of its frames: they name the rule.
pub const DROP_SEND_FRAMES: u8 = 3;

/// There is no reason: send a record if it happened in one of the places in map `DROP_PLACES`.
pub const DROP_BY_PLACE: u8 = 4;

/// Places that may be asked about.
pub const PLACES: usize = 6;
/// From the first address of a place to behind the last; zero to the end.
pub type Places = [[u64; 2]; PLACES];

/// A power of two. System-call errors are sent when their bit is set: `ERRNO_MASK[errno / 64] >> (errno % 64) & 1`.
pub const ERRNO_WORDS: usize = 4;
