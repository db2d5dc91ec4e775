//! A kernel of a few pages, with chains and rules at places that tests choose.

use std::collections::BTreeMap;

use super::layout::{Bits, Layout};
use crate::kernel::btf::Field;
use crate::kernel::peek::{Page, Pages};

/// Where things are; far enough from each other.
pub(super) const BASE: u64 = 0xffff_8881_0000_0000;
pub(super) const TABLE: u64 = BASE + 0x10_0000;
pub(super) const NET: u64 = BASE + 0x20_0000;
pub(super) const INODE: u32 = 4_026_532_000;
const TYPES: u64 = BASE + 0x30_0000;
const NAMES: u64 = BASE + 0x40_0000;

pub(super) fn layout() -> Layout {
    let bits = |bit_offset, bit_size| Bits::new(Field { bit_offset, bit_size }).unwrap();
    Layout {
        rule_is_last: bits(0, 1),
        rule_length: bits(1, 12),
        rule_handle: bits(13, 42),
        rule_data: 8,
        last_chain: Some(32),
        blob_size: 0,
        blob_data: 8,
        expression_data: 8,
        ops_size: 16,
        ops_type: 112,
        type_name: 48,
        immediate_code: 0,
        immediate_register: 16,
        lookup_register: Some(9),
        lookup_has_register: Some(10),
        chain_blobs: [0, 8],
        chain_table: 64,
        chain_name: 88,
        chain_list: 32,
        chain_flags: bits(80 * 8 + 32, 5),
        base_chain: 112,
        base_policy: 96,
        base_hook: 60,
        table_name: 384,
        table_handle: 360,
        table_family: bits(368 * 8 + 32, 6),
        table_chains: 152,
        net_inode: 176,
        net_generation: 500,
    }
}

/// Memory by words.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    words: BTreeMap<u64, u64>,
    names: u64,
    last_link: u64,
}

/// An expression: the name of its type and its data.
pub(super) type Expression = (&'static str, Vec<u64>);

/// `drop`, or another verdict.
pub(super) fn immediate(code: i32) -> Expression {
    ("immediate", vec![u64::from(code as u32), 0, 0])
}

/// A look-up in a verdict map.
pub(super) fn vmap() -> Expression {
    ("lookup", vec![BASE, 0x0001_0008, 0])
}

pub(super) fn cmp() -> Expression {
    ("cmp", vec![8080, 0])
}

/// Where a rule and its expressions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) rule: u64,
    pub(super) expressions: Vec<u64>,
}

impl Kernel {
    /// A namespace whose packets meet rules of generation 0, and the table `inet fw`.
    pub(super) fn new() -> Self {
        let mut kernel = Self::default();
        kernel.set(NET + 176, u64::from(INODE));
        kernel.set(NET + 496, 0);
        let name = kernel.name("fw");
        kernel.set(TABLE + 384, name);
        kernel.set(TABLE + 360, 7);
        kernel.set(TABLE + 368, 1 << 32);
        kernel.set(TABLE + 152, TABLE + 152);
        kernel.set(TABLE + 160, TABLE + 152);
        kernel.last_link = TABLE + 152;
        kernel
    }

    pub(super) fn set(&mut self, address: u64, word: u64) {
        assert_eq!(address % 8, 0);
        self.words.insert(address, word);
    }

    fn name(&mut self, text: &str) -> u64 {
        let at = NAMES + self.names;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize((text.len() / 8 + 1) * 8, 0);
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            self.set(at + index as u64 * 8, u64::from_ne_bytes(word.try_into().unwrap()));
        }
        self.names += bytes.len() as u64;
        at
    }

    /// A chain at an address, with its rules in a blob behind; `policy` makes it a base chain at the output hook.
    pub(super) fn chain(
        &mut self,
        address: u64,
        name: &str,
        policy: Option<u8>,
        rules: &[(u64, Vec<Expression>)],
    ) -> Vec<At> {
        let name = self.name(name);
        let link = address + 32;
        self.set(link, TABLE + 152);
        self.set(link + 8, self.last_link);
        self.set(self.last_link, link);
        self.set(TABLE + 160, link);
        self.last_link = link;
        self.set(address + 64, TABLE);
        self.set(address + 88, name);
        self.set(address + 80, if policy.is_some() { 1 << 32 } else { 0 });
        if let Some(policy) = policy {
            self.set(address - 112 + 96, u64::from(policy));
            self.set(address - 112 + 56, 3 << 32);
        }
        let blob = address + 0x1000;
        self.set(address, blob);
        self.set(address + 8, 0);
        self.blob(blob, address, rules)
    }

    /// Where the marker behind the last rule of a chain is.
    pub(super) fn end_of(&self, chain: u64) -> u64 {
        let blob = self.words[&chain];
        blob + 8 + self.words[&blob]
    }

    fn blob(&mut self, blob: u64, chain: u64, rules: &[(u64, Vec<Expression>)]) -> Vec<At> {
        let mut at = blob + 8;
        let mut places = Vec::new();
        for (handle, expressions) in rules {
            let rule = at;
            let length: u64 = expressions.iter().map(|(_, data)| 8 + 8 * data.len() as u64).sum();
            // The bits above the handle are whatever was there.
            self.set(rule, 0xff80_0000_0000_0000 | handle << 13 | length << 1);
            at += 8;
            let mut starts = Vec::new();
            for (kind, data) in expressions {
                starts.push(at);
                let ops = self.ops(kind, 8 + 8 * data.len() as u64);
                self.set(at, ops);
                at += 8;
                for word in data {
                    self.set(at, *word);
                    at += 8;
                }
            }
            places.push(At { rule, expressions: starts });
        }
        self.set(blob, at - blob - 8);
        self.set(at, 1);
        self.set(at + 24, blob);
        self.set(at + 32, chain);
        places
    }

    fn ops(&mut self, name: &str, size: u64) -> u64 {
        let at = TYPES + self.names * 0x100;
        let text = self.name(name);
        self.set(at + 16, size);
        self.set(at + 112, at + 0x80);
        self.set(at + 0x80 + 48, text);
        at
    }
}

impl Pages for Kernel {
    fn page(&mut self, address: u64) -> Option<Box<Page>> {
        let mut page: Box<Page> = Box::new([0; 4096]);
        let mut is_there = false;
        for (at, word) in self.words.range(address..=address + 4095) {
            is_there = true;
            let offset = (at - address) as usize;
            page[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
        }
        is_there.then_some(page)
    }
}
