//! The kernel's memory, read by the program `peek` page by page.
//!
//! What comes from there is hostile: see `probes/peek.rs`, which reads it.

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::{Program, RawTracePoint, RawTracePointRunOptions, TestRun};
use netdiag_ebpf::records::{PEEK_BYTES, PeekAnswer};

const WORDS: usize = size_of::<PeekAnswer>() / 8;

/// The map that answers come in.
pub(super) struct Peek(Array<MapData, [u64; WORDS]>);

impl Peek {
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self(Array::try_from(map)?))
    }

    /// `None` if that is not the program, or it is not loaded.
    pub(super) fn memory<'a>(&'a self, program: &'a Program) -> Option<Memory<'a>> {
        let program: &RawTracePoint = program.try_into().ok()?;
        program.fd().ok()?;
        Some(Memory { program, answer: &self.0 })
    }
}

/// Reads pages of the kernel's memory.
pub struct Memory<'a> {
    program: &'a RawTracePoint,
    answer: &'a Array<MapData, [u64; WORDS]>,
}

impl std::fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

/// One page.
pub type Page = [u8; PEEK_BYTES];

/// Where pages come from: the kernel, or a test.
pub trait Pages {
    /// The page that begins at `address`; `None` if there is none or it may not be read.
    fn page(&mut self, address: u64) -> Option<Box<Page>>;
}

impl Pages for Memory<'_> {
    fn page(&mut self, address: u64) -> Option<Box<Page>> {
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = address;
        self.program.test_run(options).ok()?;
        let [1, words @ ..] = self.answer.get(&0, 0).ok()? else { return None };
        let mut page = Box::new([0; PEEK_BYTES]);
        for (bytes, word) in page.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Some(page)
    }
}
