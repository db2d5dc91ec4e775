//! The kernel's BTF as far as aya needs it: the ids of tracepoints.
//!
//! To attach to a tracepoint, aya wants BTF and looks for one typedef by its name. Its reader keeps each of the
//! kernel's 100,000 types with all members: 40 ms and 25 MB, for twenty numbers that [`Btf`] has found already.

use super::btf::Btf;

/// Documentation/bpf/btf.rst
const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER_LEN: u32 = 24;
const TYPEDEF: u32 = 8 << 24;
const CONST: u32 = 10 << 24;

/// BTF in which these tracepoints' typedefs have the ids that the kernel gave them. All other types are place
/// holders.
pub fn tracepoints<'a>(
    btf: &Btf,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<aya::Btf, aya::BtfError> {
    let mut wanted: Vec<(u32, &str)> =
        names.into_iter().filter_map(|name| Some((btf.tracepoint_id(name)?, name))).collect();
    wanted.sort_unstable();
    wanted.dedup();
    aya::Btf::parse(&encode(&wanted), aya::Endianness::default())
}

/// `wanted`: sorted by id.
fn encode(wanted: &[(u32, &str)]) -> Vec<u8> {
    let last = wanted.last().map_or(0, |(id, _)| *id);
    let mut strings = vec![0];
    let mut types: Vec<u8> = Vec::with_capacity(12 * last as usize);
    let mut next = wanted.iter().peekable();
    for id in 1..=last {
        let (name, info) = match next.next_if(|(wanted, _)| *wanted == id) {
            Some((_, name)) => {
                let at = strings.len() as u32;
                strings.extend_from_slice(b"btf_trace_");
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                (at, TYPEDEF)
            }
            None => (0, CONST),
        };
        // Each refers to void.
        types.extend([name, info, 0].iter().flat_map(|word| word.to_ne_bytes()));
    }
    let sections = [0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let mut data = Vec::with_capacity(HEADER_LEN as usize + types.len() + strings.len());
    data.extend(MAGIC.to_ne_bytes());
    // No flags.
    data.extend([VERSION, 0]);
    data.extend(HEADER_LEN.to_ne_bytes());
    data.extend(sections.iter().flat_map(|word| word.to_ne_bytes()));
    data.extend(types);
    data.extend(strings);
    data
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn names_have_the_ids_that_were_asked_for() {
        let data = encode(&[(3, "kfree_skb"), (7, "sys_exit")]);
        let btf = aya::Btf::parse(&data, aya::Endianness::default()).unwrap();
        let id = |name: &str| btf.id_by_type_name_kind(name, BtfKind::Typedef).ok();
        assert_eq!(id("btf_trace_kfree_skb"), Some(3));
        assert_eq!(id("btf_trace_sys_exit"), Some(7));
        assert_eq!(id("btf_trace_unknown"), None);
        assert_eq!(Btf::from_bytes(data).unwrap().tracepoint_id("sys_exit"), Some(7));
    }

    #[test]
    fn the_kernel_s_own_ids() {
        let Ok(btf) = Btf::vmlinux() else { return };
        let Ok(whole) = aya::Btf::from_sys_fs() else { return };
        let short = tracepoints(&btf, ["kfree_skb", "sys_exit"]).unwrap();
        for name in ["btf_trace_kfree_skb", "btf_trace_sys_exit"] {
            let id = |btf: &aya::Btf| btf.id_by_type_name_kind(name, BtfKind::Typedef).ok();
            assert_eq!(id(&short), id(&whole));
        }
    }
}
