//! What maps hold. User space reads and writes some of them; none is sent.

use super::{Owner, Tuple};

/// What is kept per open socket: what could not be had later. One cache line.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketEntry {
    pub start_ns: u64,
    pub owner: Owner,
    /// Sum over the fields above and the socket's address.
    pub check: u64,
    /// Bits of [`super::socket_flag`].
    pub flags: u32,
    pub _pad: u32,
}

/// How many records with one key were sent, and how many not (per CPU, map `LIMITS`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitBucket {
    /// Flow and cause, hashed; the latest that came to this bucket.
    pub key: u32,
    pub window: u32,
    /// Records sent in this window, whatever their key.
    pub sent: u32,
    /// Records of `key` not sent since the last that was.
    pub suppressed: u32,
}

/// Drops of one reason (per CPU, map `DROP_TOTALS`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropTotal {
    pub all: u64,
    /// Those of them that are no IP packet, or cannot be read: there is no record of them.
    pub unparsed: u64,
}

/// What the program `peek` reads: one page, which is there as a whole or not at all.
pub const PEEK_BYTES: usize = 4096;

/// The answer of the program `peek`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeekAnswer {
    /// 1 if the page could be read.
    pub read: u64,
    pub bytes: [u8; PEEK_BYTES],
}

/// A remote end, or a flow to it, whose packets the programs of probe `wire` may send: key of the map `INTEREST`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Interest {
    pub address: [u8; 16],
    pub port: u16,
    pub family: u16,
    /// The port of this machine's end; 0 for any.
    pub local_port: u16,
    pub _pad: u16,
}

/// Entries of the map of that name: closes of this machine between two looks of user space.
pub const TIME_WAIT_OWNERS: u32 = 65536;

/// What a socket in TIME_WAIT is found by; source is the local end.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TimeWaitKey {
    pub tuple: Tuple,
    pub netns: u32,
    pub _pad: u32,
}

/// Who closed a connection first.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeWaitOwner {
    pub closed_ns: u64,
    pub owner: Owner,
    /// Bits of [`time_wait_flag`].
    pub flags: u32,
    pub _pad: u32,
}

/// Bits of [`TimeWaitOwner::flags`].
pub mod time_wait_flag {
    /// A thread of the kernel closed it: for the kernel itself, or for a process that is not known.
    pub const KERNEL_THREAD: u32 = 1;
}

/// Where somebody listened.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LastListenerKey {
    pub address: [u8; 16],
    pub netns: u32,
    pub family: u16,
    pub port: u16,
}

/// Who listened there last.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastListener {
    /// 0: before the program was attached, or not known.
    pub since_ns: u64,
    pub until_ns: u64,
    /// Who held the socket last; all zero where that is not known.
    pub owner: Owner,
}

sizes! {
    SocketEntry = 64;
    PeekAnswer = 8 + PEEK_BYTES;
    LimitBucket = 16;
    DropTotal = 16;
    Interest = 24;
    TimeWaitKey = 48;
    TimeWaitOwner = 56;
    LastListenerKey = 24;
    LastListener = 56;
}
