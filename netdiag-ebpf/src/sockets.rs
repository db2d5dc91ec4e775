//! The table of open sockets: [`SocketEntry`] by id of the socket ([`crate::kernel::sock::id`]).
//!
//! Every healthy connection pays for it, so it is no hash map. Look-ups in array maps are inlined by the kernel and
//! nothing is locked. An id has a set of [`WAYS`] places at home and as many away for when those are full; one
//! that finds both full gets no entry, which is counted. (Socket ids as keys would spare accepted sockets the
//! look-up at their end, but making one costs more than everything here.)
//!
//! Two CPUs that take the same free place in the same instant write over each other: a compare-and-swap needs 5.12
//! and a lock is not to be had. Each entry carries a checksum that ties it to its id, so that a mixed one is
//! never believed.

use core::hint::black_box;

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use netdiag_ebpf::counters::Counter;
use netdiag_ebpf::records::{Owner, SocketEntry, socket_flag};

use crate::maps::count;

/// Ids of a set: one cache line.
const WAYS: usize = 8;
/// log2 of the number of sets.
const SET_BITS: u32 = 14;
const SETS: u32 = 1 << SET_BITS;
/// BPF_F_MMAPABLE (5.5): not for its use, but because such values start at a page, so a set is one cache line.
const PAGE_ALIGNED: u32 = 1024;

#[map]
static SOCKET_IDS: Array<[u64; WAYS]> = Array::with_max_entries(SETS, PAGE_ALIGNED);

#[map]
static SOCKETS: Array<SocketEntry> = Array::with_max_entries(SETS * WAYS as u32, PAGE_ALIGNED);

/// 1 as soon as an entry is away from home.
#[map]
static SOCKETS_AWAY: Array<u32> = Array::with_max_entries(1, 0);

/// Where an entry is.
#[derive(Clone, Copy)]
pub struct Place {
    set: u32,
    way: u32,
}

impl Place {
    #[inline(always)]
    pub fn entry(self) -> Option<&'static mut SocketEntry> {
        // Opaque: the verifier would follow each of the sixteen places to the program's end.
        let index = black_box(self.set * WAYS as u32 + self.way);
        // SAFETY: a live map value.
        SOCKETS.get_ptr_mut(index).map(|entry| unsafe { &mut *entry })
    }

    /// Gives the place to an id; 0 frees it.
    #[inline(always)]
    pub fn give_to(self, id: u64) {
        if let Some(ids) = ids(self.set) {
            ids[black_box(self.way) as usize & (WAYS - 1)] = id;
        }
    }
}

/// The socket's place in the table.
#[inline(always)]
pub fn find(id: u64) -> Option<Place> {
    let hash = hash(id);
    if let Some(way) = way_of(ids(home(hash))?, id) {
        return Some(Place { set: home(hash), way });
    }
    if *overflowed()? == 0 {
        return None;
    }
    way_of(ids(away(hash))?, id).map(|way| Place { set: away(hash), way })
}

/// The socket's entry.
#[inline(always)]
pub fn get(id: u64) -> Option<&'static mut SocketEntry> {
    find(id)?.entry()
}

/// An entry for a socket that has none. `None`: there is no place for it, which is counted.
#[inline(always)]
pub fn claim(id: u64) -> Option<&'static mut SocketEntry> {
    let hash = hash(id);
    let place = if let Some(way) = way_of(ids(home(hash))?, 0) {
        Place { set: home(hash), way }
    } else if let Some(way) = way_of(ids(away(hash))?, 0) {
        *overflowed()? = 1;
        Place { set: away(hash), way }
    } else {
        count(Counter::LostSocket);
        return None;
    };
    place.give_to(id);
    let entry = place.entry()?;
    entry.flags = 0;
    Some(entry)
}

#[inline(always)]
fn home(hash: u64) -> u32 {
    (hash >> (64 - SET_BITS)) as u32
}

#[inline(always)]
fn away(hash: u64) -> u32 {
    (hash >> (64 - 2 * SET_BITS)) as u32 & (SETS - 1)
}

/// The golden ratio spreads them (Knuth, TAOCP 6.4).
#[inline(always)]
fn hash(id: u64) -> u64 {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Whether any entry ever was away from home; until then no look-up goes there.
#[inline(always)]
fn overflowed() -> Option<&'static mut u32> {
    // SAFETY: a live map value that is only ever set to 1.
    SOCKETS_AWAY.get_ptr_mut(0).map(|away| unsafe { &mut *away })
}

#[inline(always)]
fn ids(set: u32) -> Option<&'static mut [u64; WAYS]> {
    // SAFETY: a live map value; plain integers that other CPUs may change at any time.
    SOCKET_IDS.get_ptr_mut(set).map(|ids| unsafe { &mut *ids })
}

#[inline(always)]
fn way_of(ids: &[u64; WAYS], wanted: u64) -> Option<u32> {
    let mut way = 0;
    while way < WAYS {
        if ids[way] == wanted {
            return Some(way as u32);
        }
        way += 1;
    }
    None
}

/// Ties an entry to its socket, flags aside, which change.
#[inline(always)]
pub fn seal(id: u64, entry: &mut SocketEntry) {
    entry.check = checksum(id, entry);
}

/// Drops what an entry says of the owner if it was not written for this socket alone.
#[inline(always)]
pub fn verify(id: u64, entry: &mut SocketEntry) {
    if entry.check != checksum(id, entry) {
        entry.owner = Owner { netns: entry.owner.netns, ..Owner::default() };
        entry.flags &= !(socket_flag::FROM_START | socket_flag::OUTBOUND);
        seal(id, entry);
    }
}

#[inline(always)]
fn checksum(id: u64, entry: &SocketEntry) -> u64 {
    const WORDS: usize = core::mem::offset_of!(SocketEntry, check) / 8;
    let words = (&raw const *entry).cast::<u64>();
    let mut sum = id;
    let mut index = 0;
    while index < WORDS {
        // SAFETY: the entry is made of eight-byte words up to `check`, and aligned to them.
        sum ^= unsafe { words.add(index).read() };
        index += 1;
    }
    sum
}
