//! The kernel's memory is hostile: it may have been freed, may change while it is read, and may say anything. Nothing
//! here believes it; a read gives bytes or nothing.

use std::collections::HashMap;

use netdiag_ebpf::records::PEEK_BYTES;

use crate::kernel::peek::{Page, Pages};

const PAGE: u64 = PEEK_BYTES as u64;

/// The kernel's memory as it was when each page was first asked for. Bounded: past `limit` pages, or as many reads as
/// those have words, nothing can be read.
pub struct Snapshot<'a> {
    source: &'a mut dyn Pages,
    pages: HashMap<u64, Option<Box<Page>>>,
    limit: usize,
    reads: usize,
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot of {} pages", self.pages.len())
    }
}

impl<'a> Snapshot<'a> {
    pub fn new(source: &'a mut dyn Pages, limit: usize) -> Self {
        Self { source, pages: HashMap::new(), limit, reads: limit * PEEK_BYTES / 8 }
    }

    /// Whether an address can be one of the kernel's: the upper half, on all 64-bit machines that matter.
    pub fn is_kernel(address: u64) -> bool {
        address >> 63 == 1
    }

    /// Fills `into` from `address` on.
    fn copy(&mut self, address: u64, into: &mut [u8]) -> Option<()> {
        self.reads = self.reads.checked_sub(1)?;
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let offset = (at % PAGE) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(PEEK_BYTES - offset));
            now.copy_from_slice(self.page(at - at % PAGE)?.get(offset..offset + now.len())?);
            at = at.checked_add(now.len() as u64)?;
            rest = later;
        }
        Some(())
    }

    fn page(&mut self, start: u64) -> Option<&Page> {
        if !Self::is_kernel(start) {
            return None;
        }
        if !self.pages.contains_key(&start) {
            if self.pages.len() >= self.limit {
                return None;
            }
            let page = self.source.page(start);
            self.pages.insert(start, page);
        }
        self.pages.get(&start)?.as_deref()
    }

    pub fn u8(&mut self, address: u64) -> Option<u8> {
        let mut bytes = [0];
        self.copy(address, &mut bytes)?;
        Some(bytes[0])
    }

    pub fn u32(&mut self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.copy(address, &mut bytes)?;
        Some(u32::from_ne_bytes(bytes))
    }

    pub fn u64(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.copy(address, &mut bytes)?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A pointer to something of the kernel's; `None` for null and anything else.
    pub fn pointer(&mut self, address: u64) -> Option<u64> {
        self.u64(address).filter(|pointer| Self::is_kernel(*pointer))
    }

    /// The name that ends in NUL at `address`: printable ASCII without space, at least one and at most `most`
    /// characters.
    pub fn name(&mut self, address: u64, most: usize) -> Option<String> {
        let mut name = String::new();
        for offset in 0..=most as u64 {
            match self.u8(address.checked_add(offset)?)? {
                0 if name.is_empty() => return None,
                0 => return Some(name),
                byte if byte.is_ascii_graphic() => name.push(char::from(byte)),
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0xffff_8880_0000_0000;

    /// Two pages, and nothing behind them.
    struct Two;

    impl Pages for Two {
        fn page(&mut self, address: u64) -> Option<Box<Page>> {
            let byte = ((address - START) / PAGE) as u8;
            (byte < 2).then(|| Box::new([b'a' + byte; PEEK_BYTES]))
        }
    }

    #[test]
    fn reads_cross_pages_and_end_where_there_is_nothing() {
        let mut source = Two;
        let mut memory = Snapshot::new(&mut source, 10);
        assert_eq!(memory.u64(START + PAGE - 4), Some(u64::from_ne_bytes(*b"aaaabbbb")));
        assert_eq!(memory.u64(START + 2 * PAGE - 4), None);
        assert_eq!(memory.u8(START + 2 * PAGE - 1), Some(b'b'));
        assert_eq!(memory.u8(u64::MAX), None);
        assert_eq!(memory.u64(u64::MAX - 3), None);
        assert_eq!(memory.u64(0x1000), None, "user space");
        assert_eq!(memory.pointer(START), None, "text is no pointer");
        assert_eq!(memory.name(START, 16), None, "without an end");
    }

    #[test]
    fn no_more_pages_than_allowed() {
        let mut source = Two;
        let mut memory = Snapshot::new(&mut source, 1);
        assert_eq!(memory.u8(START), Some(b'a'));
        assert_eq!(memory.u8(START + PAGE), None);
        assert_eq!((0..1000).filter_map(|_| memory.u8(START)).count(), 512 - 2);
    }
}
