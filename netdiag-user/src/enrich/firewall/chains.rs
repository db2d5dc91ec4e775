//! Chains and tables as the kernel keeps them (include/net/netfilter/nf_tables.h).

use super::layout::Layout;
use super::rules::{MAX_NAME, Rule};
use crate::enrich::nf_tables::family;
use crate::probes::Snapshot;

/// Chains of one table that are looked at.
const MAX_CHAINS: usize = 10_000;
/// include/uapi/linux/netfilter/nf_tables.h
const NFT_CHAIN_BASE: u64 = 1;
/// include/uapi/linux/netfilter.h
const NF_DROP: u8 = 0;
const NF_ACCEPT: u8 = 1;

/// A table, confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: &'static str,
    pub(super) name: String,
    pub(super) handle: u64,
}

/// What a base chain adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) drops: bool,
    /// Hook number of the table's family.
    pub(super) hook: u32,
}

/// A chain, confirmed: it is in its table's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) address: u64,
    pub(super) name: String,
    pub(super) table: Table,
    pub(super) base: Option<Base>,
    table_address: u64,
    blobs: [Option<u64>; 2],
}

impl Layout {
    fn table(&self, memory: &mut Snapshot<'_>, address: u64) -> Option<Table> {
        let name = memory.pointer(address.checked_add(self.table_name)?)?;
        Some(Table {
            family: family(self.table_family.of(memory, address)?)?,
            name: memory.name(name, MAX_NAME)?,
            handle: memory.u64(address.checked_add(self.table_handle)?)?,
        })
    }

    /// The chain at this address, if that is one: it has names, and both its neighbours in its table's list know it.
    pub(super) fn chain(&self, memory: &mut Snapshot<'_>, address: u64) -> Option<Chain> {
        if !address.is_multiple_of(8) {
            return None;
        }
        let at = |offset: u64| address.checked_add(offset);
        let table_address = memory.pointer(at(self.chain_table)?)?;
        let link = at(self.chain_list)?;
        let (next, previous) = (memory.pointer(link)?, memory.pointer(link.checked_add(8)?)?);
        if memory.u64(previous)? != link || memory.u64(next.checked_add(8)?)? != link {
            return None;
        }
        let name = memory.pointer(at(self.chain_name)?)?;
        let name = memory.name(name, MAX_NAME)?;
        let table = self.table(memory, table_address)?;
        let blobs = self.chain_blobs.map(|offset| memory.pointer(at(offset)?));
        let is_base = self.chain_flags.of(memory, address)? & NFT_CHAIN_BASE != 0;
        let base =
            if is_base { Some(self.base(memory, address.checked_sub(self.base_chain)?)?) } else { None };
        Some(Chain { address, name, table, base, table_address, blobs })
    }

    fn base(&self, memory: &mut Snapshot<'_>, address: u64) -> Option<Base> {
        let drops = match memory.u8(address.checked_add(self.base_policy)?)? {
            NF_DROP => true,
            NF_ACCEPT => false,
            _ => return None,
        };
        Some(Base { drops, hook: memory.u32(address.checked_add(self.base_hook)?)? })
    }

    /// Whether `rule` is one of the chain's.
    pub(super) fn chain_has(&self, memory: &mut Snapshot<'_>, chain: &Chain, rule: Rule) -> bool {
        let mut blobs = chain.blobs.into_iter().flatten();
        blobs.any(|blob| self.blob_has(memory, blob, rule.address) == Some(true))
    }

    /// Whether packets of this namespace meet `rule` now; the rules of the generation before it are kept too. `None`:
    /// not known, or not its namespace.
    pub(super) fn is_current(
        &self,
        memory: &mut Snapshot<'_>,
        net: u64,
        inode: u32,
        chain: &Chain,
        rule: Rule,
    ) -> Option<bool> {
        if memory.u32(net.checked_add(self.net_inode)?)? != inode {
            return None;
        }
        let generation = memory.u8(net.checked_add(self.net_generation)?)?;
        let blob = *chain.blobs.get(usize::from(generation))?;
        self.blob_has(memory, blob?, rule.address)
    }

    /// Whether `address` is behind the last rule of the chain.
    pub(super) fn chain_ends_at(&self, memory: &mut Snapshot<'_>, chain: &Chain, address: u64) -> bool {
        let mut blobs = chain.blobs.into_iter().flatten();
        blobs.any(|blob| self.blob_bounds(memory, blob).is_some_and(|(_, end)| end == address))
    }

    /// The chain that the marker behind its last rule names, if this kernel writes it there.
    pub(super) fn chain_of_marker(&self, memory: &mut Snapshot<'_>, rule: Rule) -> Option<Chain> {
        let marker = self.end_of_blob(memory, rule)?;
        let chain = memory.pointer(marker.checked_add(self.last_chain?)?)?;
        self.chain(memory, chain)
    }

    /// The chain of `rule` among those of the same table as `known`.
    pub(super) fn chain_beside(&self, memory: &mut Snapshot<'_>, known: &Chain, rule: Rule) -> Option<Chain> {
        let head = known.table_address.checked_add(self.table_chains)?;
        let mut link = memory.pointer(head)?;
        for _ in 0..MAX_CHAINS {
            if link == head {
                break;
            }
            let chain = self.chain(memory, link.checked_sub(self.chain_list)?)?;
            if self.chain_has(memory, &chain, rule) {
                return Some(chain);
            }
            link = memory.pointer(link)?;
        }
        None
    }
}
