//! Where the fields of nftables' own structs are, from the running kernel's BTF.

use crate::kernel::btf::{Btf, BtfError, Field};
use crate::probes::Snapshot;

/// nftables as a module; its types are in the kernel's own BTF where it is built in.
const MODULE: &str = "nf_tables";

/// A field of less than a word, or one that does not begin at a byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits {
    /// Byte offset of the word that holds it.
    word: u64,
    shift: u32,
    mask: u64,
}

impl Bits {
    pub(super) fn new(field: Field) -> Option<Self> {
        let word = u64::from(field.bit_offset / 64 * 8);
        let shift = field.bit_offset % 64;
        let fits = (1..64).contains(&field.bit_size) && shift + field.bit_size <= 64;
        // Bits are counted from the other end on a big-endian machine.
        let shift =
            if cfg!(target_endian = "big") { 64u32.checked_sub(shift + field.bit_size)? } else { shift };
        fits.then(|| Self { word, shift, mask: (1 << field.bit_size) - 1 })
    }

    pub(super) fn of(self, memory: &mut Snapshot<'_>, base: u64) -> Option<u64> {
        Some(self.in_word(memory.u64(base.checked_add(self.word)?)?))
    }

    /// Its value, if `word` is the word that holds it.
    pub(super) fn in_word(self, word: u64) -> u64 {
        word >> self.shift & self.mask
    }
}

/// Byte offsets, but for what is [`Bits`].
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) rule_is_last: Bits,
    pub(super) rule_length: Bits,
    pub(super) rule_handle: Bits,
    pub(super) rule_data: u64,
    /// The marker behind the last rule names the chain (6.4).
    pub(super) last_chain: Option<u64>,
    pub(super) blob_size: u64,
    pub(super) blob_data: u64,
    pub(super) expression_data: u64,
    pub(super) ops_size: u64,
    pub(super) ops_type: u64,
    pub(super) type_name: u64,
    pub(super) immediate_code: u64,
    pub(super) immediate_register: u64,
    pub(super) lookup_register: Option<u64>,
    /// Whether the look-up is in a map.
    pub(super) lookup_has_register: Option<u64>,
    /// Rules of the two generations.
    pub(super) chain_blobs: [u64; 2],
    pub(super) chain_table: u64,
    pub(super) chain_name: u64,
    pub(super) chain_list: u64,
    pub(super) chain_flags: Bits,
    pub(super) base_chain: u64,
    pub(super) base_policy: u64,
    pub(super) base_hook: u64,
    pub(super) table_name: u64,
    pub(super) table_handle: u64,
    pub(super) table_family: Bits,
    pub(super) table_chains: u64,
    pub(super) net_inode: u64,
    /// Which generation of the rules a namespace's packets meet.
    pub(super) net_generation: u64,
}

impl Layout {
    /// # Errors
    /// [`BtfError`]: nftables is not loaded, or a kernel whose structs are others.
    pub(super) fn read(kernel: &Btf) -> Result<Self, BtfError> {
        // Built in, or the module's on top of the kernel's.
        let btf = kernel.module(MODULE).unwrap_or_else(|_| kernel.clone());
        let missing = |path: &str| BtfError::NotFound { what: format!("{path} as expected") };
        let at = |path: &str| {
            let offset = btf.field(path)?.byte_offset().ok_or_else(|| missing(path))?;
            Ok::<u64, BtfError>(offset.into())
        };
        let sized = |path: &str, size: u32| {
            let field = btf.field(path)?;
            let offset = field.byte_offset().filter(|_| field.byte_size() == Some(size));
            Ok::<u64, BtfError>(offset.ok_or_else(|| missing(path))?.into())
        };
        let bits = |path: &str| Bits::new(btf.field(path)?).ok_or_else(|| missing(path));
        Ok(Self {
            rule_is_last: bits("nft_rule_dp.is_last")?,
            rule_length: bits("nft_rule_dp.dlen")?,
            rule_handle: bits("nft_rule_dp.handle")?,
            rule_data: at("nft_rule_dp.data")?,
            last_chain: sized("nft_rule_dp_last.chain", 8).ok(),
            blob_size: sized("nft_rule_blob.size", 8)?,
            blob_data: at("nft_rule_blob.data")?,
            expression_data: at("nft_expr.data")?,
            ops_size: sized("nft_expr_ops.size", 4)?,
            ops_type: sized("nft_expr_ops.type", 8)?,
            type_name: sized("nft_expr_type.name", 8)?,
            immediate_code: sized("nft_immediate_expr.data.verdict.code", 4)?,
            immediate_register: sized("nft_immediate_expr.dreg", 1)?,
            lookup_register: sized("nft_lookup.dreg", 1).ok(),
            lookup_has_register: sized("nft_lookup.dreg_set", 1).ok(),
            chain_blobs: [sized("nft_chain.blob_gen_0", 8)?, sized("nft_chain.blob_gen_1", 8)?],
            chain_table: sized("nft_chain.table", 8)?,
            chain_name: sized("nft_chain.name", 8)?,
            chain_list: sized("nft_chain.list", 16)?,
            chain_flags: bits("nft_chain.flags")?,
            base_chain: at("nft_base_chain.chain")?,
            base_policy: sized("nft_base_chain.policy", 1)?,
            base_hook: sized("nft_base_chain.ops.hooknum", 4)?,
            table_name: sized("nft_table.name", 8)?,
            table_handle: sized("nft_table.handle", 8)?,
            table_family: bits("nft_table.family")?,
            table_chains: sized("nft_table.chains", 16)?,
            net_inode: sized("net.ns.inum", 4)?,
            net_generation: sized("net.nft.gencursor", 1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields_are_cut_out_of_their_word() {
        let handle = Bits::new(Field { bit_offset: 13, bit_size: 42 }).unwrap();
        // The bits above are garbage in the kernel.
        assert_eq!(handle.in_word(0xff80_0000_0000_0000 | 12 << 13 | 0x1fff), 12);
        assert!(Bits::new(Field { bit_offset: 60, bit_size: 8 }).is_none());
        assert!(Bits::new(Field { bit_offset: 0, bit_size: 0 }).is_none());
        let far = Bits::new(Field { bit_offset: 128 + 3, bit_size: 1 }).unwrap();
        assert_eq!((far.word, far.in_word(8)), (16, 1));
    }

    #[test]
    fn this_kernel_has_it_all() {
        let Ok(btf) = Btf::vmlinux() else { return };
        let Ok(layout) = Layout::read(&btf) else {
            println!("SKIP: nftables is not loaded");
            return;
        };
        assert!(layout.rule_data >= 8 && layout.chain_table != layout.chain_name, "{layout:?}");
    }
}
