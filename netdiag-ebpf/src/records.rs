//! Records that cross from the kernel to user space.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`). Addresses are in network byte order, an
//! IPv4 address in the first four bytes and the rest zero. Ports are in host byte order. Paddings are written
//! as zero.

use core::net::IpAddr;

macro_rules! sizes {
    ($($t:ty = $n:expr;)*) => { $(const _: () = assert!(size_of::<$t>() == $n);)* };
}

mod connection;
mod map;
mod packet;

pub use connection::*;
pub use map::*;
pub use packet::*;

/// An address as records have it.
pub const fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Values of [`Header::kind`].
pub mod kind {
    pub const CONNECTION: u16 = 1;
    pub const SUSPECT: u16 = 2;
    pub const DROP: u16 = 3;
    pub const RESULT: u16 = 4;
    pub const ROUTE: u16 = 5;
    pub const NEIGHBOUR: u16 = 6;
    pub const ICMP_SENT: u16 = 7;
    pub const RESET_SENT: u16 = 8;
    pub const WIRE: u16 = 9;
    pub const ERROR: u16 = 10;
    pub const EXEC: u16 = 11;
    pub const SYN_ACK_AGAIN: u16 = 12;
    pub const OVERFLOW: u16 = 13;
    pub const DROP_WITH_FRAMES: u16 = 14;
}

/// First part of every record.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// A value of [`kind`].
    pub kind: u16,
    /// Length of the whole record in bytes.
    pub len: u16,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// When it was written.
    pub time_ns: u64,
}

/// The two ends as the socket or packet names them. Aligned, so that programs compare and copy words.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// `AF_INET` or `AF_INET6`; 0 where unknown.
    pub family: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Source port, or local port of a socket.
    pub sport: u16,
    /// Destination port, or peer's port of a socket.
    pub dport: u16,
    /// Source address, or local address of a socket.
    pub saddr: [u8; 16],
    /// Destination address, or peer's address of a socket.
    pub daddr: [u8; 16],
}

/// A process, taken where process context is certain.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// Process id (thread group id) in the initial pid namespace; 0 where unknown.
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Inode number of its network namespace; 0 where unknown.
    pub netns: u32,
    pub cgroup: u64,
    /// NUL-padded name of the thread.
    pub comm: [u8; 16],
}

/// A followed process runs a program in a network namespace other than netdiag's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecRecord {
    pub header: Header,
    pub owner: Owner,
}

sizes! {
    Header = 16;
    Tuple = 40;
    Owner = 40;
    ExecRecord = 56;
}
